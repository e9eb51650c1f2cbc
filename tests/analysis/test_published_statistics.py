"""Every published statistic that its published inputs determine, and those that do not follow."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from published_values import published, statistic
from scipy import stats

from clipdrift.analysis import analyse
from clipdrift.analysis.draws import Draws
from clipdrift.analysis.permutation import correlate
from clipdrift.analysis.rows import holm

DRAWS = Draws(np.random.default_rng(0), orders=200)


@pytest.mark.parametrize(("kind", "name"), [("Pearson", "rate_pearson"), ("Spearman", "rate_spearman")])
def test_rate_and_drift(kind: str, name: str) -> None:
    """Five rates: value and exact p as published."""
    runs = published("exploratory_runs").set_index("id")
    runs = runs.loc[["A1-1e-6", "A1-5e-6", "E2", "A1-5e-5", "A1-1e-4"]]
    found = correlate(np.log10(runs.learning_rate), runs.entropy_drift, kind, draws=DRAWS)  # type: ignore[arg-type]
    assert found.value == pytest.approx(statistic(name).value, abs=5e-4)
    assert found.p == pytest.approx(statistic(name).p, abs=5e-5)
    assert found.method == "exact permutation"


def test_holm_of_the_penalties() -> None:
    """From the five raw p-values, to their rounding; from the five t of 12 blocks, closer."""
    rows = published("statistics").set_index("id").filter(regex="^(apr|entropy_floor)_", axis=0)
    raw = dict(zip(rows.index, holm(rows.p), strict=True))
    fine = dict(zip(rows.index, holm(2 * stats.t.sf(rows.value, 11)), strict=True))
    assert np.allclose(2 * stats.t.sf(rows.value, 11), rows.p, atol=1e-3)
    for name in ("apr_0.01", "entropy_floor_0.1"):
        assert raw[name] == pytest.approx(rows.p_holm[name], abs=1e-3)
        assert fine[name] == pytest.approx(rows.p_holm[name], abs=1.5e-3)


def test_d_of_the_penalties_is_no_d_z() -> None:
    """A paired t of 12 fixes d_z = t / sqrt(12); the printed d are others."""
    rows = published("statistics").set_index("id").filter(regex="^(apr|entropy_floor)_", axis=0)
    assert (abs(rows.value / math.sqrt(12) - rows.d) > 0.1).all()


@pytest.mark.parametrize("row", range(4))
def test_grid_means(row: int) -> None:
    """The mean of the four published cells is the published mean."""
    mean = published("matched_grid_means").iloc[row]
    cells = published("matched_grid_cells")
    cells = cells[(cells.dataset == mean.dataset) & (cells.method == mean.method)]
    assert cells.seeds.sum() == mean.runs
    for column in ("entropy_drift", "best_val_acc", "cifar100_acc"):
        assert cells[column].mean() == pytest.approx(mean[column], abs=0.0101), column


@pytest.mark.parametrize("target", ["eurosat", "pets"])
@pytest.mark.parametrize(("column", "name"), [("cifar100_acc", "zero_shot"), ("best_val_acc", "accuracy")])
def test_grid_correlations(target: str, column: str, name: str) -> None:
    """Published over 40 runs, found over their 8 cell means to 0.01."""
    cells = published("matched_grid_cells")
    cells = cells[cells.dataset == target]
    found = correlate(cells.entropy_drift, cells[column], draws=DRAWS)
    assert round(found.value, 2) == pytest.approx(statistic(f"grid_{target}_{name}").value, abs=0.0101)


@pytest.mark.parametrize("name", ["eurosat_lora", "pets_lora", "eurosat_apr", "eurosat_entropy_floor"])
def test_seeds(name: str) -> None:
    """With three against three, t fixes the pooled d, p lies between those of 2 and 4 degrees."""
    row = statistic(f"seeds_{name}")
    assert row.value * math.sqrt(2 / 3) == pytest.approx(row.d, abs=1e-3)
    low, high = (2 * stats.t.sf(-row.value, freedom) for freedom in (4, 2))
    assert low <= row.p <= high


@pytest.mark.parametrize("name", ["depth_full_ft", "depth_lora"])
def test_depth(name: str) -> None:
    """F of three groups among 12 blocks has 2 and 9 degrees of freedom."""
    row = statistic(name)
    assert stats.f.sf(row.value, 2, 9) == pytest.approx(row.p, abs=2e-3)


def test_two_samples_of_blocks_are_not_12_and_12() -> None:
    """U and p fit 12 blocks of full_ft against 36 of three LoRA runs, not 12 against 12."""
    row = statistic("blocks_eurosat_mann_whitney")

    def p(n: int, m: int) -> float:
        z = (abs(row.value - n * m / 2) - 0.5) / math.sqrt(n * m * (n + m + 1) / 12)
        return float(2 * stats.norm.sf(z))

    assert p(12, 36) == pytest.approx(row.p, abs=1e-3)
    assert p(12, 12) < 0.01
    welch = statistic("blocks_eurosat_welch")
    assert 2 * stats.t.sf(-welch.value, 22) > welch.p + 5e-4


def test_cka() -> None:
    """Of 39 runs: the p of rho follows, that of r is smaller than printed."""

    def p(r: float) -> float:
        return float(2 * stats.t.sf(r * math.sqrt(37 / (1 - r * r)), 37))

    assert p(statistic("cka_spearman").value) == pytest.approx(statistic("cka_spearman").p, abs=5e-4)
    assert p(statistic("cka_pearson").value) < statistic("cka_pearson").p / 2
    assert p(statistic("cka_block_4_spearman").value) < 5e-5  # printed as 0.0000
    assert p(statistic("cka_block_4_pearson").value) < 5e-5


def _exploratory() -> pd.DataFrame:
    runs = published("exploratory_runs")
    for name in ("entropy", "erf95", "gini", "head_diversity"):
        change = 100 * (runs[f"{name}_final"] / runs[f"{name}_initial"] - 1)
        runs[f"{name}_drift"] = runs[f"{name}_drift"].fillna(change)
    return runs


def test_drifts_follow_from_initial_and_final() -> None:
    """Printed drifts are those of the printed values, to their rounding."""
    runs = published("exploratory_runs")
    for name, rounding in (("entropy", 0.03), ("erf95", 0.12), ("gini", 0.35), ("head_diversity", 1.5)):
        change = 100 * (runs[f"{name}_final"] / runs[f"{name}_initial"] - 1)
        assert (change - runs[f"{name}_drift"]).abs().max() <= rounding, name


@pytest.mark.parametrize(
    ("first", "second", "follows", "name"),
    [
        ("entropy_drift", "erf95_drift", 0.993, "runs_entropy_erf95"),
        ("entropy_drift", "gini_drift", -0.993, "runs_entropy_gini"),
        ("entropy_drift", "head_diversity_drift", -0.889, "runs_entropy_head_diversity"),
        ("entropy_drift", "best_val_acc", 0.206, "runs_entropy_accuracy"),
        ("erf95_drift", "gini_drift", -0.984, "runs_erf95_gini"),
    ],
)
def test_correlations_between_measures_do_not_follow(
    first: str, second: str, follows: float, name: str
) -> None:
    """What the published table of 21 runs gives is not what is printed."""
    runs = _exploratory()
    found = correlate(runs[first], runs[second], draws=DRAWS)
    assert found.value == pytest.approx(follows, abs=1e-3)
    assert abs(found.value - statistic(name).value) > 0.02


def test_head_diversity_hangs_on_two_runs() -> None:
    """Without the two highest rates its correlation with entropy changes sign."""
    runs = _exploratory()
    runs = runs[~runs.id.isin(["A1-5e-5", "A1-1e-4"])]
    assert 0.5 < correlate(runs.entropy_drift, runs.head_diversity_drift, draws=DRAWS).value < 0.7


def test_mean_cka_without_the_encoder_input() -> None:
    """13 values of which one is 0: over 12 blocks the means are higher by 13/12."""
    means = published("auxiliary").set_index("id").mean_cka_13_layers * 13 / 12
    assert means["E2"] == pytest.approx(0.752, abs=1e-3)
    assert means["E5"] == pytest.approx(0.883, abs=1e-3)


def test_through_the_questions() -> None:
    """The exploratory table as a frame of runs: the question of the rate gives the published answer."""
    runs = published("exploratory_runs").rename(
        columns={"id": "run", "dataset": "target", "lora_rank": "rank", "lora_targets": "matrices",
                 "frozen_layers": "frozen_blocks", "regularizer": "penalty",
                 "regularizer_weight": "penalty_weight"}
    )  # fmt: skip
    table = analyse(runs, ["rate"])["rate"]
    found = table[(table.n == "5") & table.statistic.str.endswith(" with entropy_drift")]
    assert list(found.value) == pytest.approx([-0.893, -1], abs=5e-4)
    assert list(found.p) == pytest.approx([0.0333, 0.0167], abs=5e-5)


def test_asymptotic_p_of_the_rate() -> None:
    """0.041 beside the exact 0.0333: SciPy's."""
    runs = published("exploratory_runs").set_index("id")
    runs = runs.loc[["A1-1e-6", "A1-5e-6", "E2", "A1-5e-5", "A1-1e-4"]]
    found = stats.pearsonr(np.log10(runs.learning_rate), runs.entropy_drift)
    assert found.pvalue == pytest.approx(0.041, abs=5e-4)


