"""Bootstrap intervals over named units: whole cells are drawn, never single blocks or seeds of a cell.

A statistic here is a function of weights (R, n), how often each of n values occurs in each of R resamples,
to (R,) numbers. So all resamples are one product of matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from clipdrift.analysis.draws import Draws
from clipdrift.analysis.permutation import CorrelationKind, UndeterminedError

Statistic = Callable[[np.ndarray], np.ndarray]
MIN_UNITS = 4
"""With fewer units there are too few different resamples for an interval that means anything."""


@dataclass(frozen=True)
class Interval:
    """The interval's ends and how they were found."""

    low: float
    high: float
    method: str


def interval(
    statistic: Statistic,
    units: Sequence[object],
    *,
    draws: Draws,
    named: str,
    strata: Sequence[object] | None = None,
    level: float = 0.95,
) -> Interval:
    """BCa interval of a statistic, resampling units (Efron 1987); percentile where BCa is undefined.

    Args:
        units: for each value the unit it belongs to; values of one unit are drawn together.
        draws: where the resamples come from.
        named: what a unit is, for the method's name.
        strata: for each value its stratum, such as the method; units are drawn within strata. A unit lies
            in one stratum.

    Raises:
        UndeterminedError: a stratum with fewer than four units, or a statistic that more than a tenth of the
            resamples do not determine.
    """
    n = len(units)
    layers = ["0"] * n if strata is None else list(map(str, strata))
    names, unit = np.unique(
        [f"{s}\0{u}" for s, u in zip(layers, map(str, units), strict=True)], return_inverse=True
    )
    stratum = np.unique([name.split("\0")[0] for name in names], return_inverse=True)[1]
    sizes = np.bincount(stratum) if len(names) else np.zeros(1, dtype=int)
    if sizes.min() < MIN_UNITS:
        raise UndeterminedError(f"fewer than {MIN_UNITS} {named}s to resample")
    with np.errstate(all="ignore"):
        drawn = statistic(draws.weights(unit, stratum))
        found = float(statistic(np.ones((1, n)))[0])
        left_out = statistic(1.0 - np.eye(len(names))[:, unit])
    kept = drawn[np.isfinite(drawn)]
    if len(kept) < 0.9 * draws.resamples or not np.isfinite(found):
        raise UndeterminedError("more than a tenth of the resamples have no variance")
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    kind = "percentile"
    # Resamples that draw every unit once are the sample itself, and processors round their sums differently.
    same = np.isclose(kept, found, rtol=1e-9, atol=1e-12)
    below = float(np.mean((kept < found) & ~same) + 0.5 * np.mean(same))
    pull = _acceleration(left_out, stratum)
    if 0 < below < 1 and np.isfinite(pull):
        bias = ndtri(below)
        z = bias + ndtri(tails)
        if np.all(pull * z < 1):
            tails = ndtr(bias + z / (1 - pull * z))
            kind = "BCa"
    low, high = np.quantile(kept, tails)
    many = "+".join(map(str, sizes))
    return Interval(
        float(low), float(high), f"{kind} bootstrap over {many} {named}s, {draws.resamples} resamples"
    )


def _acceleration(left_out: np.ndarray, stratum: np.ndarray) -> float:
    """BCa's acceleration from the statistic without each unit, stratum by stratum; nan where undefined."""
    cubes = squares = 0.0
    for one in np.unique(stratum):
        group = left_out[stratum == one]
        spread = (group.mean() - group) * (1 - 1 / len(group))
        cubes += float(np.sum(spread**3))
        squares += float(np.sum(spread**2))
    return cubes / (6 * squares**1.5) if np.isfinite(cubes) and squares > 0 else math.nan


def correlation_of(x: np.ndarray, y: np.ndarray, kind: CorrelationKind = "Pearson") -> Statistic:
    """Correlation of two lists as a statistic of weights; ranks are taken anew in every resample."""

    def ranks(weights: np.ndarray) -> np.ndarray:
        total = weights.sum(1, keepdims=True)
        a, b = (v - (weights * v).sum(1, keepdims=True) / total for v in _midranks(x, y, weights))
        return _ratio(*(np.einsum("ij,ij,ij->i", weights, v, w) for v, w in ((a, a), (b, b), (a, b))))

    a, b = x - x.mean(), y - y.mean()  # sums of products lose digits far from 0
    products = np.stack([np.ones_like(a), a, b, a * a, b * b, a * b], axis=1)

    def plain(weights: np.ndarray) -> np.ndarray:
        total, sa, sb, saa, sbb, sab = (weights @ products).T
        flat = 1e-14 * (a @ a), 1e-14 * (b @ b)
        return _ratio(saa - sa**2 / total, sbb - sb**2 / total, sab - sa * sb / total, *flat)

    return ranks if kind == "Spearman" else plain


def _ratio(
    xx: np.ndarray, yy: np.ndarray, xy: np.ndarray, least_x: float = 1e-12, least_y: float = 1e-12
) -> np.ndarray:
    flat = (xx <= least_x) | (yy <= least_y)
    return np.where(flat, np.nan, xy / np.sqrt(np.where(flat, 1.0, xx * yy)))


def _midranks(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Iterator[np.ndarray]:
    for values in (x, y):
        below = (values[:, None] < values[None, :]) + 0.5 * (values[:, None] == values[None, :])
        yield weights @ below + 0.5


def mean_of(values: np.ndarray) -> Statistic:
    """Weighted mean as a statistic of weights."""
    return lambda weights: (weights @ values) / weights.sum(1)


def d_of(values: np.ndarray, first: np.ndarray) -> Statistic:
    """Cohen's d, pooled, of the values where ``first`` is true against the others."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        parts = []
        for chosen in (first, ~first):
            w, v = weights[:, chosen], values[chosen]
            total = w.sum(1)
            mean = (w @ v) / total
            parts.append((total, mean, (w * (v - mean[:, None]) ** 2).sum(1)))
        (n1, m1, s1), (n2, m2, s2) = parts
        pooled = np.sqrt((s1 + s2) / (n1 + n2 - 2))
        return np.where(pooled > 1e-12, (m1 - m2) / np.where(pooled > 1e-12, pooled, 1.0), np.nan)

    return statistic
