"""Signals of the text tower: what they add, in which families, and that runs without them are counted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_studies import study
from scipy import stats

from clipdrift.analysis import analyse
from clipdrift.analysis.rows import holm
from clipdrift.analysis.runs import prepared
from clipdrift.figures.registry import draw
from clipdrift.outcomes.columns import TEXT_SIGNALS, outcome
from clipdrift.reporting.summary import summary
from clipdrift.reporting.tables import questions_tables
from clipdrift.study.tables import Tables


@pytest.fixture(scope="module")
def plain() -> pd.DataFrame:
    return study(targets=("captions",), noise=0.5)


@pytest.fixture(scope="module")
def runs(plain: pd.DataFrame) -> pd.DataFrame:
    """LoRA leaves the text tower as it is; the drift of texts tells what is kept."""
    found, draw = plain.copy(), np.random.default_rng(3)
    moved = (100 - found["retention_cifar100"]) / 100
    found["text_cka"] = 1 - 0.2 * moved + 0.001 * draw.normal(size=len(found))
    found["text_weight_drift"] = 0.1 * moved
    found["text_entropy_drift"] = draw.normal(size=len(found))
    texts = [name for name in found if name.startswith("text_")]
    found.loc[found["method"] == "lora", texts] = np.nan
    return found


def test_they_are_read_with_their_directions() -> None:
    for name, rises in TEXT_SIGNALS.items():
        assert (outcome(name).kind, outcome(name).direction) == ("drift", -rises)
    assert outcome("text_embedding_drift").unit == outcome("text_weight_drift").unit == ""
    assert outcome("text_entropy_drift").unit == "%"
    assert outcome("epoch1_text_representation_drift").moment == "epoch1"


def test_they_are_predictors_in_families_of_their_own(plain: pd.DataFrame, runs: pd.DataFrame) -> None:
    """Their values by SciPy; every row that is not about them is as without them."""
    without, table = (analyse(frame, ["predictors"])["predictors"] for frame in (plain, runs))
    mine = table[table["signal"].isin(TEXT_SIGNALS)]
    others = table[~table["signal"].isin(TEXT_SIGNALS)].reset_index(drop=True)
    pd.testing.assert_frame_equal(others, without)
    assert set(mine["signal"]) == {"text_representation_drift", "text_weight_drift", "text_entropy_drift"}
    cells = runs[runs["method"] == "full_ft"].groupby("learning_rate").mean(numeric_only=True)
    of_all = mine[(mine["population"] == "all") & (mine["over"] == "") & (mine["moment"] == "")]
    for name, values in {
        "text_weight_drift": cells["text_weight_drift"],
        "text_representation_drift": 1 - cells["text_cka"],
    }.items():
        row = of_all[(of_all["signal"] == name) & (of_all["quantity"] == "Spearman")].iloc[0]
        expected = stats.spearmanr(values, cells["retention_cifar100"]).statistic
        assert row["value"] == pytest.approx(expected)
        assert row["n"] == "4"
    tested = table[table["family"] != ""]
    for family, rows in tested.groupby("family"):
        about = rows["signal"].isin(TEXT_SIGNALS)
        assert about.all() or not about.any(), family
        known = rows.dropna(subset=["p"])
        assert np.allclose(known["p_corrected"], holm(known["p"].to_numpy()))
    area = of_all[(of_all["quantity"] == "AUC") & (of_all["signal"] == "text_weight_drift")].iloc[0]
    assert "higher means loss" in area["note"]
    assert "oriented rho" in set(mine["quantity"])


def test_runs_without_them_are_counted_and_said(runs: pd.DataFrame) -> None:
    found = analyse(runs, ["predictors", "choosing"])
    table = found["predictors"]
    about = table[table["signal"].isin(TEXT_SIGNALS)]
    assert len(about)
    assert about["note"].str.contains("12 of 24 runs leave the text tower as it is").all()
    choosing = found["choosing"]
    missing = choosing[choosing["signal"] == "text_weight_drift"].iloc[0]
    assert "of the runs to choose from have no text_weight_drift" in missing["note"]
    whole = runs.assign(text_weight_drift=runs["weight_drift"])
    regret = analyse(whole, ["choosing"])["choosing"].set_index("signal")["value"]
    assert regret["text_weight_drift"] == pytest.approx(regret["weight_drift"])


def test_a_study_of_images_alone_is_not_asked_for_them(plain: pd.DataFrame) -> None:
    for name in ("predictors", "choosing"):
        table = analyse(plain, [name])[name]
        assert not table["signal"].astype(str).str.startswith("text_").any()
        assert not table["note"].astype(str).str.contains("text").any()


def test_the_report_names_them(runs: pd.DataFrame) -> None:
    """The sentence, the axes, and how many runs have none."""
    tables = Tables(prepared(runs.assign(status="done")))
    said = [sentence.text for sentence in summary(tables, questions_tables(tables))]
    (about,) = (text for text in said if "text tower's 3 declared signals" in text)
    assert "12 of 24 runs leave the text tower as it is" in about
    figure = draw("drift_zero_shot", tables)
    assert "CKA of texts (1: same)" in {axis.get_xlabel() for axis in figure.axes}
    assert any("12 runs leave the text tower as it is" in text.get_text() for text in figure.texts)
    ranked = draw("predictors", tables).axes[0].get_yticklabels()
    assert {"1 − CKA, text", "weight drift, text"} <= {text.get_text() for text in ranked}
