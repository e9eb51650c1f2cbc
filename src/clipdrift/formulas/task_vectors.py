"""Task vectors, what trainings added to the weights: the angle between two, how far to follow their mean."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor


def task_vector_cosine(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> Float[Tensor, ""]:
    """``cos(W - W0, W' - W0)`` over all named tensors together (Ilharco et al. 2023). Carries no gradient.

    Args:
        before: ``W0``, the common backbone's weights by name.
        after, other: ``W`` and ``W'``, effective weights (adapters merged in) of two models made from it,
            under the same names.

    Returns:
        Scalar in float64, within [-1, 1]: 1 where both went the same way, however far; about 0 where one says
            nothing of the other.

    Raises:
        ValueError: names or shapes differ, nan or inf, or one of the two is the backbone itself.
    """
    if not before.keys() == after.keys() == other.keys():
        odd = sorted((before.keys() ^ after.keys()) | (before.keys() ^ other.keys()))
        raise ValueError(f"weights do not fit: {len(odd)} names are not on all sides, for example {odd[0]}")
    product = long = wide = torch.zeros((), dtype=torch.float64)
    for name, old in before.items():
        if not old.shape == after[name].shape == other[name].shape:
            shapes = [str(tuple(side[name].shape)) for side in (before, after, other)]
            raise ValueError(f"{name}: shapes {', '.join(shapes[:2])} and {shapes[2]}")
        old = old.detach().double()
        one, two = after[name].detach().double() - old, other[name].detach().double() - old
        product = product + (one * two).sum().cpu()
        long, wide = long + one.square().sum().cpu(), wide + two.square().sum().cpu()
    if not torch.isfinite(long) or not torch.isfinite(wide):
        raise ValueError("weights contain nan or inf")
    if long == 0 or wide == 0:
        raise ValueError("a model that did not move from the backbone has no direction")
    return (product / (long.sqrt() * wide.sqrt())).clamp(-1, 1)


def model_stock_ratio(cosine: Float[Tensor, "*any"], count: int) -> Float[Tensor, "*any"]:
    """``t = k cos / (1 + (k - 1) cos)``: how far to go from the backbone to the mean of k models.

    Model Stock (Jang et al. 2024, arXiv 2403.19522) takes ``t mean_i W_i + (1 - t) W0``,
    the point of their plane that is nearest to the centre around which trainings of one task scatter, if all
    are equally far from it and at the same angle to each other.

    Args:
        cosine: between the task vectors of two models; of more than two the mean over all pairs. Within
            [-1, 1].
        count: k, at least 2.

    Returns:
        Within [0, 1], in the dtype of ``cosine``: 1 where all went the same way, 0 where they are at right
            angles or point apart. There the formula itself turns negative, and would lead away from all of
            them; the backbone is the nearest that it allows.

    Raises:
        ValueError: ``count`` below 2, or cosines that are none.
    """
    if count < 2:
        raise ValueError(f"count = {count}: a ratio needs at least 2 models")
    if not (cosine.abs() <= 1).all():
        raise ValueError("cosines must lie within [-1, 1]")
    forward = cosine.clamp_min(0)
    return count * forward / (1 + (count - 1) * forward)
