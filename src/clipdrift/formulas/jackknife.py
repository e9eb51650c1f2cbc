"""Sampling error of CKA over images: the estimate with each image left out in turn."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from clipdrift.formulas.gram import ROUNDING, UNDEFINED


@torch.no_grad()
def leave_one_out_cka(x: Float[Tensor, "B D1"], y: Float[Tensor, "B D2"]) -> Float[Tensor, " B"]:
    """Debiased :func:`~clipdrift.formulas.gram.cka` without image 1, without image 2, and so on.

    Debiased CKA is a smooth function of U-statistics, whose variance the jackknife estimates (Arvesen 1969).
    A bootstrap of the images does not: an image that is drawn twice stands beside itself off the diagonal of
    both Gram matrices, where the unbiased estimate takes any two images for different ones.

    All B values follow from sums that are made once, in time ``B D D'``: of Gram matrices K, M without their
    diagonals, the sums of ``K * M``, of rows and of their products each lose what image i brought to them.

    Args:
        x: (B, D) representation of B images.
        y: (B, D') another representation of the same images.

    Returns:
        (B,) in float64, about [0, 1].

    Raises:
        ValueError: different numbers of images; fewer than 5; nan or inf; one side the same for every image
            that is left, or for all but one.
    """
    if len(x) != len(y):
        raise ValueError(f"cka needs the same images on both sides, got {len(x)} and {len(y)}")
    if len(x) < 5:
        raise ValueError(f"leaving one image out of cka needs at least 5 images, got {len(x)}")
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ValueError("cka: a representation contains nan or inf")
    sides = [z.double() - z.double().mean(0) for z in (x, y)]
    own = [_left_out(side, side) for side in sides]
    floors = [ROUNDING * len(x) * (side.T @ side).square().sum() for side in sides]
    if any(bool((value <= floor).any()) for value, floor in zip(own, floors, strict=True)):
        raise ValueError(UNDEFINED)
    return _left_out(*sides) / (own[0] * own[1]).sqrt()


def _left_out(x: Tensor, y: Tensor) -> Tensor:
    """(B,) unbiased HSIC, up to its factor 1/(n(n-3)), without each image of x (B, D) and y (B, D')."""
    n = len(x) - 1
    a, b = x.square().sum(1), y.square().sum(1)
    product = x.T @ y
    rows_x, rows_y = x @ x.sum(0) - a, y @ y.sum(0) - b
    pairs = ((x @ product) * y).sum(1) - a * b
    seen = y @ (y.T @ rows_x) - b * rows_x + x @ (x.T @ rows_y) - a * rows_y
    total = product.square().sum() - (a * b).sum() - 2 * pairs
    both = (rows_x.sum() - 2 * rows_x) * (rows_y.sum() - 2 * rows_y)
    cross = (rows_x * rows_y).sum() - rows_x * rows_y - seen + pairs
    return total + both / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)
