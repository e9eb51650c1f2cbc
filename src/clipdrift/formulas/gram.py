"""Linear centred kernel alignment between representations of the same images, from their Gram matrices.

A Gram matrix is symmetric, so of its rows only what lies right of the diagonal is computed, some rows at a
time and those of all representations together; no (B, B) matrix is ever whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

ROUNDING = 8 * torch.finfo(torch.float64).eps
"""Times the number of images: what is smaller, relative to what it was subtracted from, is rounding."""

UNDEFINED = "cka is undefined: a representation is the same for every image (or for all but one)"

_ROWS = 128
"""Rows of the Gram matrices that are computed together."""
_VALUES = 2**23
"""Values of all Gram matrices that are held at once, unless a single row has more."""


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
    return _Products.of([x], [y]).cka(debiased)[0, 0]


def cka_estimates(
    x: Float[Tensor, "B D1"], y: Float[Tensor, "B D2"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The debiased and the biased :func:`cka` of one pair, in the time of one.

    Args:
        x: (B, D) representation of B images.
        y: (B, D') another representation of the same images.

    Raises:
        ValueError: as :func:`cka`, debiased.
    """
    _check_pair(x, y, debiased=True)
    products = _Products.of([x], [y])
    return products.cka(debiased=True)[0, 0], products.cka(debiased=False)[0, 0]


