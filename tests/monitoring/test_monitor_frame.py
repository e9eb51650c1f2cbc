"""Logs of monitors as tables: the numbers of the log under the names that tables of runs have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import clipdrift
from clipdrift.monitoring.course import column_of, read_course
from clipdrift.monitoring.errors import MonitorError
from clipdrift.monitoring.frames import settings
from clipdrift.monitoring.log import checked_config
from clipdrift.outcomes.keys import select
from clipdrift.reporting import report
from clipdrift.study.tables import ResultsError, Tables
from made_logs import made_log, made_row


def test_every_measurement_is_a_row_under_the_names_of_runs(tmp_path: Path) -> None:
    frame = clipdrift.frame(made_log(tmp_path / "first", texts=True, config={"learning_rate": 1e-4}))
    assert list(frame["run"].unique()) == ["first"]
    assert list(frame["step"]) == list(range(5, 45, 5))
    row = frame[frame["step"] == 20].iloc[0]
    log = made_row(20, texts=True)
    for column, key in {
        "cka": "drift/cka",
        "entropy": "measure/entropy",
        "entropy_drift": "drift/entropy",
        "embedding_drift": "drift/embedding_drift",
        "weight_drift": "drift/weight_drift",
        "zero_shot_agreement": "drift/zero_shot_agreement",
        "retention_objects": "retention/objects",
        "zero_shot_objects": "zero_shot/objects",
        "text_cka": "drift/text_cka",
        "modality_gap_change": "drift/modality_gap",
        "cka_of_last_block": "drift/cka/block_3",
        "entropy_drift_of_last_block": "drift/entropy/block_3",
    }.items():
        assert row[column] == log[key], column
    assert row["learning_rate"] == 1e-4
    assert row["good"]


def test_blocks_are_rows_of_their_own(tmp_path: Path) -> None:
    blocks = clipdrift.frame(made_log(tmp_path / "first", [5, 10]), of="blocks")
    assert len(blocks) == 2 * 2 * 3
    one = blocks.set_index(["step", "measure", "block"]).loc[(10, "entropy", 2)]
    assert one["drift"] == made_row(10)["drift/entropy/block_2"]
    assert pd.isna(one["value"])
    assert blocks.set_index(["step", "measure", "block"]).loc[(10, "cka", 3), "value"] == 1 - 0.075


def test_the_last_measurement_is_the_result_of_a_run(tmp_path: Path) -> None:
    made_log(tmp_path / "good", config={"optim": {"lr": 1e-4}, "method": "lora"})
    made_log(tmp_path / "bad", ends=json.dumps(made_row(45) | {"drift/cka": float("nan")}) + "\n")
    runs = clipdrift.frame(tmp_path, of="runs").set_index("run")
    assert dict(runs["status"]) == {"bad": "diverged", "good": "done"}
    assert runs.loc["good", "step"] == 40
    assert runs.loc["good", "lr"] == 1e-4
    assert runs.loc["good", "backbone_zero_shot_objects"] == 60
    assert runs.loc["good", "backbone_chance_p_objects"] < 1e-6


def test_trainings_are_named_by_their_folders_and_told_apart(tmp_path: Path) -> None:
    """A folder with the default name says nothing; two of one name stand with all that is above them."""
    made_log(tmp_path / "a" / "drift", [5])
    made_log(tmp_path / "b" / "drift", [5])
    assert list(clipdrift.frame(tmp_path)["run"]) == ["a", "b"]
    made_log(tmp_path / "other" / "a", [5])
    names = list(clipdrift.frame([tmp_path, tmp_path / "b" / "drift"])["run"])
    assert len(set(names)) == 3
    assert str(tmp_path / "other" / "a") in names
    log = tmp_path / "a" / "drift" / "drift.jsonl"
    assert list(clipdrift.frame(log)["run"]) == ["a"]


def test_damaged_lines_odd_values_and_missing_files(tmp_path: Path) -> None:
    odd = json.dumps(made_row(50) | {"drift/cka": "high", "said": None})
    out = made_log(tmp_path / "odd", ends=f'{{"step": \n[1]\n{odd}\n')
    frame = clipdrift.frame(out)
    assert len(frame) == 9
    assert pd.isna(frame["cka"].iloc[-1])
    assert read_course(out).damaged == 2
    (out / "monitor.json").write_text("{")
    course = read_course(out)
    assert "monitor.json cannot be read" in course.problems[0]
    assert not course.conditions
    (out / "monitor.json").unlink()
    assert "monitor.json is missing" in read_course(out).problems[0]
    with pytest.raises(MonitorError, match=r"no drift\.jsonl"):
        clipdrift.frame(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "drift.jsonl").touch()
    with pytest.raises(MonitorError, match="no whole row"):
        clipdrift.frame(tmp_path / "empty")
    with pytest.raises(MonitorError, match="measurements, blocks or runs"):
        clipdrift.frame(out, of="rows")  # type: ignore[arg-type]


def test_settings_are_cut_to_names_that_tell_them_apart() -> None:
    found = settings(
        {"optim": {"lr": 1, "name": "adam"}, "model": {"name": "b"}, "step": 3, "layers": [1, 2]}
    )
    assert found == {"lr": 1, "optim.name": "adam", "model.name": "b", "config_step": 3, "layers": "[1, 2]"}


def test_what_a_config_may_hold() -> None:
    assert checked_config({"lr": 1e-5, "layers": [1]}) == {"lr": 1e-5, "layers": [1]}
    with pytest.raises(MonitorError, match="config: path is a PosixPath"):
        checked_config({"path": Path("a")})
    with pytest.raises(MonitorError, match="a dictionary"):
        checked_config("lr=1")


def test_what_no_column_is() -> None:
    assert [column_of(key) for key in ("step", "said", "drift/", "lr")] == [None] * 4


def _study(root: Path) -> Path:
    for number, (method, rate) in enumerate([(m, r) for m in ("full", "lora") for r in (1e-5, 1e-4, 1e-3)]):
        steps = range(5, 15 + 10 * number, 5)
        made_log(
            root / f"{method}-{rate:g}", steps, config={"method": method, "lr": rate, "dataset": "birds"}
        )
    return root


def test_trainings_of_others_are_analysed_and_reported(tmp_path: Path) -> None:
    """A folder of monitors' folders is a study: runs that lack something are named with what they lack."""
    made_log(_study(tmp_path) / "untold", config={"method": "full"})
    tables = Tables.open(tmp_path)
    assert len(tables.runs) == 6
    assert set(tables.runs["target"]) == {"birds"}
    assert "untold is left out: its monitor was not told target and learning_rate" in tables.notes
    assert tables.rows("rate")["value"].notna().any()
    done = report(tmp_path, tmp_path / "report")
    assert "untold is left out" in done.page.read_text()
    drawn = {file.stem for file in done.figures}
    assert {"matched_rates", "block_drift", "onset"} <= drawn
    assert "training" not in drawn  # by epochs, of which logs say nothing


