"""One forward pass of the image tower that gives everything internals are read from.

Attention rows are computed from the hooked queries and keys for the CLS query alone, so the model runs under
sdpa and no (1+P) x (1+P) map is built; the rows are differentiable and equal those of eager attention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPModel

from clipdrift.shapes import Embedding, Images, Logits, Rows, States


@dataclass(frozen=True)
class Traced:
    """What one forward pass left behind.

    Attributes:
        embedding: (B, E) projected image embedding, not normalised.
        states: (L, B, D) CLS state after each block 1..L, before the final layer norm.
        pooled: (B, D) the last state after the final layer norm, before the projection.
        logits: (B, C) of the head, where one was given.
        rows: (L, B, H, 1+P) post-softmax attention of the CLS query in float32, CLS first, where asked for.
    """

    embedding: Embedding
    states: States
    pooled: Tensor
    logits: Logits | None = None
    rows: Rows | None = None


def blocks_of(model: CLIPModel) -> nn.ModuleList:
    """The image tower's blocks, first to last."""
    blocks = model.vision_model.encoder.layers
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def trace(model: CLIPModel, images: Images, head: nn.Module | None = None, rows: bool = False) -> Traced:
    """Run the image tower once on normalised ``images`` (B, 3, S, S).

    Gradients flow through everything returned unless the caller switches them off. All hooks are removed
    before returning, also when the forward pass fails.
    """
    states: list[Tensor] = []
    queries: list[Tensor] = []
    keys: list[Tensor] = []
    handles = []
    try:
        for block in blocks_of(model):
            handles.append(block.register_forward_hook(_keep_cls(states)))
            if rows:
                attention: Any = block.self_attn
                handles.append(attention.q_proj.register_forward_hook(_keep_cls(queries)))
                handles.append(attention.k_proj.register_forward_hook(_keep(keys)))
        pooled = model.vision_model(pixel_values=images).pooler_output
    finally:
        for handle in handles:
            handle.remove()
    embedding = model.visual_projection(pooled)
    heads = model.config.vision_config.num_attention_heads
    attended = [_cls_row(q, k, heads) for q, k in zip(queries, keys, strict=True)]
    return Traced(
        embedding=embedding,
        states=torch.stack(states),
        pooled=pooled,
        logits=None if head is None else head(embedding),
        rows=torch.stack(attended) if rows else None,
    )


Hook = Callable[[nn.Module, tuple[object, ...], object], None]


def _tensor(output: object) -> Tensor:
    # encoder layers return a tensor in transformers 5.x, a one-element tuple in some of its releases
    first = output[0] if isinstance(output, tuple) else output
    assert isinstance(first, Tensor)
    return first


def _keep(store: list[Tensor]) -> Hook:
    def hook(_module: nn.Module, _inputs: tuple[object, ...], output: object) -> None:
        store.append(_tensor(output))

    return hook


def _keep_cls(store: list[Tensor]) -> Hook:
    def hook(_module: nn.Module, _inputs: tuple[object, ...], output: object) -> None:
        store.append(_tensor(output)[:, 0])

    return hook


def _cls_row(query: Tensor, keys: Tensor, heads: int) -> Tensor:
    """Attention of the CLS query: query (B, D), keys (B, 1+P, D) -> (B, H, 1+P), in float32."""
    width = query.shape[-1] // heads
    with torch.autocast(query.device.type, enabled=False):  # autocast would lower the product again
        q = query.float().unflatten(-1, (heads, width))
        k = keys.float().unflatten(-1, (heads, width))
        scores = torch.einsum("bhd,bphd->bhp", q, k) * width**-0.5
        return scores.softmax(-1)
