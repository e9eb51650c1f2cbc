"""Means with their intervals, options beside the usual arm, signals beside each other, onset over rates.

Numbers are SciPy's or made by hand from the runs; the analysis is asked for them by name only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from made_studies import blocks, history, sound, study, with_penalty
from scipy import stats

from clipdrift.analysis import analyse
from clipdrift.analysis.runs import prepared
from clipdrift.outcomes.columns import MAGNITUDES
from few_draws import few_draws

OUTCOMES = ("entropy_drift", "representation_drift", "weight_drift", "accuracy", "retention_cifar100")


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with few_draws():
        yield


def pets(**changes) -> pd.DataFrame:
    return study(**{"targets": ("pets",), **changes})


def t_interval(values) -> tuple[float, float]:
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    return float(low), float(high)


def found(runs: pd.DataFrame, question: str, **tables) -> pd.DataFrame:
    """The answer to one question by group and statistic; of two tests of one statistic the first."""
    table = analyse(runs, [question], **tables)
    sound(table)
    return table[question].drop_duplicates(["group", "statistic"]).set_index(["group", "statistic"])


# --- rate: means of cells


def test_each_cell_has_its_means() -> None:
    """Every arm, rate and outcome; as SciPy has the interval over seeds."""
    runs = pd.concat([pets(), pets(methods=("full_ft",), rates=(1e-5,), penalty="apr")], ignore_index=True)
    table = found(runs, "rate")
    means = table[table.index.get_level_values(1).str.startswith("mean of ")]
    assert len(means) == 9 * len(OUTCOMES)
    assert (means.n == "3").all()
    assert set(means.unit) == {"run"}
    assert set(means.test) == {"description"}
    assert set(means.interval) == {"t over seeds"}
    assert means.p.isna().all()
    assert set(means.family) == {""}
    for variant, held in (("full_ft", False), ("full_ft penalty=apr penalty_weight=0.1", True)):
        cell = runs[(runs["method"] == "full_ft") & (runs["learning_rate"] == 1e-5)]
        kept = cell[cell["penalty"].notna() == held]["retention_cifar100"]
        row = means.loc[(f"pets: {variant}, rate 1e-05", "mean of retention_cifar100")]
        assert row.value == pytest.approx(kept.mean())
        assert (row.low, row.high) == pytest.approx(t_interval(kept))


def test_means_of_few_runs() -> None:
    """One run has no interval; a missing value is no value; all alike is no spread; one rate is enough."""
    runs = pets(rates=(1e-5,), methods=("lora",)).assign(entropy_drift=0.0)
    runs.loc[0, "accuracy"] = np.nan
    runs.loc[:, "weight_drift"] = np.nan
    table = found(runs, "rate")
    assert ("all", "correlation") in table.index
    assert table.loc[("all", "correlation")].note == "no arm has two learning rates"
    of = table.loc["pets: lora, rate 1e-05"]
    assert (of.n["mean of accuracy"], of.n["mean of weight_drift"]) == ("2", "0")
    two = runs["accuracy"].dropna()
    assert (of.low["mean of accuracy"], of.high["mean of accuracy"]) == pytest.approx(t_interval(two))
    assert of.note["mean of weight_drift"] == "no run with a value"
    assert (of.value["mean of entropy_drift"], of.note["mean of entropy_drift"]) == (
        0, "no interval: no variance",
    )  # fmt: skip
    alone = found(runs.iloc[1:2], "rate").loc["pets: lora, rate 1e-05"]
    assert alone.value["mean of accuracy"] == runs["accuracy"][1]
    assert alone.note["mean of accuracy"] == "no interval: one run"
    assert alone.low.isna().all()


# --- methods, penalties: mean differences


def test_mean_differences_are_those_of_the_pairs() -> None:
    """Of runs laid side by side by hand, with SciPy's interval; by block there are none."""
    runs = pets().drop(index=[0, 20])
    table = analyse(runs, ["methods"], blocks=blocks(runs))["methods"]
    means = table[table["test"] == "mean difference"].set_index(["group", "statistic"])
    keys = ["learning_rate", "seed"]
    sides = [runs[runs["method"] == name].set_index(keys) for name in ("full_ft", "lora")]
    for outcome in ("accuracy", "retention_cifar100", "entropy_drift"):
        apart = (sides[0][outcome] - sides[1][outcome]).dropna()
        row = means.loc[("pets: full_ft - lora, matched rate", f"mean difference of {outcome}")]
        span = stats.ttest_1samp(apart, 0).confidence_interval()
        assert (row.n, row.unit, row.interval) == ("10", "pair of runs", "t over pairs")
        assert (row.value, row.low, row.high) == pytest.approx((apart.mean(), span.low, span.high))
    assert means[["p", "p_corrected", "effect"]].isna().all(axis=None)
    assert set(means.family) == {""}
    scopes = {group.rpartition(", ")[2] for group, _ in means.index}
    assert scopes == {"matched rate", "matched weight drift", "matched accuracy"}
    assert len(means) == 3 * len(OUTCOMES)


