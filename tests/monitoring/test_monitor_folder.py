"""A monitor's folder: pictures of attention, gaps where measuring failed, one monitor at a time."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipdrift.measures.shown import attention_shares
from clipdrift.model.clip import Clip
from clipdrift.monitoring import log
from clipdrift.monitoring.course import read_course
from clipdrift.monitoring.errors import MonitorError
from clipdrift.monitoring.frames import frame
from clipdrift.monitoring.monitor import DriftMonitor
from clipdrift.monitoring.pictures import read_before_and_now
from clipdrift.reporting.monitoring import write_report
from clipdrift.rules import Rules
from made_logs import made_log, made_row
from page_reading import Page

Tiny = Callable[[], Any]


def _moved(model: Any, by: float = 0.3) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.vision_model.encoder.parameters():
            weight += by * torch.randn_like(weight) * weight.std().nan_to_num()


@pytest.fixture
def pictured(tiny_whole: Clip, photos: list[Image.Image], tmp_path: Path) -> DriftMonitor:
    """A monitor on pictures, whose attention can be shown."""
    return DriftMonitor(tiny_whole, photos, every=1, out=tmp_path / "d", on_error="raise", budget=None)


def test_attention_is_kept_as_the_model_has_it(pictured: DriftMonitor, tiny_whole: Clip) -> None:
    """The same as a pass of its own reads, before and at the last measurement; four images, apart."""
    deck: Any = pictured._given.probe.images
    images = deck.images(np.array([0, 3, 6, 9]))
    before = attention_shares(tiny_whole.model, images)[:, -1].mean(1)
    pictured.step()
    _moved(tiny_whole.model)
    pictured.step()
    found = read_before_and_now(pictured.out)
    assert found.step == 2
    np.testing.assert_allclose(found.before.shares, before, atol=1e-6)
    np.testing.assert_allclose(
        found.now, attention_shares(tiny_whole.model, images)[:, -1].mean(1), atol=1e-6
    )
    assert np.abs(found.now - before).max() > 1e-3
    assert found.before.images.dtype == np.uint8
    assert sum(file.stat().st_size for file in pictured.out.rglob("attention.npz")) < 20_000


def test_the_page_shows_attention_before_and_now(pictured: DriftMonitor) -> None:
    pictured.step()
    page = Page.of(pictured.report().read_text(encoding="utf-8"))
    assert page.errors == []
    assert "in the backbone, after step 1, and the difference" in page.id("attention").text
    assert (pictured.out / "figures" / "attention.png").is_file()


def test_a_folder_without_pictures_goes_on_and_says_why(
    pictured: DriftMonitor, tiny_whole: Clip, photos: list[Image.Image]
) -> None:
    """As an earlier release made it; and one whose pictures are damaged."""
    pictured.step()
    pictured.close()
    kept = pictured.out / "backbone" / "attention.npz"
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    assert (
        "attention.npz cannot be read" in Page.of(write_report(pictured.out).read_text()).id("attention").text
    )
    kept.unlink()
    again = DriftMonitor(tiny_whole, photos, every=1, out=pictured.out, on_error="raise", budget=None)
    assert again.step()["drift/cka"] == pytest.approx(1)
    assert "an earlier release made this folder" in Page.of(again.report().read_text()).id("attention").text


def test_tensors_have_no_pictures(tiny: Tiny, pixels: torch.Tensor, tmp_path: Path) -> None:
    monitor = DriftMonitor(tiny(), pixels, every=1, out=tmp_path / "d", on_error="raise", budget=None)
    monitor.step()
    assert not list(monitor.out.rglob("attention.npz"))
    assert "given as tensors" in Page.of(monitor.report().read_text()).id("attention").text


def test_a_failed_measurement_leaves_a_row_and_no_count(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path
) -> None:
    """Three measurements of which the second fails: patience of two is reached by the third."""
    model = tiny()
    rules = Rules(warn_when="weight_drift >= 0", patience=2)
    monitor = DriftMonitor(model, pixels, every=1, rules=rules, out=tmp_path / "d", budget=None)
    monitor.step()
    weight = model.visual_projection.weight.detach().clone()
    with torch.no_grad():
        model.visual_projection.weight[0, 0] = float("nan")
    assert monitor.step() is None
    with torch.no_grad():
        model.visual_projection.weight.copy_(weight)
    row = monitor.step()
    assert sum("weight_drift is 0" in line for line in row["said"]) == 1
    assert [row["step"] for row in monitor.rows] == [1, 3]
    rows, damaged = log.read(tmp_path / "d")
    assert ([row["step"] for row in rows], damaged) == ([1, 2, 3], 0)
    assert "nan or inf" in rows[1]["failed"]
    assert "\n" not in rows[1]["failed"]
    state = monitor.state_dict()
    monitor.load_state_dict(state)
    assert [row["step"] for row in monitor.rows] == [1, 3]


def _failed(step: int, broken: bool = False) -> str:
    return json.dumps(log.failed_row(step, "MeasureError: a wall", broken) | {"said": []}) + "\n"


def test_tables_and_pages_show_the_gap(tmp_path: Path) -> None:
    out = made_log(tmp_path / "mine", ends=_failed(45) + json.dumps(made_row(50)) + "\n")
    found = frame(out)
    assert list(found["step"])[-3:] == [40, 45, 50]
    assert math.isnan(found["cka"].iloc[-2])
    assert list(found["failed"].fillna(""))[-3:] == ["", "MeasureError: a wall", ""]
    page = Page.of(write_report(out).read_text(encoding="utf-8"))
    assert "1 measurement failed, at step 45 (MeasureError: a wall); there is a gap." in page.id("notes").text
    assert "step 45, failed: not measured (MeasureError: a wall)" in page.id("said").text
    assert sum(1 for e in page.all("tr") if e["data-row"]) == 9  # of measurements; the gap has none
    assert frame(out, of="runs").loc[0, ["status", "step"]].tolist() == ["done", 50]
    (out / "drift.jsonl").write_text(json.dumps(made_row(5)) + "\n" + _failed(10, broken=True))
    assert frame(out, of="runs").loc[0, ["status", "step"]].tolist() == ["diverged", 5]


def test_nothing_but_failures_is_said(tmp_path: Path) -> None:
    out = made_log(tmp_path / "mine", [], ends=_failed(5) + _failed(10))
    assert read_course(out).alive
    with pytest.raises(
        MonitorError, match="each of its 2 measurements failed, at step 10: MeasureError: a wall"
    ):
        frame(out)


def test_a_second_monitor_in_a_folder_is_refused(tiny: Tiny, pixels: torch.Tensor, tmp_path: Path) -> None:
    """Until the first is closed, or nothing names it any more; one that could not be made holds nothing."""
    first = DriftMonitor(tiny(), pixels, out=tmp_path / "d")
    with pytest.raises(
        MonitorError, match=rf"process {os.getpid()} .* has a monitor at work there; close\(\)"
    ):
        DriftMonitor(tiny(), pixels, out=tmp_path / "d")
    first.close()
    second = DriftMonitor(tiny(), pixels, out=tmp_path / "d")
    with pytest.raises(MonitorError, match="has a monitor at work there"):
        first.attach()
    circle = [second]
    circle.append(circle)  # type: ignore[arg-type]
    del second, circle
    with pytest.raises(MonitorError, match="other images"):
        DriftMonitor(tiny(), pixels + 1, out=tmp_path / "d")
    first.attach()
    assert first.measure()["drift/cka"] == pytest.approx(1)


def test_a_killed_process_holds_no_folder(tiny: Tiny, pixels: torch.Tensor, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from clipdrift.runs.locks import claim\n"
        f"with claim(Path({str(tmp_path / 'd')!r})):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(MonitorError, match=f"process {other.pid} .* has a monitor at work there"):
            DriftMonitor(tiny(), pixels, out=tmp_path / "d")
        other.send_signal(signal.SIGKILL)
    DriftMonitor(tiny(), pixels, out=tmp_path / "d")
