"""Neighbours of queries in a gallery: which are nearest, how many stay, and whether their order stays."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize


def cosines(queries: Float[Tensor, "Q E1"], gallery: Float[Tensor, "G E2"]) -> Float[Tensor, "Q G"]:
    """Cosine similarity of every query with every vector of a gallery.

    Args:
        queries: (Q, E) vectors of any length.
        gallery: (G, E) vectors of any length.

    Returns:
        (Q, G) in float64, within [-1, 1] but for rounding.

    Raises:
        ValueError: different widths, nothing on a side, nan or inf, a vector of length zero.
    """
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"embeddings of different widths: {queries.shape[1]} and {gallery.shape[1]}")
    return _unit(queries, "a query") @ _unit(gallery, "a vector of the gallery").T


def nearest(similarity: Float[Tensor, "Q G"], k: int) -> Int64[Tensor, "Q k"]:
    """Positions of each query's k most similar candidates, the most similar first.

    Of candidates of the same similarity the first in the gallery comes first.

    Args:
        similarity: (Q, G) of Q queries with G candidates.
        k: 1 to G.

    Raises:
        ValueError: ``k`` outside [1, G], nan or inf.
    """
    if not 1 <= k <= similarity.shape[1]:
        raise ValueError(f"k = {k}: must lie in [1, {similarity.shape[1]}], the number of candidates")
    if not torch.isfinite(similarity).all():
        raise ValueError("similarities contain nan or inf")
    return similarity.sort(dim=1, descending=True, stable=True).indices[:, :k]


def neighbour_overlap(before: Int64[Tensor, "Q k1"], after: Int64[Tensor, "Q k2"]) -> Float[Tensor, " Q"]:
    """Share of each query's k neighbours before that are among its k neighbours after.

    Two searches that know nothing of each other share ``k / G`` of a gallery of G on average.

    Args:
        before, after: (Q, k) positions in one gallery, each at most once in a row, in any order.

    Returns:
        (Q,) in float64 within [0, 1]; 1: the same neighbours. Shares, without a gradient.

    Raises:
        ValueError: different shapes or no neighbours.
    """
    if before.shape != after.shape or not before.numel():
        raise ValueError(f"neighbours do not fit: {tuple(before.shape)} and {tuple(after.shape)}")
    return (before[:, :, None] == after[:, None, :]).any(2).double().mean(1)


def rank_agreement(before: Float[Tensor, "Q G1"], after: Float[Tensor, "Q G2"]) -> Float[Tensor, " Q"]:
    """Kendall's tau-b of each query's similarities before and after, over the whole gallery (SciPy's).

    Half of one plus tau is the chance that two images of the gallery stand in the same order on both sides,
    where nothing is tied (Kendall 1938; ties as in Kendall 1945).

    Args:
        before, after: (Q, G) similarities of the same queries with the same gallery.

    Returns:
        (Q,) in float64 within [-1, 1]; 1: the same order, 0: unrelated, -1: reversed; nan for a query whose
        similarities are all the same on a side. Without a gradient.

    Raises:
        ValueError: different shapes, fewer than two candidates, nan or inf.
    """
    if before.shape != after.shape or before.shape[1] < 2:
        raise ValueError(f"similarities do not fit: {tuple(before.shape)} and {tuple(after.shape)}")
    if not (torch.isfinite(before).all() and torch.isfinite(after).all()):
        raise ValueError("similarities contain nan or inf")
    from scipy.stats import kendalltau  # takes a while to load, and training loads this file

    pairs = zip(before.detach().cpu().numpy(), after.detach().cpu().numpy(), strict=True)
    return torch.from_numpy(np.array([kendalltau(*pair).statistic for pair in pairs], dtype=np.float64))


def _unit(vectors: Tensor, what: str) -> Tensor:
    found = vectors.double()
    if not len(found) or not torch.isfinite(found).all():
        raise ValueError("embeddings are missing, or contain nan or inf")
    if not (found.norm(dim=1) > 0).all():
        raise ValueError(f"{what} has length zero, and so no direction")
    return normalize(found, dim=1)