def test_mean_differences_of_few_pairs() -> None:
    """One pair has a mean and no interval, none has neither; penalties have theirs."""
    one = analyse(pets(rates=(1e-5,), seeds=(3,)), ["methods"])["methods"]
    means = one[one["test"] == "mean difference"].set_index("group")
    at_rate = means.loc["pets: full_ft - lora, matched rate"]
    assert at_rate.value.notna().all()
    assert set(at_rate.note) == {"no interval: one pair"}
    assert set(means.loc["pets: full_ft - lora, matched weight drift"].note) == {"no pair with a value"}
    runs = with_penalty()
    table = found(runs, "penalties")
    half = runs[(runs["target"] == "pets") & (runs["method"] == "full_ft")]
    first, second = (
        part.sort_values(["learning_rate", "seed"])["weight_drift"].to_numpy()
        for part in (half[half["penalty"].notna()], half[half["penalty"].isna()])
    )
    name = "pets: full_ft penalty=apr penalty_weight=0.1 - none, matched rate"
    row = table.loc[(name, "mean difference of weight_drift")]
    assert (row.low, row.high) == pytest.approx(t_interval(first - second))


# --- options


def with_option() -> pd.DataFrame:
    """full_ft, three blocks frozen at two of its rates, and both under a penalty as well."""
    plain = pets(methods=("full_ft",)).assign(frozen_blocks=0)
    frozen = pets(methods=("full_ft",), rates=(1e-5, 5e-5)).assign(frozen_blocks=3)
    frozen = frozen.assign(run="f" + frozen["run"], accuracy=frozen["accuracy"] - 1)
    held = pets(methods=("full_ft",), rates=(1e-5,), penalty="apr").assign(frozen_blocks=3)
    return pd.concat([plain, frozen, held], ignore_index=True)


