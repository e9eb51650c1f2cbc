"""Differences and their sizes against SciPy, statsmodels and documented examples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_studies import study
from scipy import stats
from statsmodels.formula.api import mixedlm
from statsmodels.stats.multitest import multipletests

from clipdrift.analysis.effects import cohens_d, d_interval, d_z, mann_whitney, paired_t, welch, wilcoxon
from clipdrift.analysis.models import mixed
from clipdrift.analysis.pairing import Sides, same_accuracy, same_weight_drift
from clipdrift.analysis.permutation import UndeterminedError
from clipdrift.analysis.predictors import auc_of
from clipdrift.analysis.rows import Row, holm, table
from clipdrift.analysis.runs import prepared
from clipdrift.outcomes.keys import Estimand, Group

# R's data set `sleep`: t.test(extra ~ group) gives t = -1.8608, p = 0.07939; paired t = -4.0621, p = 0.002833
FIRST = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
SECOND = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])


def test_examples_of_r() -> None:
    """As R prints them for `sleep`; Wilcoxon with its ties and zero by the normal distribution."""
    assert (welch(FIRST, SECOND).value, welch(FIRST, SECOND).p) == pytest.approx((-1.8608, 0.07939), abs=5e-5)
    found = paired_t(FIRST - SECOND)
    assert (found.value, found.p) == pytest.approx((-4.0621, 0.002833), abs=5e-5)
    assert wilcoxon(FIRST - SECOND).value == 0
    # R's depression data, wilcox.test(x, y, paired = TRUE): V = 40, p = 0.0391 (one-sided 0.01953)
    x = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
    y = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
    assert wilcoxon(x - y).value == 45 - 40
    assert wilcoxon(x - y).p == pytest.approx(2 * 0.01953, abs=1e-4)


def test_mann_whitney_counts_wins() -> None:
    """U is the number of pairs that the first wins; exact p of complete separation."""
    found = mann_whitney([4, 5, 6], [1, 2, 3])
    assert found.value == 9
    assert found.p == pytest.approx(2 / 20)


def test_effect_sizes() -> None:
    """d by hand, d_z from the paired t, signs by who is higher."""
    assert cohens_d([3, 4, 5], [1, 2, 3]) == pytest.approx(2.0)
    assert cohens_d([1, 2, 3], [3, 4, 5]) == pytest.approx(-2.0)
    assert d_z(FIRST - SECOND) == pytest.approx(paired_t(FIRST - SECOND).value / np.sqrt(10))


def test_intervals_of_d() -> None:
    """Cumming and Finch's property: at the ends, the t found has a tail of 2.5 %; it covers d."""
    low, high = d_interval(0.8, 10, 12)
    scale = np.sqrt(120 / 22)
    assert stats.nct.cdf(0.8 * scale, 20, low * scale) == pytest.approx(0.975, abs=1e-6)
    assert stats.nct.cdf(0.8 * scale, 20, high * scale) == pytest.approx(0.025, abs=1e-6)
    low, high = d_interval(-5.844, 3, 3)
    assert low < -5.844 < high < 0
    low, high = d_interval(0.0, 8)
    assert low == pytest.approx(-high, abs=1e-6)


def test_holm_against_statsmodels() -> None:
    """Random families, ties included."""
    for seed in range(5):
        p = np.random.default_rng(seed).uniform(size=9).round(1)
        assert holm(p) == pytest.approx(list(multipletests(p, method="holm")[1]))
    assert holm([]) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.2])


def test_families_are_corrected_apart() -> None:
    """A row without p is no member; a row without family is not corrected."""

    def row(p: float, family: str) -> Row:
        r = Estimand("Pearson", "entropy_drift", "log_rate")
        return Row("rate", Group(), r, "run", "5", "t", value=0.1, p=p, family=family)

    found = table([row(0.02, "a"), row(0.04, "a"), row(0.04, "b"), row(np.nan, "a"), row(0.04, "")])
    assert list(found.p_corrected[:3]) == pytest.approx([0.04, 0.04, 0.04])
    assert found.p_corrected[3:].isna().all()


@pytest.mark.parametrize(
    "ask", [lambda: welch([1], [1, 2]),
            lambda: mann_whitney([2, 2], [2, 2]), lambda: cohens_d([1, 1], [2, 2]),
            lambda: paired_t([0.1, 0.1, 0.1 + 1e-17]), lambda: wilcoxon([0, 0, 1]), lambda: d_z([np.nan, 1])],
)  # fmt: skip
def test_what_is_undetermined(ask) -> None:
    """One value, no variance: no number."""
    with pytest.raises(UndeterminedError):
        ask()


def test_auc_is_the_share_of_u() -> None:
    """Of SciPy's Mann-Whitney U, with ties; weights count a value as often as it stands."""
    rng = np.random.default_rng(2)
    values, lost = rng.integers(0, 6, 30).astype(float), rng.uniform(size=30) < 0.4
    u = stats.mannwhitneyu(values[lost], values[~lost]).statistic
    assert auc_of(values, lost)(np.ones((1, 30)))[0] == pytest.approx(u / (lost.sum() * (~lost).sum()))
    twice = np.concatenate([values, values[:5]])
    doubled = auc_of(twice, np.concatenate([lost, lost[:5]]))(np.ones((1, 35)))[0]
    weights = np.where(np.arange(30) < 5, 2.0, 1.0)[None]
    assert auc_of(values, lost)(weights)[0] == pytest.approx(doubled)


def test_mixed_model_in_small_units() -> None:
    """Terms and intervals of statsmodels' own formula; a drift in other units changes them in proportion."""
    runs = prepared(study(targets=("pets", "eurosat"), seeds=(1, 2)))
    shift = {"pets 1": 0.3, "pets 2": -0.4, "eurosat 1": 0.5, "eurosat 2": -0.2}
    runs["group"] = runs["target"] + " " + runs["seed"].map(str)
    runs["entropy_drift"] += runs["group"].map(shift)
    found = {row.statistic: row for row in mixed(runs, "entropy_drift")}
    row = found[Estimand("mixed model", "entropy_drift", "log_rate")]
    runs["centred"] = runs["log_rate"] - runs["log_rate"].mean()
    theirs = mixedlm("entropy_drift ~ centred * C(method) + C(target)", runs, groups="group").fit()
    assert row.value == pytest.approx(theirs.params["centred"], rel=1e-3)
    assert (row.low, row.high) == pytest.approx(tuple(theirs.conf_int().loc["centred"]), rel=1e-3)
    small = next(mixed(runs.assign(entropy_drift=runs.entropy_drift * 1e-4), "entropy_drift"))
    assert (small.value, small.low) == pytest.approx((row.value * 1e-4, row.low * 1e-4), rel=1e-3)


def test_pairs_are_as_many_as_can_be() -> None:
    """Taking the nearest pair first would leave the others without a partner."""
    first, second = pd.DataFrame({"accuracy": [90.0, 91.0]}), pd.DataFrame({"accuracy": [90.9, 91.9, np.nan]})
    left, right = same_accuracy(Sides(Group(), first, second), "accuracy")
    assert (left.tolist(), right.tolist()) == ([0, 1], [0, 1])
    far = pd.DataFrame({"weight_drift": [0.0, 0.1, 0.2]})
    left, right = same_weight_drift(Sides(Group(), far, pd.DataFrame({"weight_drift": [0.0, 0.126, 0.17]})))
    assert (left.tolist(), right.tolist()) == ([2], [2])
