"""A training that is interrupted goes on against the same backbone; what is on disk is verified."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trainings

from clipdrift.model.clip import Clip
from clipdrift.monitoring import log
from clipdrift.monitoring.errors import MonitorError
from clipdrift.monitoring.monitor import DriftMonitor
from clipdrift.rules import Rules

Tiny = Callable[[], Any]


def _made(model: Any, pixels: torch.Tensor, out: Path, **more: Any) -> DriftMonitor:
    given: dict[str, Any] = {"every": 1, "on_error": "raise", "budget": None} | more
    return DriftMonitor(model, pixels, out=out, **given)


def _without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in ("time", "seconds")} for row in rows]


def _steps(model: Any, monitor: DriftMonitor, first: int, last: int) -> None:
    """Plain gradient descent, which has no state of its own."""
    for number, (pixels, ids) in enumerate(trainings.batches(last), start=1):
        if number <= first:
            continue
        model.zero_grad()
        trainings.loss_of(model, pixels, ids).backward()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.grad is not None:
                    weight -= 1e-3 * weight.grad
        monitor.step()


def test_a_resumed_training_gives_the_rows_of_one_in_one_piece(
    tiny: Tiny, pixels: torch.Tensor, tiny_whole: Clip, tmp_path: Path
) -> None:
    """Texts too; killed after step 4, with the checkpoint of step 3: rows after it are done again."""
    how = {
        "processor": tiny_whole,
        "texts": [f"a photo of {i} dogs" for i in range(6)],
        "rules": Rules(warn_when="weight_drift > 0", patience=4),
        "monitor": "drift/embedding_drift",
        "patience": 50,
    }
    trainings.seeded()
    model = tiny()
    one = _made(model, pixels, tmp_path / "whole", **how)
    _steps(model, one, 0, 6)

    trainings.seeded()
    model = tiny()
    first = _made(model, pixels, tmp_path / "cut", **how)
    _steps(model, first, 0, 3)
    saved, weights = json.loads(json.dumps(first.state_dict())), copy.deepcopy(model.state_dict())
    _steps(model, first, 3, 4)
    first.close()  # as the end of its process does

    trainings.seeded()
    _ = list(trainings.batches(3))
    model = tiny()
    model.load_state_dict(weights)  # as a training of others resumes, before or after the monitor is made
    second = _made(model, pixels, tmp_path / "cut", **how)
    assert any("from which it differs already" in line for line in second.said)
    second.load_state_dict(saved)
    assert [row["step"] for row in second.rows] == [1, 2, 3]
    trainings.seeded()
    _steps(model, second, 3, 6)
    assert _without_times(log.read(tmp_path / "cut")[0]) == _without_times(one.rows)
    assert sum("weight_drift" in line for row in second.rows for line in row["said"]) == 1
    assert (tmp_path / "cut/drift.1.jsonl").is_file()  # nothing is lost
    assert any("1 rows after step 3 moved" in line for line in second.said)


def test_a_new_training_in_the_same_folder_moves_the_old_log(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path
) -> None:
    _made(tiny(), pixels, tmp_path / "d").measure()
    again = _made(tiny(), pixels, tmp_path / "d")
    assert not again.said  # the same backbone, to the bit
    again.measure()
    assert len(log.read(tmp_path / "d")[0]) == 1
    assert len(log.read(tmp_path / "d/drift.1.jsonl")[0]) == 1


def test_another_model_images_or_texts_in_the_folder_are_refused_or_said(
    tiny: Tiny, pixels: torch.Tensor, tiny_whole: Clip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "d"
    _made(tiny(), pixels, out)
    with pytest.raises(MonitorError, match="other images"):
        _made(tiny(), pixels + 1, out)
    with pytest.raises(MonitorError, match="other texts"):
        _made(tiny(), pixels, out, processor=tiny_whole, texts=["one", "two"])
    another = tiny()
    with torch.no_grad():
        for weight in another.parameters():
            weight.normal_(0, 0.1)
    _made(another, pixels, out).measure()
    assert any("it is another model, or" in record.message for record in caplog.records)


@pytest.mark.parametrize("file", ["weights.safetensors", "numbers.kept", "backbone.json"])
def test_a_damaged_backbone_is_never_compared_with(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path, file: str
) -> None:
    _made(tiny(), pixels, tmp_path / "d")
    place = tmp_path / "d/backbone" / file
    content = bytearray(place.read_bytes())
    content[len(content) // 2] ^= 4
    place.write_bytes(content if file != "backbone.json" else content[: len(content) // 2])
    with pytest.raises(MonitorError, match="damaged"):
        _made(tiny(), pixels, tmp_path / "d")


def test_a_state_of_something_else_is_refused(tiny: Tiny, pixels: torch.Tensor, tmp_path: Path) -> None:
    monitor = _made(tiny(), pixels, tmp_path / "d")
    state = monitor.state_dict()
    with pytest.raises(MonitorError, match="format"):
        monitor.load_state_dict(state | {"format": 99})
    with pytest.raises(MonitorError, match="other images"):
        monitor.load_state_dict(state | {"backbone": "0" * 16})


def test_a_log_with_a_line_that_was_cut_is_read_and_counted(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path
) -> None:
    monitor = _made(tiny(), pixels, tmp_path / "d")
    monitor.measure()
    with (tmp_path / "d" / log.LOG).open("a") as file:
        file.write('{"step": 7, "drift/cka": 0.')
    monitor.measure()
    rows, damaged = log.read(tmp_path / "d")
    assert (len(rows), damaged) == (2, 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_said_once(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "locked"
    place.mkdir(mode=0o500)
    _cannot_write(_made(tiny(), pixels, place / "d", on_error="warn"), caplog)


def test_a_place_that_cannot_be_written_is_said_once_and_the_training_goes_on(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file where the folder should be: everything is measured, weights too, and nothing is kept."""
    (tmp_path / "d").write_text("in the way")
    _cannot_write(_made(tiny(), pixels, tmp_path / "d", on_error="warn"), caplog)
    assert (tmp_path / "d").read_text() == "in the way"


