"""Every question of a study: positive controls, degenerate studies, what is said where there is no number."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_studies import blocks, history, paths, study, with_penalty

import clipdrift
from clipdrift.analysis import AnalyseError, analyse
from clipdrift.analysis.choosing import pareto
from clipdrift.analysis.questions import ASKED
from clipdrift.analysis.rows import COLUMNS
from clipdrift.study import QUESTIONS

LIGHT = ("rate", "methods", "penalties", "choosing")


def everything(runs: pd.DataFrame, questions=None) -> dict[str, pd.DataFrame]:
    return analyse(runs, questions, blocks=blocks(runs), history=history(runs), paths=paths(runs))


def sound(tables: dict[str, pd.DataFrame]) -> None:
    """Each row has a number or says why not; names its unit; intervals and p are in range."""
    for name, table in tables.items():
        assert tuple(table.columns) == COLUMNS
        assert len(table), name
        assert (table.question == name).all()
        assert (table.unit != "").all()
        assert (table.value.notna() | (table.note != "")).all(), name
        assert table.p.dropna().between(0, 1).all()
        assert (table.p_corrected.dropna() >= table.p[table.p_corrected.notna()]).all()
        assert ((table.low <= table.high) | table.low.isna()).all()
        assert (table.interval[table.low.notna()] != "").all()


@pytest.fixture(scope="module")
def whole() -> dict[str, pd.DataFrame]:
    return everything(with_penalty())


def test_every_question_is_answered(whole: dict[str, pd.DataFrame]) -> None:
    """The questions of a study's file are those of the analysis, each with numbers."""
    assert set(whole) == set(ASKED) == set(QUESTIONS)
    sound(whole)
    for name, table in whole.items():
        assert table.value.notna().any(), name
        assert not table.duplicated(["group", "statistic", "test"]).any(), name


def test_rate_moves_drift(whole: dict[str, pd.DataFrame]) -> None:
    """The built-in direction is found, by the correlation and by the mixed model."""
    table = whole["rate"]
    simple = table[table.statistic == "Pearson of log_rate with entropy_drift"]
    assert len(simple) == 6
    assert (simple.value < -0.9).all()
    assert (simple.p_corrected < 0.05).all()
    assert simple.interval.str.contains("over cells").all()
    model = table.set_index("statistic").value
    assert model["mixed model of entropy_drift: log_rate"] == pytest.approx(-4, abs=0.4)
    assert model["mixed model of entropy_drift: log_rate x lora"] == pytest.approx(3, abs=0.4)


def test_methods_differ(whole: dict[str, pd.DataFrame]) -> None:
    """full_ft moves further at matched rate, by every test; the pairs are those of equal rate and seed."""
    table = whole["methods"]
    found = table[table.statistic.str.endswith(" of weight_drift") & table.group.str.contains("matched rate")]
    assert set(found.test) == {"paired t", "Wilcoxon signed rank"}
    assert (found.n == "12").all()
    assert (found.effect > 0.8).all()
    assert table.group.str.contains("matched weight drift").any()
    assert table.group.str.contains("matched accuracy").any()
    overall = table[table.group.str.contains("all common rates") & (table.test == "Welch t")]
    assert overall.interval.str.contains("over cells").all()


def test_penalties_against_none(whole: dict[str, pd.DataFrame]) -> None:
    """A penalty that halves the drift is seen, against the same method without it."""
    table = whole["penalties"]
    assert table.group.str.contains("apr").all()
    found = table[(table.test == "paired t") & table.statistic.str.endswith(" weight_drift")]
    assert (found.value < 0).all()
    assert (table.p_corrected.notna() == table.p.notna()).all()


