"""What the numbers of a comparison ought to be, in plain numpy; and all numbers of one, by their place."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipdrift.comparison import Comparison
from small_runs import numbers

Array = NDArray[np.float64]


def readings(found: Comparison) -> dict[str, float]:
    """Every number that comes from models and images; what else is in a comparison are names and times."""
    wanted = {"measures", "cka_matrix", "heads", "spectra", "transfer", "retrieval", "subsets"}
    return numbers(found.model_dump(include=wanted))


def apart(one: Comparison, other: Comparison) -> dict[str, float]:
    """How far two comparisons lie apart, place by place; drifts, which are percents, as fractions."""
    left, right = readings(one), readings(other)
    assert left.keys() == right.keys()
    return {
        place: abs(value - right[place]) / (100 if ".drift" in place else 1) for place, value in left.items()
    }


def worst(one: Comparison, other: Comparison) -> float:
    """The largest of them."""
    return max(apart(one, other).values())


def entropy(rows: Array) -> Array:
    """In nats, over the last axis; rows need not be normalised."""
    a = rows / rows.sum(-1, keepdims=True)
    return -np.where(a > 0, a * np.log(np.where(a > 0, a, 1)), 0).sum(-1)


def field(rows: Array, mass: float) -> Array:
    """Share of patches that hold ``mass``; row by row, as one would count it."""

    def one(row: Array) -> float:
        left = np.sort(row / row.sum())[::-1]
        total, count = 0.0, 0
        while total < mass - 1e-12:
            total += left[count]
            count += 1
        return count / len(row)

    return np.apply_along_axis(one, -1, rows)


def gini(rows: Array) -> Array:
    """Mean absolute difference of all pairs, over twice the mean."""
    count = rows.shape[-1]
    pairs = np.abs(rows[..., :, None] - rows[..., None, :]).sum((-1, -2))
    return pairs / (2 * count * rows.sum(-1))


def diversity(rows: Array) -> Array:
    """(..., H, P) -> (...): one minus the mean cosine over pairs of heads."""
    heads = rows.shape[-2]
    unit = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    pairs = [(i, j) for i in range(heads) for j in range(i)]
    return 1 - np.mean([(unit[..., i, :] * unit[..., j, :]).sum(-1) for i, j in pairs], axis=0)


def attention(maps: Array, norms: Array) -> dict[str, Array]:
    """Every measure of attention and flow from whole eager maps, each (L,) or (1,).

    Args:
        maps: (L, N, H, 1+P, 1+P), the class token first.
        norms: (L, N, P) length of each patch's state after each block.
    """
    rows = maps[:, :, :, 0, 1:]
    rows = rows / rows.sum(-1, keepdims=True)
    patches = rows.shape[-1]
    rolled = np.eye(patches + 1)[None]
    for block in maps:
        rolled = (0.5 * block.mean(1) + 0.5 * np.eye(patches + 1)) @ rolled
    seen = rolled[:, 0, 1:]
    sinks = (norms > 3 * torch.from_numpy(norms).median(-1, keepdim=True).values.numpy()).sum(-1)
    return {
        "entropy": entropy(rows).mean((1, 2)),
        "normalised_entropy": entropy(rows).mean((1, 2)) / np.log(patches),
        "erf95": field(rows, 0.95).mean((1, 2)),
        "gini": gini(rows).mean((1, 2)),
        "head_diversity": diversity(rows).mean(1),
        "head_diversity_of_mean": diversity(rows.mean(1)),
        "cls_self": maps[:, :, :, 0, 0].mean((1, 2)),
        "sink_share": rows.max(-1).mean((1, 2)),
        "sink_patches": sinks.mean(1).astype(float),
        "rollout_entropy": np.array([entropy(seen).mean() / np.log(2)]),
        "rollout_erf95": np.array([field(seen, 0.95).mean()]),
        "rollout_gini": np.array([gini(seen).mean()]),
        "patch_entropy": entropy(maps[:, :, :, 1:, 1:]).mean((1, 2, 3)) / np.log(2),
    }


@torch.no_grad()
def look(model: Any, images: torch.Tensor) -> tuple[Array, Array, torch.Tensor, torch.Tensor]:
    """Maps, norms of patch states, class token's states (L, N, D) and embeddings by transformers itself."""
    out = model.vision_model(pixel_values=images, output_attentions=True, output_hidden_states=True)
    states = torch.stack(out.hidden_states[1:])
    embedding = model.get_image_features(pixel_values=images).pooler_output
    maps = torch.stack(out.attentions).double().numpy()
    return maps, states[:, :, 1:].double().norm(dim=-1).numpy(), states[:, :, 0], embedding