def test_36_blocks_of_three_lora_runs() -> None:
    """The middle of the printed interval of LoRA's blocks is the mean of ranks 4, 8 and 16, not of one."""
    drift = published("exploratory_runs").set_index("id").entropy_drift
    middle = (0.268 + 1.065) / 2
    assert drift[["E4", "E5", "E6"]].mean() == pytest.approx(middle, abs=5e-3)
    assert abs(drift[["E4", "E5", "E6"]] - middle).min() > 0.05


def test_accuracies_are_counts_of_test_images() -> None:
    """Each printed accuracy is a whole number of the 2,700 or 3,669 test images: all were read."""
    runs = published("exploratory_runs")
    images = runs.dataset.map({"eurosat": 2700, "pets": 3669})
    whole = 100 * (runs.best_val_acc / 100 * images).round() / images
    assert (whole - runs.best_val_acc).abs().max() < 0.0051


def test_backbones_repeat_the_exploratory_runs() -> None:
    """The B/32 rows of the comparison of backbones are E2 and E5."""
    runs = published("exploratory_runs").set_index("id")
    rows = published("backbones").query("backbone.str.endswith('32')").set_index("method")
    for method, run in (("full_ft", "E2"), ("lora", "E5")):
        for column in ("entropy_drift", "erf95_drift", "gini_drift", "best_val_acc"):
            assert rows.loc[method, column] == runs.loc[run, column]


def test_one_run_has_two_zero_shot_accuracies() -> None:
    """E2 was evaluated twice, with results 3 points apart: more than the rounding of either."""
    rows = published("zero_shot").query("id == 'E2'").set_index("evaluation").cifar100_acc
    assert rows["first"] - rows["second"] == pytest.approx(3.28, abs=0.01)
