"""Advice from monitors' logs: what each training's last measurement says, or what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

import clipdrift
from made_logs import made_log


def logs(place: Path) -> None:
    for rate, last in ((1e-5, 15), (1e-4, 35)):
        config = {"target": "terrain", "method": "full", "learning_rate": rate, "seed": 1}
        made_log(place / f"at{rate:g}", range(5, last, 5), config=config)


def test_a_folder_of_logs_without_accuracy_says_that_it_lacks_one(tmp_path: Path) -> None:
    logs(tmp_path)
    found = clipdrift.advise(tmp_path)
    (place,) = found.places
    assert not found.answered
    assert any("no run has an accuracy" in line for line in found.summary())
    assert place.cells is None


def test_logs_with_accuracy_are_advised_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower rate has moved a tenth and keeps 90 %; the other keeps 70 %."""
    from clipdrift.study.tables import Tables

    logs(tmp_path)
    tables = Tables.of(tmp_path)
    (column,) = [c for c in tables.runs if c.startswith("retention_")]
    frame = tables.runs.assign(accuracy=[60.0, 80.0])
    best = clipdrift.advise(Tables(frame), keep=85).places[0].cells
    assert best is not None
    assert best.best is not None
    row = frame[frame[column] >= 85].iloc[0]
    assert (best.best.rate, best.best.mean("kept")) == (row["learning_rate"], pytest.approx(row[column]))
