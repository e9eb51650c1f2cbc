"""Early warnings: thresholds beside scikit-learn's curve, and never tested on what they were chosen on."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from clipdrift.analysis.warning import auc, best_threshold, first_crossings, judged, looks, warnings_of


@pytest.mark.parametrize("seed", range(6))
def test_threshold_and_area_are_those_of_the_curve(seed: int) -> None:
    rng = np.random.default_rng(seed)
    signal = np.round(rng.normal(size=60), 1 if seed % 2 else 6)  # with and without ties
    lost = rng.random(60) < 1 / (1 + np.exp(-2 * signal))
    alarms, hits, _ = roc_curve(lost, signal)
    sensitivity, specificity = judged(signal, lost, best_threshold(signal, lost))
    assert sensitivity + specificity - 1 == pytest.approx((hits - alarms).max())
    assert auc(signal, lost) == pytest.approx(roc_auc_score(lost, signal))


def test_a_threshold_lies_between_the_values_that_it_parts() -> None:
    signal, lost = np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True])
    assert best_threshold(signal, lost) == pytest.approx(0.5)
    assert judged(signal, lost, 0.5) == (1.0, 1.0)
    with pytest.raises(ValueError, match="lost runs and others"):
        best_threshold(signal, np.ones(4, bool))
    with pytest.raises(ValueError, match="nan"):
        best_threshold(np.array([0.1, math.nan]), np.array([True, False]))
    assert math.isnan(judged(signal, np.zeros(4, bool), 0.5)[0])
    assert math.isnan(auc(signal, np.zeros(4, bool)))


def test_a_look_is_the_last_one_by_then_and_never_a_later_one() -> None:
    steps = [5, 10, 50, 100, 30, 60]
    history = pd.DataFrame({"run": ["a"] * 4 + ["b"] * 2, "step": steps, "x": range(6)})
    runs = pd.DataFrame({"run": ["b", "a"], "steps": [60, 100]})
    early = looks(history, runs, 0.1, ["x"])["x"].tolist()
    assert early == pytest.approx([math.nan, 1], nan_ok=True)
    assert looks(history, runs, 0.5, ["x"])["x"].tolist() == [4, 2]
    assert looks(history, runs, 1.0, ["x"])["x"].tolist() == [5, 3]


def test_a_group_left_out_has_no_part_in_its_threshold() -> None:
    """The third target's signal is ten times as large: a threshold from the others accuses all its runs."""
    rng = np.random.default_rng(0)
    target = np.repeat(["a", "b", "c"], 40)
    kept = rng.uniform(20, 100, 120)
    signal = (100 - kept) / 100 * np.where(target == "c", 10, 1)
    runs = pd.DataFrame({"kept": kept, "target": target})
    seen = pd.DataFrame({"x": signal})
    found = {one.held: one for one in warnings_of(runs, seen, share=1, level=50, kept="kept", by="target")}
    assert set(found) == {"", "a", "b", "c"}
    assert found["c"].threshold == pytest.approx(0.5, abs=0.05)
    assert found["c"].specificity < 0.2
    assert found["c"].auc == 1
    assert found["c"].runs == 40
    assert found[""].runs == 120
    assert found["a"].lost == int(((kept < 50) & (target == "a")).sum())


def test_warnings_before_at_and_after_the_loss_are_told_apart() -> None:
    """By hand: a run warned in time, one at the look of its loss, one late, one never, one from the start."""
    looks_at, accuracy = [1, 2, 4, 8], [np.nan, 40.0, np.nan, 60.0]
    courses = {
        "before": ([0.0, 0.3, 0.4, 0.5], [99.0, 95.0, 85.0, 70.0]),
        "same": ([0.0, 0.1, 0.4, 0.5], [99.0, 95.0, 85.0, 70.0]),
        "late": ([0.0, 0.1, 0.2, 0.3], [99.0, 80.0, 75.0, 70.0]),
        "never": ([0.0, 0.1, 0.1, 0.1], [99.0, 99.0, 98.0, 98.0]),
        "at once": ([0.9, 0.9, 0.9, 0.9], [60.0, 50.0, 40.0, 30.0]),
    }
    history = pd.concat(
        pd.DataFrame(
            {"run": run, "step": looks_at, "signal": signal, "kept": kept, "validation_accuracy": accuracy}
        )
        for run, (signal, kept) in courses.items()
    )
    runs = pd.DataFrame({"run": [*courses], "steps": 8})
    found = first_crossings(
        history.sample(frac=1, random_state=0), runs, signal="signal", threshold=0.3, kept="kept", level=90
    )
    assert found["lead"].to_dict() == pytest.approx(
        {"before": 2, "same": 0, "late": -6, "never": np.nan, "at once": 0}, nan_ok=True
    )
    assert found.loc["before", ["warned", "lost", "kept_then"]].tolist() == [0.25, 0.5, 95]
    assert found["kept_before"].to_dict() == pytest.approx(
        {"before": 99, "same": 95, "late": 75, "never": np.nan, "at once": 100}, nan_ok=True
    )
    assert found["learnt_then"].tolist() == [40, 40, 60, 60, 0]
    assert (found["learnt"] == 60).all()
    assert found.loc["never", ["warned", "lost"]].isna().all()
