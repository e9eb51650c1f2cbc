"""One number given another, beside residuals of statsmodels' regressions; and beyond a curve."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import pearsonr, rankdata

from clipdrift.analysis.bootstrap import interval
from clipdrift.analysis.draws import Draws
from clipdrift.analysis.mediation import beyond_curve, partial_of, slope_of


def made(seed: int, n: int = 40) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    x = np.round(z + rng.normal(size=n), 1 if seed % 2 else 6)  # with and without ties
    return x, 2 * z - 0.5 * x + rng.normal(size=n), z


@pytest.mark.parametrize("seed", range(4))
def test_a_partial_correlation_is_that_of_residuals(seed: int) -> None:
    x, y, z = made(seed)
    once = np.ones((1, len(x)))
    for kind, columns in (("Pearson", (x, y, z)), ("Spearman", tuple(map(rankdata, (x, y, z))))):
        design = sm.add_constant(columns[2])
        left = [sm.OLS(column, design).fit().resid for column in columns[:2]]
        found = partial_of(x, y, z, kind)(once)[0]  # type: ignore[arg-type]
        assert found == pytest.approx(pearsonr(*left).statistic)


@pytest.mark.parametrize("seed", range(4))
def test_a_slope_is_that_of_weighted_least_squares(seed: int) -> None:
    """Weights are counts: a value drawn twice counts twice."""
    x, y, z = made(seed)
    weights = np.random.default_rng(9).integers(0, 4, (3, len(x))).astype(float)
    for given, columns in ((None, [x]), (z, [x, z])):
        found = slope_of(x, y, given)(weights)
        for one, count in zip(found, weights, strict=True):
            fit = sm.WLS(y, sm.add_constant(np.column_stack(columns)), weights=count).fit()
            assert one == pytest.approx(fit.params[1])


def test_what_is_determined_has_no_number() -> None:
    x, y, _ = made(0)
    once = np.ones((1, len(x)))
    assert np.isnan(partial_of(x, y, 2 * x + 1)(once)[0])
    assert np.isnan(slope_of(x, y, 2 * x + 1)(once)[0])
    assert np.isnan(slope_of(np.ones_like(x), y)(once)[0])


def test_a_companion_is_told_from_a_cause() -> None:
    """Positive control: x goes with y through z alone; z still does, given x."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=4000)
    x, y = z + 0.5 * rng.normal(size=4000), -z + 0.5 * rng.normal(size=4000)
    once = np.ones((1, len(x)))
    assert abs(partial_of(x, y, z)(once)[0]) < 0.05
    assert abs(slope_of(x, y, z)(once)[0]) < 0.05
    few = slice(0, 80)
    draws, cells = Draws(np.random.default_rng(0), resamples=300), np.repeat(np.arange(20), 4).tolist()
    span = interval(partial_of(z[few], y[few], x[few]), cells, draws=draws, named="cell")
    assert span.high < 0


def test_beyond_a_curve() -> None:
    """Straight lines between its points, in any order; nothing is said outside of them."""
    curve = np.array([2.0, 0.0, 1.0, 1.0]), np.array([40.0, 100.0, 80.0, 60.0])
    found = beyond_curve(curve, np.array([0.5, 1.5, 2.5, -0.1]), np.array([90.0, 50.0, 30.0, 100.0]))
    assert found.tolist() == pytest.approx([5, -5, np.nan, np.nan], nan_ok=True)
    with pytest.raises(ValueError, match="two points"):
        beyond_curve((np.ones(2), np.ones(2)), np.ones(1), np.ones(1))
    with pytest.raises(ValueError, match="without nan"):
        beyond_curve((np.array([0, np.nan]), np.ones(2)), np.ones(1), np.ones(1))
