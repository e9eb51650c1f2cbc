"""What measures are held against: transformers' eager maps, and each definition as a loop in float64."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

Array = NDArray[np.float64]

STUB = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
TEXT = {**STUB, "vocab_size": 10, "bos_token_id": 8, "eos_token_id": 9, "pad_token_id": 9}
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def make_siglip() -> SiglipModel:
    """Tiny and random: 2 blocks, 2 heads, width 32, 16 px, patch 4; uneven attention; a stub for texts."""
    torch.manual_seed(0)
    vision = {**SMALL, "image_size": 16, "patch_size": 4}
    model = SiglipModel(SiglipConfig(text_config=TEXT, vision_config=vision)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 1.5 * parameter[0].numel() ** -0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)
    return model


def make_b32() -> CLIPModel:
    """A random image tower of ViT-B/32's shape with attention as uneven as after training."""
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=TEXT, vision_config={}, projection_dim=512)).eval()
    with torch.no_grad():
        for block in model.vision_model.encoder.layers:
            block.self_attn.q_proj.weight.mul_(4)
            block.self_attn.k_proj.weight.mul_(4)
    return model


@dataclass(frozen=True, eq=False)
class Eager:
    """What transformers itself gives.

    Attributes:
        maps: (L, N, H, T, T) attention of every block.
        hidden: (L, N, T, D) tokens after every block.
        embedding: (N, E).
        reader: (N, H, P) attention of the pooling head; None in a tower with a class token.
    """

    maps: Array
    hidden: Array
    embedding: Array
    reader: Array | None = None

    @property
    def cls(self) -> Array:
        """(L, N, H, P) from the class token to the patches, or from the pooling head's query, L = 1."""
        return self.maps[..., 0, 1:] if self.reader is None else self.reader[None]


@torch.no_grad()
def eager(model: Any, images: Tensor) -> Eager:
    """Of a CLIPModel or SiglipModel."""
    other = copy.deepcopy(model).eval()
    other.set_attn_implementation("eager")
    out = other.vision_model(pixel_values=images, output_attentions=True, output_hidden_states=True)
    reader = None
    if isinstance(other, CLIPModel):
        embedding = other.visual_projection(out.pooler_output)
    else:
        embedding, head, tokens = out.pooler_output, other.vision_model.head, out.last_hidden_state
        probe = head.probe.expand(len(images), -1, -1)
        _, found = head.attention(probe, tokens, tokens, need_weights=True, average_attn_weights=False)
        reader = found[:, :, 0].double().numpy()
    blocks = len(out.attentions)
    return Eager(
        maps=torch.stack(out.attentions).double().numpy(),
        hidden=torch.stack(out.hidden_states[1 : blocks + 1]).double().numpy(),
        embedding=embedding.double().numpy(),
        reader=reader,
    )


# --- one row over the patches


def loop_nats(row: Array) -> float:
    shares = (row / row.sum()).tolist()
    return -sum(a * math.log(a) for a in shares if a > 0)


def loop_bits(row: Array) -> float:
    shares = (row / row.sum()).tolist()
    return -sum(a * math.log2(a) for a in shares if a > 0)


def loop_erf(row: Array, mass: float = 0.95) -> float:
    held, count = 0.0, 0
    for value in sorted(row / row.sum(), reverse=True):
        held, count = held + value, count + 1
        if held >= mass - 1e-12:
            break
    return count / len(row)


def loop_gini(row: Array) -> float:
    """Mean absolute difference over twice the mean."""
    return float(np.abs(row[:, None] - row).mean() / (2 * row.mean()))


def loop_sink(row: Array) -> float:
    return max(row) / sum(row)


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def loop_unlike(heads: Array, head: int) -> float:
    """One minus the mean cosine of one head (H, P) with the others."""
    return 1 - float(np.mean([cosine(heads[head], other) for i, other in enumerate(heads) if i != head]))


def loop_diversity(heads: Array) -> float:
    """One minus the mean cosine of all pairs of heads (H, P)."""
    return 1 - float(np.mean([cosine(heads[i], heads[j]) for i in range(len(heads)) for j in range(i)]))


# --- whole maps of one image


def loop_rollout(maps: Array, reader: Array | None = None) -> Array:
    """(P,) of one image's maps (L, H, T, T): forward from the first block, later blocks on the left."""
    tokens = maps.shape[-1]
    rolled = np.eye(tokens)
    for block in maps:
        rolled = (0.5 * sum(block) / len(block) + 0.5 * np.eye(tokens)) @ rolled
    row = rolled[0, 1:] if reader is None else (sum(reader) / len(reader)) @ rolled
    return row / row.sum()


def loop_patch_bits(maps: Array, class_token: bool = True) -> float:
    """Mean entropy of the patches' rows of one image and block, (H, T, T)."""
    first = int(class_token)
    return float(np.mean([loop_bits(row[first:]) for head in maps for row in head[first:]]))


# --- representations of the same images


def numpy_hsic(x: Array, y: Array) -> float:
    """Unbiased, of the Gram matrices with zero diagonals (Song et al. 2012, eq. 5)."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    middle = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k @ m).sum() / (n - 2)
    return float(((k * m).sum() + middle) / (n * (n - 3)))


def numpy_cka(x: Array, y: Array) -> float:
    return numpy_hsic(x, y) / math.sqrt(numpy_hsic(x, x) * numpy_hsic(y, y))


def numpy_biased_cka(x: Array, y: Array) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    norm = np.linalg.norm
    return float(norm(x.T @ y) ** 2 / (norm(x.T @ x) * norm(y.T @ y)))
