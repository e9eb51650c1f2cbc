"""The space that images and texts share: how far apart, how close in pairs, how evenly spread."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from clipdrift.formulas.ability import match_ranks

_ROWS = 512
"""Vectors whose distances to all others are taken at once; no result depends on it."""


def modality_gap(images: Float[Tensor, "N E"], texts: Float[Tensor, "M E"]) -> Float[Tensor, ""]:
    """Distance between the mean of the unit image embeddings and that of the unit text embeddings.

    Liang et al. 2022, Mind the Gap.

    Args:
        images: (N, E) image embeddings, of any length.
        texts: (M, E) text embeddings, of any length.

    Returns:
        Scalar in float64 within [0, 2]; 0: the two kinds lie around one point.

    Raises:
        ValueError: no vectors, vectors of length zero, nan or inf, or different widths.
    """
    one, other = _unit(images, "images"), _unit(texts, "texts")
    if one.shape[1] != other.shape[1]:
        raise ValueError(f"images have {one.shape[1]} dimensions, texts {other.shape[1]}")
    return (one.mean(0) - other.mean(0)).norm()


def alignment(images: Float[Tensor, "N E"], texts: Float[Tensor, "N E"]) -> Float[Tensor, ""]:
    """Mean squared distance between the unit embeddings of an image and of its text.

    Wang and Isola 2020, Understanding Contrastive Representation Learning, with exponent 2.

    Args:
        images: (N, E) image embeddings, one for each text.
        texts: (N, E) text embeddings in the same order.

    Returns:
        Scalar in float64 within [0, 4]; 0: every pair at one point.

    Raises:
        ValueError: as :func:`modality_gap`, or different numbers of both.
    """
    one, other = _unit(images, "images"), _unit(texts, "texts")
    if one.shape != other.shape:
        raise ValueError(f"pairs need one shape, got {tuple(one.shape)} and {tuple(other.shape)}")
    return (one - other).square().sum(1).mean()


def uniformity(embeddings: Float[Tensor, "N E"]) -> Float[Tensor, ""]:
    """``log mean exp(-2 |x - y|^2)`` over all pairs of different unit embeddings.

    Wang and Isola 2020, with t = 2.

    Args:
        embeddings: (N, E) of any length, N at least 2.

    Returns:
        Scalar in float64 within [-8, 0]; 0: all at one point, less: more evenly spread over the sphere.

    Raises:
        ValueError: as :func:`modality_gap`, or one vector alone.
    """
    unit = _unit(embeddings, "embeddings")
    count = len(unit)
    if count < 2:
        raise ValueError("uniformity needs at least two vectors")
    total = unit.new_zeros(())
    for part in unit.split(_ROWS):
        total = total + torch.exp(-2 * (2 - 2 * part @ unit.T).clamp_min(0)).sum()
    # each vector's distance to itself, which is 0 but for rounding, is no pair
    own = torch.exp(-2 * (2 - 2 * unit.square().sum(1)).clamp_min(0)).sum()
    return ((total - own) / (count * (count - 1))).log()


def median_rank(similarity: Float[Tensor, "N M"], match: Bool[Tensor, "N M"]) -> Float[Tensor, ""]:
    """Median over queries of the rank of the best match among the candidates.

    A candidate that is no match comes before a match of the same similarity, as in :func:`recall_at_k`.

    Args:
        similarity: (N, M) of N queries with M candidates.
        match: (N, M) which candidates are right for a query.

    Returns:
        Scalar in float64, at least 1; of an even number of queries the mean of the two in the middle.

    Raises:
        ValueError: no queries or candidates, shapes that do not fit, nan or inf, or a query without a match.
    """
    return torch.quantile(match_ranks(similarity, match).double(), 0.5)


def _unit(vectors: Tensor, what: str) -> Tensor:
    found = vectors.double()
    if found.ndim != 2 or not found.numel():
        raise ValueError(f"{what} of shape {tuple(found.shape)}: a list of vectors is needed")
    if not torch.isfinite(found).all():
        raise ValueError(f"{what} contain nan or inf")
    if not (found.norm(dim=1) > 0).all():
        raise ValueError(f"{what} contain a vector of length zero")
    return normalize(found, dim=1)
