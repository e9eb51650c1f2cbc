"""Bootstrap intervals over named units: whole cells are drawn, never single blocks or seeds of a cell.

A statistic here is a function of weights (R, n), how often each of n values occurs in each of R resamples,
to (R,) numbers. So all resamples are one product of matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from clipdrift.analysis.permutation import Kind, UndeterminedError

Statistic = Callable[[np.ndarray], np.ndarray]
RESAMPLES = 1000
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
    rng: np.random.Generator,
    named: str,
    strata: Sequence[object] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Interval:
    """BCa interval of a statistic, resampling units (Efron 1987); percentile where BCa is undefined.

    Args:
        units: for each value the unit it belongs to; values of one unit are drawn together.
        named: what a unit is, for the method's name.
        strata: for each value its stratum, such as the method; units are drawn within strata. A unit lies
            in one stratum.

    Raises:
        UndeterminedError: a stratum with fewer than four units, or a statistic that more than a tenth of the
            resamples do not determine.
    """
    n = len(units)
    layers = [0] * n if strata is None else list(map(str, strata))
    names, place = np.unique(
        [f"{s}\0{u}" for s, u in zip(layers, map(str, units), strict=True)], return_inverse=True
    )
    member = np.eye(len(names))[place].T  # (units, values)
    layer = np.array([name.split("\0")[0] for name in names])
    groups = [np.flatnonzero(layer == one) for one in np.unique(layer)]
    if min(map(len, groups), default=0) < MIN_UNITS:
        raise UndeterminedError(f"fewer than {MIN_UNITS} {named}s to resample")
    counts = np.zeros((resamples, len(names)))
    for group in groups:
        counts[:, group] = rng.multinomial(len(group), np.full(len(group), 1 / len(group)), size=resamples)
    with np.errstate(all="ignore"):
        drawn = statistic(counts @ member)
        found = float(statistic(np.ones((1, n)))[0])
        left_out = statistic((1 - np.eye(len(names))) @ member)
    kept = drawn[np.isfinite(drawn)]
    if len(kept) < 0.9 * resamples or not np.isfinite(found):
        raise UndeterminedError("more than a tenth of the resamples have no variance")
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    method = f"percentile bootstrap over {named}s"
    below = float(np.mean(kept < found) + 0.5 * np.mean(kept == found))
    spread = left_out.mean() - left_out
    if 0 < below < 1 and np.all(np.isfinite(spread)) and float(np.sum(spread**2)) > 0:
        bias = norm.ppf(below)
        pull = float(np.sum(spread**3) / (6 * np.sum(spread**2) ** 1.5))
        z = bias + norm.ppf(tails)
        tails = norm.cdf(bias + z / (1 - pull * z))
        method = f"BCa bootstrap over {named}s"
    low, high = np.quantile(kept, tails)
    return Interval(float(low), float(high), f"{method}, {resamples} resamples")


def correlation_of(x: np.ndarray, y: np.ndarray, kind: Kind = "Pearson") -> Statistic:
    """Correlation of two lists as a statistic of weights; ranks are taken anew in every resample."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        a, b = (
            _midranks(v, weights) if kind == "Spearman" else np.broadcast_to(v, weights.shape) for v in (x, y)
        )
        total = weights.sum(1, keepdims=True)
        a, b = (v - (weights * v).sum(1, keepdims=True) / total for v in (a, b))
        xx, yy, xy = ((weights * v).sum(1) for v in (a * a, b * b, a * b))
        flat = (xx <= 1e-20) | (yy <= 1e-20)
        return np.where(flat, np.nan, xy / np.sqrt(np.where(flat, 1.0, xx * yy)))

    return statistic


def _midranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    lower = (values[:, None] < values[None, :]).astype(float)
    equal = (values[:, None] == values[None, :]).astype(float)
    return weights @ lower + 0.5 * (weights @ equal) + 0.5


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
