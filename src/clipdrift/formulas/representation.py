"""Embeddings of the same images before and after."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def embedding_drift(before: Float[Tensor, "B E"], after: Float[Tensor, "B E"]) -> Float[Tensor, ""]:
    """``1 - mean cos(z0, z)`` of the embeddings of the same images before and after.

    Returns:
        Scalar in float64 within [0, 2].

    Raises:
        ValueError: different shapes, nan or inf, an embedding of length zero, or no images.
    """
    if before.shape != after.shape or not len(before):
        raise ValueError(f"embeddings do not fit: {tuple(before.shape)} and {tuple(after.shape)}")
    before, after = before.double(), after.double()
    norms = before.norm(dim=-1), after.norm(dim=-1)
    if not all(bool((torch.isfinite(norm) & (norm > 0)).all()) for norm in norms):
        raise ValueError("an embedding has nan, inf or zero length")
    cosine = (before * after).sum(-1) / (norms[0] * norms[1])
    return 1 - cosine.clamp(-1, 1).mean()
