"""One number given another: partial correlations and slopes, and what lies beyond a curve of other runs.

The statistics are functions of weights, as in :mod:`clipdrift.analysis.bootstrap`, for its intervals over
cells. They describe runs: that a number goes with retention at equal values of another does not make it the
cause.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipdrift.analysis.bootstrap import Statistic, correlation_of
from clipdrift.analysis.permutation import CorrelationKind

_FLAT = 1e-12
"""Share of variance below which nothing is left to relate."""


def partial_of(
    x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64], kind: CorrelationKind = "Spearman"
) -> Statistic:
    """Correlation of x and y given z: that of what a line on z leaves of either, of ranks for Spearman.

    ``(r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2))``, within [-1, 1]; nan where z determines x or y.
    Ranks are taken anew in every resample.

    Args:
        x, y, z: (n,).
    """
    pairs = [correlation_of(*two, kind) for two in ((x, y), (x, z), (y, z))]

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        xy, xz, yz = (pair(weights) for pair in pairs)
        left = (1 - xz**2) * (1 - yz**2)
        return np.where(left > _FLAT, (xy - xz * yz) / np.sqrt(np.where(left > _FLAT, left, 1.0)), np.nan)

    return statistic


def slope_of(
    x: NDArray[np.float64], y: NDArray[np.float64], given: NDArray[np.float64] | None = None
) -> Statistic:
    """Least-squares slope of y on x, with an intercept and, if given, another column beside it.

    In units of y per unit of x; nan where x is constant, or a line on the other column.

    Args:
        x, y, given: (n,).
    """
    other = np.zeros_like(x) if given is None else given

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        total = weights.sum(1, keepdims=True)
        a, b, c = (v - (weights @ v)[:, None] / total for v in (x, y, other))
        xx, zz, xz, xy, zy = (
            np.einsum("ij,ij,ij->i", weights, one, two)
            for one, two in ((a, a), (c, c), (a, c), (a, b), (c, b))
        )
        if given is None:
            known = xx > _FLAT
            return np.where(known, xy / np.where(known, xx, 1.0), np.nan)
        left = xx * zz - xz**2
        known = left > _FLAT * xx * zz
        return np.where(known, (xy * zz - zy * xz) / np.where(known, left, 1.0), np.nan)

    return statistic


def beyond_curve(
    curve: tuple[NDArray[np.float64], NDArray[np.float64]], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What y lies above a curve at the same x, the curve interpolated in straight lines; nan outside of it.

    Args:
        curve: x and y of its points in any order, (k,) each; points of equal x are averaged.
        x, y: (n,).

    Raises:
        ValueError: fewer than two points of the curve, or nan among them.
    """
    at, value = curve
    if not np.isfinite([*at, *value]).all():
        raise ValueError("a curve without nan or inf is needed")
    places, which = np.unique(at, return_inverse=True)
    if len(places) < 2:
        raise ValueError("a curve needs two points at least")
    heights = np.bincount(which, weights=value) / np.bincount(which)
    return y - np.interp(x, places, heights, left=np.nan, right=np.nan)
