"""Ability: agreement with the backbone, retrieval, and the uncertainty of a number."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def zero_shot_agreement(before: Float[Tensor, "B C"], after: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    """Share of images whose most likely class is the backbone's; of equal logits the first class counts.

    Args:
        before: (B, C) the backbone's logits.
        after: (B, C) the adapted model's logits of the same images and classes.

    Returns:
        Scalar in float64 within [0, 1]. A share, without a gradient.

    Raises:
        ValueError: different shapes, no images or classes, nan or inf.
    """
    before, after = _logits(before, after)
    return (before.argmax(-1) == after.argmax(-1)).double().mean()


def zero_shot_kl(before: Float[Tensor, "B C"], after: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    """Mean over images of ``KL(softmax(before) || softmax(after))``.

    Args:
        before: (B, C) the backbone's logits, with their temperature.
        after: (B, C) the adapted model's logits of the same images and classes.

    Returns:
        Scalar in float64, in nats, at least 0; 0 = the same distributions.

    Raises:
        ValueError: as :func:`zero_shot_agreement`.
    """
    before, after = _logits(before, after)
    log_p, log_q = before.log_softmax(-1), after.log_softmax(-1)
    # a divergence is not negative, its rounded sum can be
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean().clamp_min(0)


def recall_at_k(similarity: Float[Tensor, "N M"], match: Bool[Tensor, "N M"], k: int) -> Float[Tensor, ""]:
    """Share of queries with at least one match among the k most similar candidates.

    A candidate that is no match comes before a match of the same similarity, so that a model that cannot
    tell candidates apart retrieves nothing.

    Args:
        similarity: (N, M) of N queries with M candidates. Image to text: images by captions, several of which
            may match an image; text to image: both arguments transposed.
        match: (N, M) which candidates are right for a query.
        k: 1 to M.

    Returns:
        Scalar in float64 within [0, 1]. A share, without a gradient.

    Raises:
        ValueError: different shapes, no queries, ``k`` outside [1, M], a query without a match, nan or inf.
    """
    _fitting(similarity, match)
    if not 1 <= k <= similarity.shape[1]:
        raise ValueError(f"k = {k}: must lie in [1, {similarity.shape[1]}], the number of candidates")
    return (match_ranks(similarity, match) <= k).double().mean()


def match_ranks(similarity: Float[Tensor, "N M"], match: Bool[Tensor, "N M"]) -> Int64[Tensor, " N"]:
    """Rank of each query's best match among the candidates, from 1.

    A candidate that is no match comes before a match of the same similarity, as in :func:`recall_at_k`.

    Args:
        similarity: (N, M) of N queries with M candidates.
        match: (N, M) which candidates are right for a query.

    Returns:
        (N,) within [1, M]. Counts, without a gradient.

    Raises:
        ValueError: different shapes, no queries, a query without a match, nan or inf.
    """
    _fitting(similarity, match)
    similarity = similarity.detach()
    if not torch.isfinite(similarity).all():
        raise ValueError("similarities contain nan or inf")
    if not match.any(1).all():
        raise ValueError(f"{int((~match.any(1)).sum())} of {len(match)} queries have no match")
    best = similarity.masked_fill(~match, -torch.inf).amax(1, keepdim=True)
    return (~match & (similarity >= best)).sum(1) + 1


def _fitting(similarity: Tensor, match: Tensor) -> None:
    if similarity.shape != match.shape or not similarity.numel():
        raise ValueError(
            f"similarity and match do not fit: {tuple(similarity.shape)} and {tuple(match.shape)}"
        )


def coefficient_of_variation(values: Float[Tensor, " K"]) -> Float[Tensor, ""]:
    """Standard deviation (ddof 1) over the absolute mean, of a measure over K disjoint subsets of images.

    Args:
        values: (K,) the measure on each subset.

    Returns:
        Scalar in float64, at least 0.

    Raises:
        ValueError: fewer than two values, nan or inf, or a mean of zero.
    """
    if len(values) < 2:
        raise ValueError(f"coefficient of variation needs at least two values, got {len(values)}")
    values = values.double()
    if not torch.isfinite(values).all():
        raise ValueError("coefficient of variation: values contain nan or inf")
    mean = values.mean().abs()
    if mean <= len(values) * torch.finfo(torch.float64).eps * values.abs().max():
        raise ValueError("coefficient of variation is undefined: the mean is zero")
    return values.std(correction=1) / mean


def _logits(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    if before.shape != after.shape or not before.numel():
        raise ValueError(f"logits do not fit: {tuple(before.shape)} and {tuple(after.shape)}")
    if not (torch.isfinite(before).all() and torch.isfinite(after).all()):
        raise ValueError("logits contain nan or inf")
    return before.double(), after.double()
