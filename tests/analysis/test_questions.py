"""Every question of a study: positive controls, and what each row must say."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from made_studies import everything, sound, study, with_penalty

import clipdrift
from clipdrift.analysis import AnalyseError, analyse
from clipdrift.analysis.choosing import pareto
from clipdrift.analysis.questions import ASKED
from clipdrift.study.plan import QUESTIONS


@pytest.fixture(scope="module")
def whole() -> dict[str, pd.DataFrame]:
    return everything(with_penalty())


def test_every_question_is_answered(whole: dict[str, pd.DataFrame]) -> None:
    """The questions of a study's file are those of the analysis, each with numbers."""
    assert set(whole) == set(ASKED) == set(QUESTIONS)
    sound(whole)
    for name, table in whole.items():
        assert table.value.notna().any() or name == "options", name  # none varies here: test_differences
        one = table[~table.statistic.str.contains("Pareto set")]  # a set has several members
        assert not one.duplicated(["group", "statistic", "test"]).any(), name


def test_rate_moves_drift(whole: dict[str, pd.DataFrame]) -> None:
    """The built-in direction is found, by the correlation and by the mixed model."""
    table = whole["rate"]
    simple = table[table.statistic == "Pearson of log_rate with entropy_drift"]
    assert len(simple) == 6
    assert (simple.value < -0.9).all()
    assert (simple.p_corrected < 0.05).all()
    assert simple.interval.str.contains("over 4 cells").all()
    model = table.set_index("statistic").value
    assert model["mixed model of entropy_drift: log_rate"] == pytest.approx(-4, abs=0.4)
    assert model["mixed model of entropy_drift: log_rate x lora"] == pytest.approx(3, abs=0.4)


def test_methods_differ(whole: dict[str, pd.DataFrame]) -> None:
    """full_ft moves further at matched rate, by every test; the pairs are those of equal rate and seed."""
    table = whole["methods"]
    found = table[table.statistic.str.endswith(" of weight_drift") & table.group.str.endswith("matched rate")]
    assert set(found.test) == {"paired t", "Wilcoxon signed rank", "mean difference"}
    assert (found.n == "12").all()
    assert (found.effect.dropna() > 0.8).all()
    overall = table[table.group.str.contains("all common rates") & (table.test == "Welch t")]
    assert overall.interval.str.contains(r"over 4\+4 cells").all()
    blocks = table[table.group.str.contains("by block")]
    assert (blocks.unit == "block (descriptive)").all()
    assert set(blocks.note) == {"no variance"}  # the made blocks drift alike


def test_matched_weight_drift_and_accuracy() -> None:
    """Where retention hangs on weight drift alone, methods differ at matched rate, not at matched drift."""
    runs = study(targets=("pets",), noise=0.3)
    runs["retention_cifar100"] = 100 - 2000 * runs["weight_drift"]
    runs["accuracy"] = 90 + 3 * runs["method"].eq("lora") + 0.1 * np.log10(runs["learning_rate"])
    table = analyse(runs, ["methods"])["methods"].set_index(["group", "statistic"])
    group = "pets: full_ft - lora, "
    at_rate = table.loc[(f"{group}matched rate", "t of retention_cifar100")]
    at_drift = table.loc[(f"{group}matched weight drift", "t of retention_cifar100")]
    assert at_rate.p < 0.001
    assert int(at_drift.n) >= 3
    assert at_drift.p > 0.1
    unmatched = {"0 pairs; 2 are needed", "no pair with a value"}
    assert set(table.loc[f"{group}matched accuracy"].note) == unmatched


def test_many_methods_are_compared_with_one() -> None:
    """Six methods: five comparisons with full_ft, not fifteen."""
    names = ("bias_only", "dora", "full_ft", "lora", "lora_plus", "norm_only")
    runs = study(targets=("pets",), methods=names, rates=(1e-5,), seeds=(1, 2))
    groups = analyse(runs, ["methods"])["methods"].group.str.split(",").str[0].unique()
    assert sorted(groups) == sorted(f"pets: full_ft - {name}" for name in names if name != "full_ft")


def test_penalties_against_none(whole: dict[str, pd.DataFrame]) -> None:
    """A penalty that halves the drift is seen, against the same method without it."""
    table = whole["penalties"]
    assert table.group.str.contains("apr").all()
    found = table[(table.test == "paired t") & table.statistic.str.endswith(" weight_drift")]
    assert len(found) == 2
    assert (found.value < 0).all()
    assert (table.p_corrected.notna() == table.p.notna()).all()


def test_predictors_have_a_direction(whole: dict[str, pd.DataFrame]) -> None:
    """A signal that makes the loss has AUC near 1; one without direction is marked as found in the sample."""
    table = whole["predictors"]
    areas = table[table.statistic.str.startswith("AUC of weight_drift")]
    assert (areas.value > 0.9).all()
    assert areas.note.str.contains("fixed in advance").all()
    runs = study()[["target", "method", "learning_rate", "seed", "weight_drift", "retention_cifar100"]]
    runs = runs.assign(odd_drift=np.arange(48.0), weight_drift=-runs.weight_drift)
    found = analyse(runs, ["predictors"])["predictors"].set_index("statistic")
    odd = found.loc["AUC of odd_drift for retention_cifar100 < 50 %"]
    assert odd.note.startswith("in-sample optimum")
    assert found.value["AUC of weight_drift for retention_cifar100 < 50 %"] < 0.1