def test_an_option_stands_beside_the_usual_arm() -> None:
    """At matched rate and seed, by SciPy's tests; in families of its own; penalised arms are left out."""
    runs = with_option()
    asked = analyse(runs, ["options"], blocks=blocks(runs))
    sound(asked)
    table = asked["options"]
    name = "pets: full_ft frozen_blocks=3 - full_ft"
    assert set(table["group"]) == {
        f"{name}, {scope}" for scope in ("rate 1e-05", "rate 5e-05", "all common rates", "matched rate",
                                         "rate 1e-05, by block", "rate 5e-05, by block")
    }  # fmt: skip
    assert set(table["family"]) == {
        *(f"options, matched rate, {test}" for test in ("Welch t", "Mann-Whitney U", "paired t",
                                                        "Wilcoxon signed rank")),
        "options, blocks (descriptive), paired t", "options, blocks (descriptive), Wilcoxon signed rank", "",
    }  # fmt: skip
    plain = runs[runs["penalty"].isna()].sort_values(["learning_rate", "seed"])
    frozen = plain[plain["frozen_blocks"] == 3]["accuracy"].to_numpy()
    usual = plain[(plain["frozen_blocks"] == 0) & (plain["learning_rate"] >= 1e-5)]["accuracy"].to_numpy()
    rows = table.set_index(["group", "statistic", "test"])
    welch = rows.loc[(f"{name}, rate 5e-05", "t of accuracy", "Welch t")]
    theirs = stats.ttest_ind(frozen[3:], usual[3:], equal_var=False)
    assert (welch.value, welch.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    assert welch.n == "3+3"
    paired = rows.loc[(f"{name}, matched rate", "t of accuracy", "paired t")]
    both = stats.ttest_rel(frozen, usual)
    assert (paired.value, paired.p) == pytest.approx((both.statistic, both.pvalue))
    assert paired.n == "6"
    mean = rows.loc[(f"{name}, matched rate", "mean difference of accuracy", "mean difference")]
    assert mean.value == pytest.approx((frozen - usual).mean())


def test_options_without_an_arm_to_compare() -> None:
    """Two values equally often: none is usual, which is said; nothing varies: said as well."""
    runs = pets(methods=("lora",), rates=(1e-5,), seeds=(1, 2, 3, 4)).assign(rank=[4, 4, 8, 8])
    table = analyse(runs, ["options"])["options"].set_index("group")
    assert set(table.index) == {"pets: lora rank=4 - lora", "pets: lora rank=8 - lora"}
    assert set(table.note) == {"no arm has the usual options"}
    same = analyse(runs.assign(rank=8), ["options"])["options"]
    assert (same["group"].item(), same["note"].item()) == ("all", "no option varies")


def test_an_option_that_some_runs_lack_is_named() -> None:
    """Runs of somebody else's table without a rank are no runs of rank 8."""
    runs = pets(methods=("lora",), rates=(1e-5,), seeds=(1, 2, 3)).assign(rank=[None, 8, 8])
    assert list(prepared(runs)["variant"]) == ["lora rank=none", "lora", "lora"]
    groups = analyse(runs, ["options"])["options"]["group"]
    assert groups.str.startswith("pets: lora rank=none - lora, ").all()


# --- predictors: accuracy, and which signal orders better


def test_declared_signals_with_accuracy() -> None:
    """SciPy's correlations of cell means; p from all 24 orders; tests with retention stay as they were."""
    runs = study().assign(other_drift=np.arange(48.0))
    table = analyse(runs, ["predictors"])["predictors"]
    mine = table[table["statistic"].str.endswith(" with accuracy")]
    assert set(mine["family"]) == {"predictors, accuracy, Pearson", "predictors, accuracy, Spearman"}
    assert not mine["statistic"].str.contains("other|epoch1_|AUC").any()
    kept = table[table["statistic"] == "Spearman of weight_drift with retention_cifar100"]["group"]
    assert set(mine[mine["statistic"] == "Spearman of weight_drift with accuracy"]["group"]) == set(kept)
    names = ["target", "method", "learning_rate"]
    cells = runs.groupby(names)[["entropy_drift", "accuracy"]].mean()
    rows = mine.set_index(["group", "statistic"])
    for kind, of in (("Pearson", stats.pearsonr), ("Spearman", stats.spearmanr)):
        row = rows.loc[("all", f"{kind} of entropy_drift with accuracy")]
        assert (row.value, row.n) == (pytest.approx(of(*cells.to_numpy().T)[0]), "16")
        assert row.low < row.value < row.high
    few = cells.loc[("pets", "lora")]
    orders = [stats.pearsonr(few["entropy_drift"], y)[0] for y in itertools.permutations(few["accuracy"])]
    exact = np.mean(np.abs(orders) > abs(orders[0]) - 1e-9)
    assert rows.loc[("pets, lora", "Pearson of entropy_drift with accuracy")].p == pytest.approx(exact)
    without = analyse(runs.drop(columns=["accuracy", "validation_accuracy"]), ["predictors"])["predictors"]
    with_retention = [t[t["statistic"].str.contains("retention_")] for t in (table, without)]
    pd.testing.assert_frame_equal(*(t.reset_index(drop=True) for t in with_retention))
    assert "the table has no accuracy" in set(without["note"])


def test_which_signal_orders_retention_better() -> None:
    """By SciPy's rank correlations of cell means and SciPy's BCa over cells; over all and in each target."""
    runs = study(noise=1.0)
    runs["erf95_drift"] = runs["entropy_drift"] + 5 * np.sin(np.arange(48))
    runs["retention_b"] = -runs["gini_drift"]
    runs["representation_drift"] = 1 - runs["cka"]
    table = found(runs, "predictors")
    orders = table[table.index.get_level_values(1).str.startswith("oriented rho of ")]
    assert set(orders.index.get_level_values(0)) == {"all", "eurosat", "pets"}
    signed = orders[~orders.signal.isin(MAGNITUDES)]
    assert len(signed) == 3 * 2 * 4  # representation, weights, gini and erf95; two retentions
    assert set(signed.test) == {"description"}
    assert orders.p.isna().all()
    columns = ["representation_drift", "erf95_drift", "entropy_drift", "retention_cifar100"]
    cells = runs.groupby(["target", "method", "learning_rate"])[columns].mean()
    for group, part in (("all", cells), ("pets", cells.loc["pets"])):
        moved, field, entropy, kept = part.to_numpy().T
        plain = stats.spearmanr(entropy, kept)[0]  # entropy falls where ability is lost
        row = orders.loc[
            (group, "oriented rho of representation_drift - of entropy_drift, with retention_cifar100")
        ]
        assert row.value == pytest.approx(-stats.spearmanr(moved, kept)[0] - plain)
        assert (row.n, row.unit) == (str(len(part)), "cell")
        other = orders.loc[(group, "oriented rho of erf95_drift - of entropy_drift, with retention_cifar100")]
        assert other.value == pytest.approx(stats.spearmanr(field, kept)[0] - plain)

    def better(moved, entropy, kept, axis=-1):
        ranks = [stats.rankdata(v, axis=axis) for v in (moved, entropy, kept)]
        moved, entropy, kept = (r - r.mean(axis=axis, keepdims=True) for r in ranks)
        rho = [
            (v * kept).sum(axis) / np.sqrt((v**2).sum(axis) * (kept**2).sum(axis)) for v in (moved, entropy)
        ]
        return -rho[0] - rho[1]

    data = tuple(cells[c].to_numpy() for c in ("representation_drift", "entropy_drift", "retention_cifar100"))
    theirs = stats.bootstrap(data, better, paired=True, vectorized=True, n_resamples=4000, random_state=1)
    row = orders.loc[
        ("all", "oriented rho of representation_drift - of entropy_drift, with retention_cifar100")
    ]
    assert row.interval.startswith("BCa bootstrap over 16 cells")
    span = theirs.confidence_interval
    width = span.high - span.low
    assert (row.low, row.high) == pytest.approx((span.low, span.high), abs=0.25 * width)


def test_the_direction_counts_not_the_size() -> None:
    """A signal that orders perfectly the wrong way is worse by 2 than one that orders the right way."""
    runs = pets(methods=("lora",), noise=0).assign(retention_cifar100=lambda t: 100 * t["cka"])
    runs["entropy_drift"] = -runs["retention_cifar100"]
    row = found(runs, "predictors").loc[
        ("all", "oriented rho of representation_drift - of entropy_drift, with retention_cifar100")
    ]
    assert row.value == pytest.approx(2)
    assert row.note.startswith("above 0: representation_drift orders the cells better")
    bare = found(runs.drop(columns="entropy_drift"), "predictors").reset_index()
    said = bare[bare["statistic"].str.startswith("oriented rho of representation_drift")]
    assert set(said["note"]) == {"the table has no entropy_drift"}


# --- depth: over runs


def test_depth_has_intervals_over_runs() -> None:
    """Blocks are averaged within a run first; SciPy's interval over three runs; late against the others."""
    runs = pets(methods=("lora",), rates=(1e-5,))
    table = blocks(runs)
    drawn = np.random.default_rng(4).normal(-1, 1, len(table))
    table = table.assign(drift=drawn)
    rows = found(runs, "depth", blocks=table).loc["pets: lora, rate 1e-05"]
    grid = drawn.reshape(3, 12)  # runs, blocks
    expected = {
        "entropy, early blocks, mean drift in %": grid[:, :4].mean(1),
        "entropy, middle blocks, mean drift in %": grid[:, 4:8].mean(1),
        "entropy, late blocks, mean drift in %": grid[:, 8:].mean(1),
        "entropy, late blocks' |drift| minus the others', points": abs(grid[:, 8:]).mean(1)
        - abs(grid[:, :8]).mean(1),
    }
    for name, values in expected.items():
        row = rows.loc[name]
        assert (row.unit, row.n, row.test, row.interval) == ("run", "3", "description", "t over runs")
        assert row.value == pytest.approx(values.mean())
        assert (row.low, row.high) == pytest.approx(t_interval(values))
    alone = found(runs.iloc[:1], "depth", blocks=table).loc["pets: lora, rate 1e-05"]
    assert (alone.note[list(expected)] == "no interval: one run").all()
    holes = table.assign(drift=table["drift"].where((table["run"] != "r0") | (table["block"] != 2)))
    fewer = found(runs, "depth", blocks=holes).loc["pets: lora, rate 1e-05"]
    assert list(fewer.n[list(expected)]) == ["2", "3", "3", "2"]


# --- onset: with the rate


def falling(runs: pd.DataFrame, at: dict[float, int | None]) -> pd.DataFrame:
    """Entropy has fallen by 2 % from a step on that the rate sets; nowhere for None."""
    table = history(runs)
    rates = table["run"].map(runs.set_index("run")["learning_rate"])
    start = rates.map(at).astype(float)
    return table.assign(entropy_drift=np.where(table["step"] >= start, -2.0, 0.0))


def test_onset_goes_with_the_rate() -> None:
    """Spearman as SciPy ranks the shares; runs in which entropy never falls come last, all alike."""
    runs = pets(methods=("lora",))
    at = {1e-6: None, 5e-6: 40, 1e-5: 20, 5e-5: 10}
    row = found(runs, "onset", history=falling(runs, at)).loc[
        ("pets: lora", "Spearman of log_rate with onset")
    ]
    shares = [9.0 if at[rate] is None else at[rate] / 50 for rate in runs["learning_rate"]]
    assert row.value == pytest.approx(stats.spearmanr(runs["learning_rate"], shares)[0]) == pytest.approx(-1)
    assert (row.n, row.unit, row.family, row.p < 0.01) == ("12", "run", "onset, Spearman", True)
    assert row.test.startswith("Spearman, permutation")
    assert row.interval.endswith("over 4 cells, 200 resamples")
    assert row.note == "3 of 12 runs never, ranked last"
    up = found(runs, "onset", history=falling(runs, {1e-6: 10, 5e-6: 20, 1e-5: 20, 5e-5: 30}))
    row = up.loc[("pets: lora", "Spearman of log_rate with onset")]
    assert row.value == pytest.approx(stats.spearmanr([0, 1, 2, 3], [1, 2, 2, 3])[0])
    assert row.note == ""


def test_onset_that_never_comes() -> None:
    """No number where no run falls, or all fall at once; none is asked of an arm with one rate."""
    runs = pets(methods=("lora",), seeds=(1, 2))
    key = ("pets: lora", "Spearman of log_rate with onset")
    never = found(runs, "onset", history=falling(runs, dict.fromkeys(runs["learning_rate"]))).loc[key]
    assert (never.note, never.n) == ("no run's entropy falls by 1 %", "8")
    at_once = found(runs, "onset", history=history(runs)).loc[key]
    assert (at_once.note, np.isnan(at_once.value)) == ("no variance", True)
    one = pets(methods=("lora",), rates=(1e-5,))
    assert key not in found(one, "onset", history=history(one)).index
