"""Sizes of drifts, the last block, correlations over runs: what they add, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_studies import study
from scipy import stats

from clipdrift.analysis import analyse, choosing, predictors
from clipdrift.analysis.rows import holm
from clipdrift.outcomes.columns import MAGNITUDES, outcome
from clipdrift.study.frames import blocks_frame, records_in, runs_frame
from generated import generated_study


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    """Entropy moves either way and costs retention by its size alone; the last block tells it better."""
    found, draw = study(noise=0.5), np.random.default_rng(3)
    size = found["weight_drift"] * 100
    found["entropy_drift"] = size * np.where(np.arange(48) % 4 < 2, 1, -1)
    found["entropy_drift_of_last_block"] = found["entropy_drift"] * (2 + 0.1 * draw.normal(size=48))
    found["cka_of_last_block"] = 1 - 0.2 * size + 0.01 * draw.normal(size=48)
    found["retention_cifar100"] = 100 - 25 * size
    return found


@pytest.fixture(scope="module")
def table(runs: pd.DataFrame) -> pd.DataFrame:
    return analyse(runs, ["predictors"])["predictors"]


def test_the_size_goes_with_the_loss_where_the_sign_hides_it(table: pd.DataFrame) -> None:
    """Higher AUC and rank correlation than the signed drift, in the direction that was fixed."""
    areas = table[table["quantity"] == "AUC"].set_index(["signal", "moment"])
    assert areas.loc[("entropy_magnitude", ""), "value"] > 0.95
    assert areas.loc[("entropy_drift", ""), "value"] < 0.8
    assert areas.loc[("cka_of_last_block", ""), "value"] > 0.95
    said = areas["note"]
    assert "higher means loss" in said[("entropy_magnitude_of_last_block", "")]
    assert "lower means loss" in said[("cka_of_last_block", "")]
    better = table[(table["quantity"] == "oriented rho") & (table["population"] == "all")].set_index("signal")
    assert better.loc["entropy_magnitude", "low"] > 0


def test_they_are_families_of_their_own(runs: pd.DataFrame, table: pd.DataFrame) -> None:
    """No p-value, corrected p-value or interval of another row hangs on whether they are asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictors, "MAGNITUDES", {})
        patch.setattr(
            choosing, "DIRECTIONS", {k: v for k, v in choosing.DIRECTIONS.items() if k not in MAGNITUDES}
        )
        without = analyse(runs.drop(columns=["cka_of_last_block"]), ["predictors", "choosing"])
    others = table[~table["signal"].isin(MAGNITUDES)].reset_index(drop=True)
    plain = without["predictors"]
    plain = plain[~plain["signal"].isin(MAGNITUDES)].reset_index(drop=True)
    pd.testing.assert_frame_equal(others, plain)
    own = table[table["signal"].isin(MAGNITUDES) & table["p"].notna()]
    assert len(own) > 20
    assert own["family"].str.contains("magnitudes").all()
    assert not others["family"].str.contains("magnitudes").any()
    for _, family in own.groupby("family"):
        assert family["p_corrected"].tolist() == pytest.approx(holm(family["p"]))
    picks = analyse(runs, ["choosing"])["choosing"]
    rest = picks[~picks["signal"].isin(MAGNITUDES)].reset_index(drop=True)
    pd.testing.assert_frame_equal(rest, without["choosing"])
    assert set(MAGNITUDES) <= set(picks["signal"])


def test_a_table_without_blocks_says_so() -> None:
    """One row each, with the column that is missing."""
    rows = analyse(study(), ["predictors", "choosing"])
    about = rows["predictors"][rows["predictors"]["signal"] == "entropy_magnitude_of_last_block"]
    assert "the table has no entropy_drift_of_last_block" in set(about["note"])
    assert about["value"].isna().all()
    about = rows["choosing"][rows["choosing"]["signal"] == "cka_of_last_block"]
    assert set(about["note"]) == {"the table has no cka_of_last_block"}


def test_correlations_over_runs_are_scipys_and_test_nothing(runs: pd.DataFrame, table: pd.DataFrame) -> None:
    over = table[table["over"] == "run"]
    assert over["p"].isna().all()
    assert (over["unit"] == "run").all()
    assert (over["test"] == "description").all()
    assert over["note"].str.contains("runs of a cell are not independent").all()
    assert over["statistic"].str.endswith(", over runs").all()
    for place, here in (("", runs), ("pets", runs[runs["target"] == "pets"])):
        for name, test in (("Pearson", stats.pearsonr), ("Spearman", stats.spearmanr)):
            row = over[
                (over["place"] == place) & (over["quantity"] == name) & (over["signal"] == "weight_drift")
                & (over["outcome"] == "retention_cifar100") & (over["moment"] == "")
            ]  # fmt: skip
            assert len(row) == 1
            assert row["n"].iloc[0] == str(len(here))
            wanted = test(here["weight_drift"], here["retention_cifar100"])[0]
            assert row["value"].iloc[0] == pytest.approx(wanted)
    beside = table[(table["quantity"] == "Pearson") & (table["over"] == "")]
    assert {(r.signal, r.outcome) for r in over.itertuples()} <= {
        (r.signal, r.outcome) for r in beside.itertuples()
    }


def test_records_hold_the_last_block(tmp_path: Path) -> None:
    """Entropy's drift and CKA of the last block, at every moment, as the table by block has them."""
    generated_study(tmp_path, targets=("pets",), rates=(1e-5,), seeds=(7,), epochs=2, blocks=6)
    records = list(records_in(tmp_path))
    frame = runs_frame(records).set_index("run")
    blocks = blocks_frame(records)
    for measure, kind in (("entropy", "drift"), ("cka", "value")):
        column = "entropy_drift_of_last_block" if measure == "entropy" else "cka_of_last_block"
        last = blocks[(blocks["measure"] == measure) & (blocks["block"] == 6)].set_index("run")[kind]
        assert frame[column].to_dict() == last.to_dict()
        assert {f"last_{column}", f"epoch1_{column}"} <= set(frame)
    assert outcome("last_cka_of_last_block").moment == "last"