def test_choosing() -> None:
    """Three runs by hand: the least moved keeps most; accuracy picks the worst; two are on the front."""
    runs = pd.DataFrame(
        {"target": "t", "method": "m", "learning_rate": [1, 2, 3], "validation_accuracy": [98.5, 99, 98.9],
         "accuracy": [98, 99, 97], "weight_drift": [0.1, 0.3, 0.2], "retention_c": [90.0, 30.0, 60.0]}
    )  # fmt: skip
    table = analyse(runs, ["choosing"])["choosing"].set_index("statistic")
    assert table.value["regret in retention_c of the pick by weight_drift"] == 0
    assert table.value["regret in retention_c of the pick by validation_accuracy"] == 60
    assert table.effect["regret in retention_c of the pick by weight_drift"] == 30
    said = table.note["regret in retention_c of the pick by entropy_drift"]
    assert said == "the table has no entropy_drift"
    front = table.loc["retention_c on the Pareto set of accuracy and retention_c"]
    assert list(front.value) == [90, 30]
    assert list(pareto(np.array([1, 1, 0]), np.array([1, 1, 1]))) == [True, True, False]


def test_along_the_course(whole: dict[str, pd.DataFrame]) -> None:
    """Onset at the known step, the spread of known epochs, the top of a known path, the late blocks."""
    onset = whole["onset"]
    assert (onset[onset.statistic.str.startswith("step")].value == 20).all()
    assert (onset[onset.statistic.str.startswith("largest")].value == -0.05).all()
    assert whole["convergence"].value.to_numpy() == pytest.approx(1 / 4 - 1 / 6)
    kept = whole["interpolation"][whole["interpolation"].statistic.str.startswith("retention")]
    assert kept.value.to_numpy() == pytest.approx(20)
    assert (kept.effect == 0.5).all()
    depth = whole["depth"]
    over_runs = depth.statistic.str.contains(r"mean drift in %|\|drift\|")
    assert (depth.unit.str.contains("descriptive") != over_runs).all()
    assert set(depth.unit[over_runs]) == {"run"}
    late = depth[depth.statistic == "entropy, late blocks, mean drift in %"]
    assert late.value.to_numpy() == pytest.approx(-0.925)  # 0.1 x (0, 1, 2, 0) of blocks 9 to 12, minus 1
    assert (depth[depth.statistic == "F of entropy by third"].p < 0.001).all()


def test_same_generator_same_table() -> None:
    """A table depends on nothing but its runs, not on their order; the generator is passed."""
    runs = study(seeds=(1, 2), targets=("pets",))
    alone = analyse(runs, ["methods"])["methods"]
    pd.testing.assert_frame_equal(alone, analyse(runs, ["choosing", "methods"])["methods"])
    mixed = runs.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(alone, analyse(mixed, ["methods"])["methods"])
    other = analyse(runs, ["methods"], rng=np.random.default_rng(9))["methods"]
    assert alone.value.equals(other.value)
    assert not alone.low.equals(other.low)


def test_errors_name_what_is_wrong() -> None:
    """A missing column, an unknown question, a run twice, a rate in words."""
    with pytest.raises(AnalyseError, match="no column target"):
        analyse(pd.DataFrame({"method": ["lora"]}))
    with pytest.raises(AnalyseError, match="no such question: depht"):
        analyse(study(), ["depht"])
    with pytest.raises(AnalyseError, match="run r0 stands twice"):
        analyse(pd.concat([study(), study()]))
    with pytest.raises(AnalyseError, match=r"learning_rate: .*high"):
        analyse(study().assign(learning_rate="high"))


def test_analyse_loads_no_torch() -> None:
    """The public name, in a fresh process."""
    assert clipdrift.analyse is analyse
    code = "import clipdrift, sys; clipdrift.analyse; print(sorted({'torch', 'peft'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"


def test_declared_signals_have_families_of_their_own() -> None:
    """Looking at a hundred measures more must not change what is said of the declared seven."""
    few = study(targets=("pets",))
    many = few.assign(**{f"other{i}_drift": few["entropy_drift"] * (i + 1) for i in range(5)})
    for question in ("rate", "predictors", "measures"):
        small, large = (analyse(frame, [question])[question] for frame in (few, many))
        assert len(large) > len(small)
        declared = [t[~t["family"].str.contains("further") & t["p"].notna()] for t in (small, large)]
        assert len(declared[0]) > 0
        assert list(declared[0]["p_corrected"]) == pytest.approx(list(declared[1]["p_corrected"]), abs=0.02)
        assert not declared[1]["statistic"].str.contains("other|epoch1_").any()
