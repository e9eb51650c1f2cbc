"""Tests of a difference with their effect sizes: Welch, Mann-Whitney, paired t, Wilcoxon, d and d_z."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats
from scipy.special import nctdtrinc

from clipdrift.analysis.permutation import UndeterminedError

Sample = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class TestResult:
    """A test statistic, its two-sided p-value, and the test's name."""

    statistic: Literal["t", "U", "W"]
    value: float
    p: float
    test: str


Test = Callable[[Sample], TestResult]
"""A test of paired differences."""


def welch(first: Sample, second: Sample) -> TestResult:
    """Welch's t of two samples with unequal variances (Welch 1947); positive where the first is higher.

    Raises:
        UndeterminedError: a sample of fewer than two, or both without variance.
    """
    a, b = _two(first, second)
    # from the moments: for one sample without variance, SciPy's test of the values warns
    moments = [m for v in (a, b) for m in (v.mean(), v.std(ddof=1), len(v))]
    result = stats.ttest_ind_from_stats(*moments, equal_var=False)
    return TestResult("t", float(result.statistic), float(result.pvalue), "Welch t")


def mann_whitney(first: Sample, second: Sample) -> TestResult:
    """Mann-Whitney U of the first sample; exact up to 8 values a side without ties, else normal.

    Raises:
        UndeterminedError: a sample of fewer than two, or all values equal.
    """
    a, b = _two(first, second)
    result = stats.mannwhitneyu(a, b, alternative="two-sided", method="auto")
    return TestResult("U", float(result.statistic), float(result.pvalue), "Mann-Whitney U")


def paired_t(differences: Sample) -> TestResult:
    """Student's t of paired differences.

    Raises:
        UndeterminedError: fewer than two differences, or no variance in them.
    """
    d = _differences(differences)
    result = stats.ttest_1samp(d, 0.0)
    return TestResult("t", float(result.statistic), float(result.pvalue), "paired t")


def wilcoxon(differences: Sample) -> TestResult:
    """Wilcoxon's signed-rank W, the smaller sum of ranks; differences of 0 are left out.

    Exact without ties up to 50 pairs, else normal.

    Raises:
        UndeterminedError: fewer than two differences other than 0, or no variance in them.
    """
    d = _differences(differences)
    d = d[d != 0]
    if len(d) < 2:
        raise UndeterminedError("fewer than 2 differences other than 0")
    tied = len(np.unique(np.abs(d))) < len(d)
    result = stats.wilcoxon(d, method="approx" if tied or len(d) > 50 else "exact")
    return TestResult("W", float(result.statistic), float(result.pvalue), "Wilcoxon signed rank")


def cohens_d(first: Sample, second: Sample) -> float:
    """(mean of first - mean of second) / pooled standard deviation (Cohen 1988).

    Raises:
        UndeterminedError: a sample of fewer than two, or no variance within them.
    """
    a, b = _two(first, second)
    pooled = math.sqrt((a.var(ddof=1) * (len(a) - 1) + b.var(ddof=1) * (len(b) - 1)) / (len(a) + len(b) - 2))
    return float(a.mean() - b.mean()) / pooled


def d_z(differences: Sample) -> float:
    """Mean of paired differences / their standard deviation.

    Raises:
        UndeterminedError: fewer than two differences, or no variance in them.
    """
    d = _differences(differences)
    return float(d.mean() / d.std(ddof=1))


def d_interval(d: float, first: int, second: int | None = None, level: float = 0.95) -> tuple[float, float]:
    """Interval of d (two samples) or d_z (pairs) from the noncentral t (Cumming and Finch 2001).

    Exact for normal samples of equal variance. Needs no resampling, so it holds for three seeds as well.

    Raises:
        UndeterminedError: SciPy's noncentral t overflows, for an enormous d.
    """
    if second is None:
        scale, freedom = math.sqrt(first), first - 1
    else:
        scale, freedom = math.sqrt(first * second / (first + second)), first + second - 2
    tails = np.array([(1 + level) / 2, (1 - level) / 2])
    with np.errstate(all="ignore"):
        ends = nctdtrinc(freedom, tails, d * scale)
        missed = np.abs(stats.nct.cdf(d * scale, freedom, ends) - tails)
    if not np.all(missed < 1e-3) or ends[0] > ends[1]:  # it gives a wrong end rather than an error
        raise UndeterminedError("the noncentral t cannot be computed so far out")
    return float(ends[0] / scale), float(ends[1] / scale)


def _two(first: Sample, second: Sample) -> tuple[np.ndarray, np.ndarray]:
    a, b = (v[np.isfinite(v)] for v in (np.asarray(first, dtype=float), np.asarray(second, dtype=float)))
    if min(len(a), len(b)) < 2:
        raise UndeterminedError(f"{len(a)} and {len(b)} runs; 2 of each are needed")
    if flat(a) and flat(b):
        raise UndeterminedError("no variance")
    return a, b


def _differences(differences: Sample) -> np.ndarray:
    d = np.asarray(differences, dtype=float)
    d = d[np.isfinite(d)]
    if len(d) < 2:
        raise UndeterminedError(f"{len(d)} pair{'s' if len(d) != 1 else ''}; 2 are needed")
    if flat(d):
        raise UndeterminedError("no variance")
    return d


def flat(values: np.ndarray) -> bool:
    """Whether values differ by rounding at most, which tests would take for an enormous effect."""
    return bool(np.ptp(values) <= 1e-9 * max(1e-9, float(np.max(np.abs(values)))))
