"""Permutation correlations and bootstrap intervals against SciPy, and what they must obey."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from clipdrift.analysis.bootstrap import correlation_of, d_of, interval, mean_of
from clipdrift.analysis.draws import Draws
from clipdrift.analysis.effects import cohens_d
from clipdrift.analysis.permutation import UndeterminedError, correlate


def draws(**many: int) -> Draws:
    return Draws(np.random.default_rng(1), **many)


X = [1.0, 2.0, 2.0, 4.0, 5.0, 6.5]
Y = [2.0, 1.0, 3.0, 3.0, 5.0, 4.0]


@pytest.mark.parametrize(("kind", "oracle"), [("Pearson", stats.pearsonr), ("Spearman", stats.spearmanr)])
def test_exact_against_scipy(kind, oracle) -> None:
    """Value and p of SciPy's own exhaustive permutation test, with ties."""
    found = correlate(X, Y, kind, draws=draws())
    theirs = stats.permutation_test(
        (Y,), lambda y: oracle(X, y).statistic, permutation_type="pairings", n_resamples=np.inf
    )
    assert found.value == pytest.approx(theirs.statistic)
    assert found.p == pytest.approx(theirs.pvalue, abs=2e-3)  # SciPy's tolerance for ties is coarser
    assert found.method == "exact permutation"


@pytest.mark.parametrize("n", [3, 4, 6, 7])
def test_every_order_once(n: int) -> None:
    """The same p as going through the orders one by one."""
    x, y = np.random.default_rng(n).integers(0, 5, (2, n)) + np.arange(n) * 0.5
    found = correlate(x, y, draws=draws())
    orders = np.array(list(itertools.permutations(y)))
    each = [abs(np.corrcoef(x, order)[0, 1]) >= abs(found.value) - 1e-9 for order in orders]
    assert found.p == pytest.approx(np.mean(each))


def test_nine_values_are_gone_through() -> None:
    """A monotone list of nine has exactly two orders as far out."""
    found = correlate(np.arange(9), np.arange(9), "Spearman", draws=draws())
    assert found.p == pytest.approx(2 / 362880)


def test_monte_carlo_is_never_zero_and_near_the_truth() -> None:
    """Ten values or more: (b + 1) / (draws + 1); near the asymptotic p for many normal values."""
    assert correlate(np.arange(30), np.arange(30), draws=draws(orders=999)).p == pytest.approx(1 / 1000)
    values = np.random.default_rng(4).normal(size=(2, 60))
    found = correlate(values[0], values[1], draws=draws(orders=4000))
    assert found.p == pytest.approx(stats.pearsonr(*values).pvalue, abs=0.03)


def test_order_and_scale_do_not_matter() -> None:
    """Permuting the pairs, scaling a list."""
    order = np.random.default_rng(1).permutation(6)
    x, y = np.array(X), np.array(Y)
    one, other = correlate(x, y, draws=draws()), correlate(3 * x[order] - 7, y[order], draws=draws())
    assert (one.value, one.p) == pytest.approx((other.value, other.p))
    assert correlate(x, -y, draws=draws()).value == pytest.approx(-one.value)


def test_strata_hide_what_lies_between_them() -> None:
    """Simpson's paradox: up between, down within."""
    x = [1, 2, 3, 11, 12, 13]
    y = [3, 2, 1, 13, 12, 11]
    assert correlate(x, y, draws=draws()).value > 0.9
    assert correlate(x, y, draws=draws(), strata=list("aaabbb")).value == pytest.approx(-1)


@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        ([1, 2], [1, 2], "2 values"),
        ([1, 1, 1], [1, 2, 3], "no variance"),
        ([1, 2, np.nan], [1, 2, 3], "2 values"),
    ],
)
def test_what_is_undetermined(x, y, why) -> None:
    """No number is made up."""
    with pytest.raises(UndeterminedError, match=why):
        correlate(x, y, draws=draws())


def test_bca_against_scipy() -> None:
    """Two intervals of SciPy's BCa: of a mean and of a correlation."""
    data = np.random.default_rng(3).exponential(size=(2, 40))
    data[1] += data[0]
    units = list(range(40))
    ours = interval(mean_of(data[0]), units, draws=draws(resamples=9999), named="cell")
    theirs = stats.bootstrap(
        (data[0],), np.mean, rng=np.random.default_rng(1), method="BCa"
    ).confidence_interval
    assert ours.method.startswith("BCa bootstrap over 40 cells")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    for kind, oracle in (("Pearson", stats.pearsonr), ("Spearman", stats.spearmanr)):
        ours = interval(correlation_of(*data, kind), units, draws=draws(resamples=4000), named="cell")  # type: ignore[call-arg]
        theirs = stats.bootstrap(
            tuple(data), lambda a, b, f=oracle: f(a, b).statistic, paired=True, vectorized=False,
            n_resamples=1000, rng=np.random.default_rng(1), method="BCa",
        ).confidence_interval  # fmt: skip
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)


def test_cells_are_drawn_whole() -> None:
    """Ten copies of each value say no more than the value: the interval is that of the cells."""
    values = np.random.default_rng(3).normal(size=12)
    by_cell = interval(
        mean_of(np.repeat(values, 10)),
        np.repeat(np.arange(12), 10),  # type: ignore[arg-type]
        draws=draws(),
        named="cell",  # type: ignore[arg-type]
    )
    alone = interval(mean_of(values), np.arange(12), draws=draws(), named="cell")  # type: ignore[arg-type]
    as_runs = interval(mean_of(np.repeat(values, 10)), np.arange(120), draws=draws(), named="run")  # type: ignore[arg-type]
    assert by_cell.high - by_cell.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert as_runs.high - as_runs.low < 0.5 * (by_cell.high - by_cell.low)


def test_d_over_strata() -> None:
    """The statistic at weight one is Cohen's d; both groups keep their size."""
    values = np.random.default_rng(3).normal(size=20) + np.repeat([0.0, 3.0], 10)
    first = np.repeat([False, True], 10)
    assert d_of(values, first)(np.ones((1, 20)))[0] == pytest.approx(cohens_d(values[10:], values[:10]))
    found = interval(d_of(values, first), range(20), draws=draws(), named="run", strata=first)  # type: ignore[arg-type]
    assert 0 < found.low < cohens_d(values[10:], values[:10]) < found.high


def test_too_few_units() -> None:
    """Three cells give ten different resamples: no interval."""
    with pytest.raises(UndeterminedError, match="fewer than 4 cells"):
        interval(mean_of(np.arange(9.0)), list("aaabbbccc"), draws=draws(), named="cell")
    with pytest.raises(UndeterminedError, match="no variance"):
        interval(correlation_of(np.ones(5), np.arange(5.0)), range(5), draws=draws(), named="cell")