def _cannot_write(monitor: DriftMonitor, caplog: pytest.LogCaptureFixture) -> None:
    rows = [monitor.step() for _ in range(3)]
    assert all(row["drift/weight_drift"] == 0 for row in rows)
    said = [record.message for record in caplog.records if "cannot be written" in record.message]
    assert len(said) == 1
    assert monitor.good is None


def test_a_full_disk_in_the_middle_is_said_once_and_what_was_written_is_whole(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monitor = _made(tiny(), pixels, tmp_path / "d", on_error="warn")
    monitor.step()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clipdrift.monitoring.keeping.save_file", full)
    monkeypatch.setattr(type(monitor._inner), "save_pretrained", full)
    monkeypatch.setattr("clipdrift.monitoring.log.append", full)
    assert monitor.step()["drift/cka"] == pytest.approx(1)
    assert monitor.step()["drift/cka"] == pytest.approx(1)
    assert sum("cannot be written" in record.message for record in caplog.records) == 1
    assert json.loads((monitor.good / "clipdrift.json").read_text())["step"] == 1
    assert len(log.read(tmp_path / "d")[0]) == 1


def test_a_measurement_or_a_logger_that_fails_never_stops_a_training(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_numbers: dict[str, float], _step: int) -> None:
        raise RuntimeError("no network")

    model = tiny()
    monitor = _made(model, pixels, tmp_path / "d", on_error="warn", logger=broken)
    assert monitor.step() is not None
    with torch.no_grad():
        model.visual_projection.weight[0, 0] = float("inf")
    assert monitor.step() is None
    assert monitor.step() is None
    texts = [record.message for record in caplog.records]
    assert sum("the logger failed (RuntimeError: no network)" in text for text in texts) == 1
    assert sum("not measured" in text for text in texts) == 1
    told: dict[str, float] = {}
    working = _made(tiny(), pixels, tmp_path / "e", logger=lambda n, s: told.update(n), prefix="clip/")
    working.measure()
    assert told["clip/drift/cka"] == pytest.approx(1)
    assert not any("block_" in key for key in told)


def test_a_folder_that_is_deleted_meanwhile_is_made_again(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path
) -> None:
    monitor = _made(tiny(), pixels, tmp_path / "d")
    monitor.step()
    shutil.rmtree(tmp_path / "d")
    row = monitor.step()
    assert row is not None
    assert row["drift/weight_drift"] == 0
    assert log.read(tmp_path / "d")[0] == [row]
