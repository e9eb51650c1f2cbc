"""Weights before and after: how far they moved, and in which directions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from clipdrift.formulas.attention import entropy


def weight_drift(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """``||W - W0|| / ||W0||`` over all named tensors together (Frobenius norm). Carries no gradient.

    Args:
        before: the backbone's weights by name.
        after: the adapted model's effective weights (adapters merged in) under the same names.

    Returns:
        Scalar in float64, at least 0.

    Raises:
        ValueError: names or shapes differ, nan or inf, or the backbone's weights are all zero.
    """
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())
        raise ValueError(f"weights do not fit: {len(odd)} names on one side only, for example {odd[0]}")
    change = norm = torch.zeros((), dtype=torch.float64)
    for name, old in before.items():
        new = after[name]
        if old.shape != new.shape:
            raise ValueError(f"{name}: shape {tuple(old.shape)} before, {tuple(new.shape)} after")
        old = old.detach().double()
        change = change + (new.detach().double() - old).square().sum().cpu()
        norm = norm + old.square().sum().cpu()
    if not torch.isfinite(change) or not torch.isfinite(norm):
        raise ValueError("weights contain nan or inf")
    if norm == 0:
        raise ValueError("the backbone's weights are all zero")
    return (change / norm).sqrt()


def singular_values(matrix: Float[Tensor, "m n"]) -> Float[Tensor, " k"]:
    """Singular values, the largest first. Carries no gradient.

    Returns:
        (min(m, n),) in float64, at least 0, in the unit of the weights.

    Raises:
        ValueError: an empty matrix, nan or inf.
    """
    matrix = _finite(matrix)
    # LAPACK takes three times as long for 768 x 3072 as for its transpose, which has the same values
    return torch.linalg.svdvals(matrix.T if matrix.shape[0] < matrix.shape[1] else matrix)


def effective_rank(values: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """Exponential of the entropy of the normalised singular values (Roy and Vetterli 2007).

    Args:
        values: (k,) singular values as :func:`singular_values` gives them, of a weight or of its change.

    Returns:
        Scalar within [1, k], in the dtype of the values; k where all are equal. No scale, so that changes of
        any size compare.

    Raises:
        ValueError: nan, inf or negative values; all zero, as of a matrix that did not change.
    """
    if not torch.isfinite(values).all() or (values < 0).any():
        raise ValueError("singular values must be finite and not negative")
    if not (values > 0).any():
        raise ValueError("effective rank of a matrix of zeros is undefined")
    return entropy(values / values.max()).exp()


def intruder_similarity(
    before: Float[Tensor, "m n"], after: Float[Tensor, "m n"], top: int | None = None
) -> Float[Tensor, " k"]:
    """Largest absolute cosine of each left singular vector of ``after`` with those of ``before``.

    Near 1 where fine-tuning kept a direction (and perhaps changed its strength), small where it brought a new
    one (Shuttleworth et al. 2024, "LoRA vs Full Fine-tuning: An Illusion of Equivalence").

    A direction of singular value zero is arbitrary and is no evidence. Those of ``after`` are left out: zero
    means below ``max(m, n)`` rounding errors of float32, relative to the largest. Those of ``before`` match
    nothing: what lies outside its column space is new. Singular vectors of equal singular values are
    arbitrary within their span, too; trained weights have none. Carries no gradient.

    Args:
        before: (m, n) the backbone's matrix.
        after: (m, n) the same matrix after fine-tuning.
        top: how many vectors of ``after``, those of the largest singular values; ``None`` = all.

    Returns:
        (k,) in float64, within [0, 1], by descending singular value; k = the rank of ``after``, at most
            ``top``.

    Raises:
        ValueError: different shapes, nan or inf, a matrix of zeros, or ``top`` below 1.
    """
    if before.shape != after.shape:
        raise ValueError(f"matrices do not fit: {tuple(before.shape)} and {tuple(after.shape)}")
    if top is not None and top < 1:
        raise ValueError(f"top = {top}: must be at least 1")
    longest = max(before.shape)
    # of before everything that the eigenvalues of a Gram matrix can tell from zero: a bound as high as that
    # of after could cut a weak direction on one side only, and make an intruder of it
    known = _left_singular_vectors(before, (longest * torch.finfo(torch.float64).eps) ** 0.5)
    found = _left_singular_vectors(after, longest * torch.finfo(torch.float32).eps)
    return (known.T @ found[:, :top]).abs().amax(0).clamp(max=1)


def intruder_dimensions(
    before: Float[Tensor, "m n"],
    after: Float[Tensor, "m n"],
    threshold: float = 0.5,
    top: int | None = None,
) -> int:
    """Number of left singular vectors of ``after`` that resemble none of ``before``.

    Counts :func:`intruder_similarity` below ``threshold``. Shuttleworth et al. 2024 look at the first 10.

    Args:
        before: (m, n) the backbone's matrix.
        after: (m, n) the same matrix after fine-tuning.
        threshold: in (0, 1].
        top: how many vectors of ``after``, those of the largest singular values; ``None`` = all.

    Returns:
        Count within [0, min(m, n)], at most ``top``.

    Raises:
        ValueError: ``threshold`` outside (0, 1], or as :func:`intruder_similarity`.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold = {threshold}: must lie in (0, 1]")
    return int((intruder_similarity(before, after, top) < threshold).sum())


def _finite(matrix: Tensor) -> Tensor:
    if not matrix.numel():
        raise ValueError(f"matrix of shape {tuple(matrix.shape)} is empty")
    matrix = matrix.detach().double()
    if not torch.isfinite(matrix).all():
        raise ValueError("weights contain nan or inf")
    return matrix


def _left_singular_vectors(matrix: Tensor, relative: float) -> Tensor:
    """Left singular vectors (m, rank), largest first, of singular values above ``relative`` of the largest.

    By the eigenvectors of the smaller Gram matrix in float64: twice as fast as an SVD in float64 for
    768 x 768, eight times for 768 x 3072, and faster and more exact than one in float32. Squaring loses
    singular values below some 1e-8 of the largest, which float32 weights do not resolve either.
    """
    matrix = _finite(matrix)
    wide = matrix.shape[0] <= matrix.shape[1]
    scale = matrix.abs().max()
    if scale == 0:
        raise ValueError("a matrix of zeros has no singular vectors")
    matrix = matrix / scale  # the squares of weights below 1e-154 are zero
    squared, vectors = torch.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)
    vectors = vectors[:, squared > relative**2 * squared[-1]].flip(-1)
    return vectors if wide else torch.nn.functional.normalize(matrix @ vectors, dim=0)
