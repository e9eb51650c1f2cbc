"""Representations of the same images before and after: linear CKA of states, drift of embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

ROUNDING = 8 * torch.finfo(torch.float64).eps
"""Times the number of images: what is smaller, relative to what it was subtracted from, is rounding."""

UNDEFINED = "cka is undefined: a representation is the same for every image (or for all but one)"


def cka(x: Float[Tensor, "B D1"], y: Float[Tensor, "B D2"], debiased: bool = True) -> Float[Tensor, ""]:
    """Linear centred kernel alignment between two representations of the same images.

    Debiased: ratio of unbiased HSIC estimates (Song et al. 2012, eq. 5; Nguyen et al. 2021), about [0, 1]
    and slightly negative at times. Biased: ``||X'Y||_F^2 / (||X'X||_F ||Y'Y||_F)`` of centred X, Y
    (Kornblith et al. 2019), [0, 1], close to 1 for unrelated features when images are few and D is large.
    Invariant to rotation, shift and isotropic scale of either side.

    One image far from all others decides either estimate. Where both sides have it, the biased one tends to 1
    and the debiased one to the correlation, over the other images, of their components along its direction on
    each side; where one side has it, both fall to near 0.

    Args:
        x: (B, D) representation of B images.
        y: (B, D') another representation of the same images.
        debiased: which estimate.

    Returns:
        Scalar in float64.

    Raises:
        ValueError: different numbers of images; fewer than 4 (debiased) or 2 images; nan or inf; one side
            the same for every image (0/0), or, debiased, for all but one.
    """
    _check_pair(x, y, debiased)
    k, m = _gram(x, debiased), _gram(y, debiased)
    return _hsic(k, m) / (_norm(k) * _norm(m))


def cka_matrix(
    xs: Sequence[Float[Tensor, "B _"]], ys: Sequence[Float[Tensor, "B _"]], debiased: bool = True
) -> Float[Tensor, "X Y"]:
    """:func:`cka` of every representation of one model against every one of another, as of all their blocks.

    Each Gram matrix is computed once; those of ``ys`` are held together, 8 B^2 bytes each.

    Args:
        xs: X representations (B, D_i) of B images.
        ys: Y representations (B, D_j) of the same images.
        debiased: which estimate.

    Returns:
        (X, Y) in float64.

    Raises:
        ValueError: no representations on a side, or as :func:`cka`.
    """
    if not xs or not ys:
        raise ValueError("cka_matrix needs at least one representation on each side")
    for z in (*xs, *ys):
        _check_pair(xs[0], z, debiased)
    columns = [_gram(y, debiased) for y in ys]
    norms = [_norm(m) for m in columns]
    rows = []
    for x in xs:
        k = _gram(x, debiased)
        norm = _norm(k)
        rows.append(torch.stack([_hsic(k, m) / (norm * n) for m, n in zip(columns, norms, strict=True)]))
    return torch.stack(rows)


def minibatch_cka(batches: Iterable[tuple[Float[Tensor, "_ _"], Float[Tensor, "_ _"]]]) -> Float[Tensor, ""]:
    """Debiased linear CKA from batches: ratio of sums of unbiased HSIC estimates (Nguyen et al. 2021).

    For images that never stand side by side; where they do, or pass in a stream, :func:`cka` and
    :class:`~clipdrift.formulas.cka_sums.CkaSums` have less variance. Not the mean of the batches' CKAs.

    Args:
        batches: pairs ``x (B, D), y (B, D')`` of one batch of images each. Every batch counts the same,
            whatever its size: each HSIC estimate carries its 1/(n(n-3)) and is unbiased by itself. So a last
            batch of few images adds as much, with more variance.

    Returns:
        Scalar in float64, about [0, 1], slightly negative at times.

    Raises:
        ValueError: no batches; a batch with different numbers of images or fewer than 4; nan or inf; one side
            the same for every image of its batch (or for all but one) in all batches.
    """
    kk = km = mm = kk_floor = mm_floor = torch.zeros((), dtype=torch.float64)
    number = 0
    for number, (x, y) in enumerate(batches, start=1):
        try:
            _check_pair(x, y, debiased=True)
        except ValueError as error:
            raise ValueError(f"batch {number}: {error}") from None
        k, m = _gram(x, debiased=True), _gram(y, debiased=True)
        weight = 1 / (len(x) * (len(x) - 3))
        kk = kk.to(x.device) + weight * _hsic(k, k)
        km = km.to(x.device) + weight * _hsic(k, m)
        mm = mm.to(x.device) + weight * _hsic(m, m)
        kk_floor = kk_floor.to(x.device) + weight * k.floor
        mm_floor = mm_floor.to(x.device) + weight * m.floor
    if not number:
        raise ValueError("minibatch_cka needs at least one batch")
    if kk <= kk_floor or mm <= mm_floor:
        raise ValueError(UNDEFINED)
    return km / (kk.sqrt() * mm.sqrt())


@dataclass(frozen=True, eq=False)
class _Gram:
    """Centred Gram matrix of B images, its diagonal 0 for the unbiased estimate, and its rounding."""

    kernel: Tensor
    rows: Tensor
    floor: Tensor
    debiased: bool


def _check_pair(x: Tensor, y: Tensor, debiased: bool) -> None:
    if len(x) != len(y):
        raise ValueError(f"cka needs the same images on both sides, got {len(x)} and {len(y)}")
    least = 4 if debiased else 2
    if len(x) < least:
        raise ValueError(f"cka needs at least {least} images, got {len(x)}")
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ValueError("cka: a representation contains nan or inf")


def _gram(x: Tensor, debiased: bool) -> _Gram:
    """Gram matrix of x (B, D) in float64; zero where all rows of x are the same.

    Both estimates are invariant to a shift; centring first keeps the matrix well conditioned.
    """
    x = x.double()
    centred = x - x.mean(0)
    if centred.abs().max() <= ROUNDING * len(x) * x.abs().max():
        centred = torch.zeros_like(centred)
    kernel = centred @ centred.T
    floor = ROUNDING * len(x) * kernel.detach().square().sum()
    if debiased:
        kernel = kernel - torch.diag(kernel.diagonal())
    return _Gram(kernel, kernel.sum(0), floor, debiased)


def _hsic(k: _Gram, m: _Gram) -> Tensor:
    """HSIC up to a factor that cancels in CKA: 1/(n-1)^2 of the biased, 1/(n(n-3)) of the unbiased one."""
    products = (k.kernel * m.kernel).sum()
    if not k.debiased:
        return products
    n = len(k.rows)
    cross = (k.rows * m.rows).sum()
    return products + k.rows.sum() * m.rows.sum() / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)


def _norm(k: _Gram) -> Tensor:
    own = _hsic(k, k)
    if own <= k.floor:
        raise ValueError(UNDEFINED)
    return own.sqrt()


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