def test_predictors_have_a_direction(whole: dict[str, pd.DataFrame]) -> None:
    """A signal that makes the loss has AUC near 1; one without direction is marked as found in the sample."""
    table = whole["predictors"]
    areas = table[table.statistic.str.startswith("AUC of weight_drift")]
    assert (areas.value > 0.9).all()
    assert areas.note.str.contains("fixed in advance").all()
    runs = study().assign(odd_drift=np.arange(48.0))
    odd = analyse(runs, ["predictors"])["predictors"]
    assert (
        odd[odd.statistic.str.startswith("AUC of odd_drift")].note.str.startswith("in-sample optimum").all()
    )
    flipped = analyse(runs.assign(weight_drift=-runs.weight_drift), ["predictors"])["predictors"]
    assert (flipped[flipped.statistic.str.startswith("AUC of weight_drift")].value < 0.1).all()


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
    assert (
        table.note["regret in retention_c of the pick by entropy_drift"] == "the table has no entropy_drift"
    )
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
    assert depth.unit.str.contains("descriptive").all()
    late = depth[depth.statistic == "entropy, late blocks, mean drift in %"]
    assert late.value.to_numpy() == pytest.approx(-0.9)
    assert (depth[depth.statistic == "F of entropy by third"].p < 0.001).all()


@pytest.mark.parametrize(
    "runs",
    [
        study().iloc[:1], study().iloc[:0], study(seeds=(7,)), study(rates=(1e-5,)), study(noise=0),
        study().assign(entropy_drift=1.0), study().assign(retention_cifar100=np.nan),
        study(methods=("lora",)),
        study().drop(index=range(3)), study()[["target", "method", "learning_rate"]],
        study().drop(columns=["cka", "weight_drift", "accuracy", "validation_accuracy", "penalty"]),
        study().assign(status=["diverged", *["done"] * 47]), study().assign(learning_rate=0.0),
    ],
    ids=["one run", "none", "one seed", "one rate", "no noise", "constant", "nan", "one method",
         "missing cell",
         "bare", "few columns", "diverged", "rate 0"],
)  # fmt: skip
def test_degenerate_studies(runs: pd.DataFrame) -> None:
    """Nothing breaks, and every row has a number or a reason."""
    sound(everything(runs.reset_index(drop=True)))


def test_any_run_may_be_missing() -> None:
    """A study half done is analysed as far as it goes: whichever run is not there."""
    runs = pd.concat(
        [
            study(rates=(1e-6, 1e-5), seeds=(1, 2)),
            study(rates=(1e-5,), seeds=(1,), methods=("full_ft",), penalty="apr"),
        ]
    )
    for gone in runs["run"]:
        sound(everything(runs[runs["run"] != gone]))


def test_order_of_runs_does_not_matter() -> None:
    """The same rows from a shuffled table, to the draws of the resampling."""
    runs = with_penalty()
    one = analyse(runs, LIGHT)
    other = analyse(runs.sample(frac=1, random_state=3), LIGHT)
    for name in ("rate", "choosing"):
        a, b = (t[name].set_index(["group", "statistic", "test"]).value for t in (one, other))
        assert a.sort_index().to_numpy() == pytest.approx(b.sort_index().to_numpy(), nan_ok=True, rel=1e-4)


def test_same_generator_same_table() -> None:
    """A table depends on nothing but its runs; the generator is passed."""
    runs = study(seeds=(1, 2))
    alone = analyse(runs, ["rate"])["rate"]
    pd.testing.assert_frame_equal(alone, analyse(runs, ["choosing", "rate"])["rate"])
    other = analyse(runs, ["rate"], rng=np.random.default_rng(9))["rate"]
    assert alone.value.equals(other.value)
    assert not alone.low.equals(other.low)


def test_errors_name_what_is_wrong() -> None:
    """A missing column, an unknown question, a run twice."""
    with pytest.raises(AnalyseError, match="no column target"):
        analyse(pd.DataFrame({"method": ["lora"]}))
    with pytest.raises(AnalyseError, match="no such question: depht"):
        analyse(study(), ["depht"])
    with pytest.raises(AnalyseError, match="run r0 stands twice"):
        analyse(pd.concat([study(), study()]))
    assert clipdrift.analyse is analyse