def test_depth_and_onset_of_watched_trainings_are_answered(tmp_path: Path) -> None:
    """Oracle: the made logs: entropy falls by 0.1 % a step, in block b by b / 20 %."""
    for file in _study(tmp_path).glob("*/drift.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            row |= {f"drift/entropy/block_{b}": -row["step"] * b / 20 for b in range(1, 7)}
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tables = Tables.open(tmp_path)
    last = tables.history.groupby("run")["step"].max()
    late = select(tables.rows("depth"), "late blocks")
    assert sorted(late["value"]) == pytest.approx(sorted(-step * 5.5 / 20 for step in last))
    begun = select(tables.rows("onset"), "onset step")["value"].dropna()
    assert (len(begun), set(begun)) == (6, {10.0})  # the first measurement at which 1 % is reached
    assert set(tables.keep([last.index[0]]).blocks["run"]) == {last.index[0]}
    cka = tables.history_blocks("cka")
    assert len(cka) == 3 * len(tables.history)
    assert {"epoch"}.isdisjoint(cka)


def test_trainings_that_say_nothing_are_no_study(tmp_path: Path) -> None:
    made_log(tmp_path / "one")
    with pytest.raises(ResultsError, match="no training says its method"):
        Tables.of(tmp_path)
    with pytest.raises(ResultsError, match="no finished run here"):
        Tables.of(tmp_path / "nowhere")


def test_frames_load_no_torch(tmp_path: Path) -> None:
    made_log(tmp_path / "one")
    code = f"import sys, clipdrift; clipdrift.frame({str(tmp_path)!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