def cka_matrix(
    xs: Sequence[Float[Tensor, "B _"]], ys: Sequence[Float[Tensor, "B _"]], debiased: bool = True
) -> Float[Tensor, "X Y"]:
    """:func:`cka` of every representation of one model against every one of another, as of all their blocks.

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
    return _Products.of(xs, ys).cka(debiased)


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
            found = _Products.of([x], [y])
        except ValueError as error:
            raise ValueError(f"batch {number}: {error}") from None
        weight = 1 / (len(x) * (len(x) - 3))
        own_x, own_y = found.own(debiased=True)
        floor_x, floor_y = found.floors()
        kk = kk.to(x.device) + weight * own_x[0]
        km = km.to(x.device) + weight * found.crossed(debiased=True)[0, 0]
        mm = mm.to(x.device) + weight * own_y[0]
        kk_floor = kk_floor.to(x.device) + weight * floor_x[0]
        mm_floor = mm_floor.to(x.device) + weight * floor_y[0]
    if not number:
        raise ValueError("minibatch_cka needs at least one batch")
    if kk <= kk_floor or mm <= mm_floor:
        raise ValueError(UNDEFINED)
    return km / (kk.sqrt() * mm.sqrt())


@dataclass(frozen=True, eq=False)
class _Side:
    """What HSIC needs of X representations of n images, besides their products.

    Attributes:
        squares: (X, n) the diagonals of the centred Gram matrices.
        rows: (X, n) their rows' sums without the diagonal.
        off: (X,) the sum of their squared entries off the diagonal.
    """

    squares: Tensor
    rows: Tensor
    off: Tensor


@dataclass(frozen=True, eq=False)
class _Products:
    """Sums over Gram matrices of X representations and of Y others from which either estimate follows.

    Attributes:
        off: (X, Y) ``sum_{i != j} K_ij M_ij`` of the centred Gram matrices K, M.
    """

    x: _Side
    y: _Side
    off: Tensor

    @classmethod
    def of(cls, xs: Sequence[Tensor], ys: Sequence[Tensor]) -> _Products:
        sides = [[_centred(z) for z in side] for side in (xs, ys)]
        images = len(sides[0][0])
        zero = sides[0][0].new_zeros(())
        off, own = zero, [zero, zero]
        held = len(xs) + len(ys)
        step = max(1, min(_ROWS, _VALUES // (held * images)))
        for start in range(0, images, step):
            stop = min(start + step, images)
            apart = 1 - torch.eye(stop - start, dtype=zero.dtype, device=zero.device)
            # a block on the diagonal, whole but for the diagonal; then all to the right of it, which stands
            # for what is below the diagonal too
            for weight, columns in ((1.0, slice(start, stop)), (2.0, slice(stop, images))):
                if columns.start >= columns.stop:
                    continue
                k, m = (torch.stack([z[start:stop] @ z[columns].T for z in side]) for side in sides)
                if weight == 1.0:
                    k, m = k * apart, m * apart
                k, m = k.flatten(1), m.flatten(1)
                off = off + weight * (k @ m.T)
                own = [total + weight * _squared(part) for total, part in zip(own, (k, m), strict=True)]
        return cls(_side(sides[0], own[0]), _side(sides[1], own[1]), off)

    def crossed(self, debiased: bool) -> Tensor:
        """(X, Y) HSIC up to a factor that cancels in CKA: 1/(n-1)^2 of the biased estimate, 1/(n(n-3)) of the
        unbiased one."""
        x, y = self.x, self.y
        if not debiased:
            return self.off + x.squares @ y.squares.T
        n = x.rows.shape[1]
        totals = torch.outer(x.rows.sum(1), y.rows.sum(1)) / ((n - 1) * (n - 2))
        return self.off + totals - 2 * (x.rows @ y.rows.T) / (n - 2)

    def own(self, debiased: bool) -> tuple[Tensor, Tensor]:
        """(X,) and (Y,) HSIC of each representation with itself."""
        found = []
        for side in (self.x, self.y):
            if not debiased:
                found.append(side.off + _squared(side.squares))
                continue
            n = side.rows.shape[1]
            totals = side.rows.sum(1).square() / ((n - 1) * (n - 2))
            found.append(side.off + totals - 2 * _squared(side.rows) / (n - 2))
        return found[0], found[1]

    def floors(self) -> tuple[Tensor, Tensor]:
        """(X,) and (Y,) what of :meth:`own` may be rounding."""
        n = self.x.rows.shape[1]
        x, y = self.own(debiased=False)
        return ROUNDING * n * x.detach(), ROUNDING * n * y.detach()

    def cka(self, debiased: bool) -> Tensor:
        """(X, Y) of the estimate. Raises ValueError where it is undefined."""
        own = self.own(debiased)
        if any(bool((one <= floor).any()) for one, floor in zip(own, self.floors(), strict=True)):
            raise ValueError(UNDEFINED)
        return self.crossed(debiased) / torch.outer(own[0].sqrt(), own[1].sqrt())


def _side(representations: Sequence[Tensor], off: Tensor) -> _Side:
    squares = torch.stack([_squared(z) for z in representations])
    rows = torch.stack([z @ z.sum(0) for z in representations]) - squares
    return _Side(squares, rows, off)


def _squared(rows: Tensor) -> Tensor:
    """(n,) squared lengths of rows (n, m); twenty times as fast as to square them and add."""
    return torch.linalg.vector_norm(rows, dim=1).square()


def _largest(x: Tensor) -> Tensor:
    """Largest magnitude; nan where any value is."""
    low, high = torch.aminmax(x.detach())
    return torch.maximum(-low, high)


def _centred(x: Tensor) -> Tensor:
    """x (B, D) in float64 less its mean, which neither estimate depends on and which keeps the products well
    conditioned; zero where all rows of x are the same. Raises ValueError at nan or inf."""
    largest = _largest(x)
    if not torch.isfinite(largest):
        raise ValueError("cka: a representation contains nan or inf")
    centred = x - x.mean(0, dtype=torch.float64)
    if _largest(centred) <= ROUNDING * len(x) * largest:
        return torch.zeros_like(centred)
    return centred


def _check_pair(x: Tensor, y: Tensor, debiased: bool) -> None:
    if len(x) != len(y):
        raise ValueError(f"cka needs the same images on both sides, got {len(x)} and {len(y)}")
    least = 4 if debiased else 2
    if len(x) < least:
        raise ValueError(f"cka needs at least {least} images, got {len(x)}")
