"""The check for machines with a GPU: limits, wheels, verdicts, page. What it runs is in tests/cuda."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def tool(place: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "tools" / "gpu")
    spec = importlib.util.spec_from_file_location(Path(place).stem, ROOT / "tools" / place)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, found)
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return tool("gpu_check.py", monkeypatch)


def test_a_part_that_takes_too_long_is_ended_with_all_its_processes(
    check: ModuleType, tmp_path: Path
) -> None:
    """What it has written stays."""
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(tmp_path / 'alive')!r}).touch()"
    code = "import subprocess, sys; print('begun', flush=True); "
    code += f"subprocess.run([sys.executable, '-c', {child!r}])"
    start = time.monotonic()
    end = check.do(check.Part("slow", 0.7, ("-c", code)), dict(os.environ), tmp_path / "log.txt")
    assert time.monotonic() - start < 2.5
    assert end["ended"] == "cut off after 0.7 s"
    assert end["status"] != 0
    assert "begun" in (tmp_path / "log.txt").read_text()
    quick = check.do(
        check.Part("quick", 20, ("-c", "print('whole')")), dict(os.environ), tmp_path / "log.txt"
    )
    assert (quick["ended"], quick["status"]) == ("in time", 0)
    time.sleep(max(0.0, start + 3.5 - time.monotonic()))
    assert not (tmp_path / "alive").exists()


def test_only_what_is_missing_is_unpacked(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package goes with those that it is made for; one that is neither here nor brought is named."""
    groups = (("pathlib", ("pathlib",)), ("gone", ("gone", "gone_core")))
    monkeypatch.setattr(check, "GROUPS", groups)
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir()
    with pytest.raises(SystemExit, match="no wheel of gone, gone_core"):
        check.install(wheels, site)
    for name in ("gone", "gone_core", "pathlib"):
        with zipfile.ZipFile(wheels / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", "")
    assert check.install(wheels, site) == ["gone-1.0-py3-none-any.whl", "gone_core-1.0-py3-none-any.whl"]
    assert sorted(path.name for path in site.iterdir()) == ["gone", "gone_core"]


def row(seed: int, **values: Any) -> dict[str, Any]:
    return {"method": "lora", "learning_rate": 1e-3, "seed": seed, "seconds": 1.0, **values}


def test_agreement_is_within_the_spread_of_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    study = tool("gpu/study.py", monkeypatch)
    there = [row(1, accuracy=50.0, cka=0.90), row(2, accuracy=58.0, cka=0.905)]
    found = study.agreement([row(1, accuracy=60.0, cka=0.93), row(2, accuracy=62.0, cka=0.93)], there)
    assert found["lora 0.001: accuracy"] == {
        "here": 61.0, "processor": 54.0, "spread_of_seeds": 8.0, "agrees": True,
    }  # fmt: skip
    assert (
        found["lora 0.001: cka"]["agrees"] is False
    )  # 0.0275 apart; seeds 0.005, and 0.02 would be let pass
    committed = json.loads((ROOT / "evidence" / "quickstart-cpu.json").read_text())["runs"]
    assert len(committed) == 16
    assert all(one["agrees"] for one in study.agreement(committed, committed).values())


def test_results_become_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the device's name; a rehearsal's are refused, and without any the page says so."""
    results = tool("gpu_results.py", monkeypatch)
    monkeypatch.setattr(results, "COMMITTED", tmp_path / "committed")
    monkeypatch.setattr(results, "PAGE", tmp_path / "gpu.md")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    results.main([])
    assert "Nothing yet: no check has been run on a GPU" in (tmp_path / "gpu.md").read_text()
    out = tmp_path / "out"
    out.mkdir()
    about = {
        "device": "Fake GPU 80GB",
        "gib": 79.1,
        "driver": "1",
        "cuda": "13.0",
        "torch": "2.11",
        "peft": "1",
    }
    about |= {"transformers": "5.17", "python": "3.12"}
    told: dict[str, Any] = {"machine": about, "date": "2026-01-02", "seconds": 100.5}
    told |= {
        "tests": {"passed": 3, "failed": 1},
        "failed": ["test_x"],
        "parts": {"tests": {"ended": "in time", "seconds": 9}},
    }
    (out / "summary.json").write_text(json.dumps(told))
    speed = {
        "matrix rate": {"flop_a_second": 7.9e14},
        "training, lora, ViT-B/32, batch 64": {
            "clipdrift": {"images_a_second": 1000.0, "peak_gib": 3.0}, "plain": {"failed": "out of memory"},
            "share_of_matrix_rate": 0.123,
        },
        "training, lora, ViT-L/14, batch 64": "left out, for want of time",
    }  # fmt: skip
    (out / "speed.json").write_text(json.dumps(speed))
    results.main([str(out)])
    page = (tmp_path / "gpu.md").read_text()
    for words in (
        "## Fake GPU 80GB", "3 passed, 1 failed", "failed: `test_x`", "790 TFLOP/s",
        "| lora, ViT-B/32, batch 64 | 1000.0 | out of memory |  | 12.3 % | 3.0 |  |",
        "left out, for want of time",
    ):  # fmt: skip
        assert words in page
    assert (tmp_path / "committed" / "fake-gpu-80gb" / "speed.json").is_file()
    told["machine"] = about | {"device": "cpu"}
    (out / "summary.json").write_text(json.dumps(told))
    with pytest.raises(SystemExit, match="a rehearsal without a GPU"):
        results.main([str(out)])


def test_the_page_is_what_the_committed_results_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tool("gpu_results.py", monkeypatch)
    committed = results.PAGE.read_text()
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "PAGE", tmp_path / "gpu.md")
    results.main([])
    assert (tmp_path / "gpu.md").read_text() == committed
