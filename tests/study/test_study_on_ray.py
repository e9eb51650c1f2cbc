"""Runs on a real local Ray cluster: the same records, and a killed worker's run goes on in another."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from clipdrift.config import ConfigError
from clipdrift.runs.layout import CHECKPOINT, OWNER
from clipdrift.runs.store import Store
from clipdrift.study.engines import on_ray, pick_engine
from clipdrift.study.engines.here import run_here
from clipdrift.study.engines.jobs import SilentWatcher, StudyJob, StudyOptions, jobs_of
from clipdrift.study.engines.on_ray import RayEngine
from clipdrift.study.plan import study_of
from small_runs import Lab, settings, write_folder


@pytest.fixture
def lab(tiny_clip_dir: Path, tmp_path: Path) -> Lab:
    pictures = write_folder(tmp_path / "colours")
    return Lab(tiny_clip_dir, pictures, tmp_path / "cache", lambda: tmp_path / "unused")


def jobs(lab: Lab, epochs: int) -> tuple[StudyJob, ...]:
    base = settings(lab.model, lab.pictures)
    base["optim"]["epochs"] = epochs
    plan = {"name": "small", "seeds": [1, 2], "base": base, "axes": {"method": ["linear_probe", "full_ft"]}}
    return jobs_of(study_of(plan))


def kill_one_worker(out: Path, wanted: tuple[StudyJob, ...], killed: list[str]) -> None:
    """Kill the first worker that is seen to have written a checkpoint of a run that takes a while."""
    until = time.monotonic() + 240
    while time.monotonic() < until and not killed:
        for job in wanted:
            folder = out / job.key
            if not (folder / CHECKPOINT).is_file():
                continue
            try:
                owner = json.loads((folder / OWNER).read_text())
                os.kill(int(owner["pid"]), signal.SIGKILL)
            except (OSError, ValueError, KeyError):
                continue
            killed.append(job.key)
            return
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_a_killed_workers_run_goes_on_in_another(lab: Lab, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    wanted = jobs(lab, epochs=40)
    here, there = tmp_path / "here", tmp_path / "there"
    plain = run_here(wanted, StudyOptions(out=here, cache=lab.cache, device="cpu"), SilentWatcher())
    assert [outcome.ending for outcome in plain] == ["done"] * 4
    ray.init(num_cpus=2, logging_level="ERROR", log_to_driver=False, include_dashboard=False)
    killed: list[str] = []
    long_ones = tuple(job for job in wanted if job.config.method.name == "full_ft")
    killer = threading.Thread(target=kill_one_worker, args=(there, long_ones, killed))
    try:
        killer.start()
        how = StudyOptions(out=there, cache=lab.cache, device="cpu", checkpoint_every=0.5)
        outcomes = RayEngine(cpus=1.0)(wanted, how, SilentWatcher())
        killer.join()
    finally:
        ray.shutdown()
    assert killed, "no worker was killed in mid-run"
    assert [(o.key, o.ending) for o in outcomes] == [(job.key, "done") for job in wanted]
    for job in wanted:
        one, other = (Store(root).folder(job.key).record() for root in (here, there))
        assert one.without_times() == other.without_times()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_the_cluster_cannot_hold_is_refused(lab: Lab, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    ray.init(num_cpus=1, num_gpus=0, logging_level="ERROR", log_to_driver=False, include_dashboard=False)
    how = StudyOptions(out=tmp_path, cache=lab.cache, device="cpu")
    try:
        with pytest.raises(ConfigError, match=r"--gpus-per-run 0.5: the Ray cluster has 0 GPU in all"):
            RayEngine(gpus=0.5)(jobs(lab, 1), how, SilentWatcher())
        with pytest.raises(ConfigError, match=r"--cpus-per-run 9: the Ray cluster has 1 CPU in all"):
            RayEngine(cpus=9)(jobs(lab, 1), how, SilentWatcher())
    finally:
        ray.shutdown()


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'clipdrift\[ray\]'"):
        on_ray._ray()


def test_the_engine_gets_its_options() -> None:
    found: Any = pick_engine("ray", "auto", 0.25, 2)
    assert found == RayEngine("auto", 0.25, 2)
    assert pick_engine("ray") == RayEngine(None, 0.0, 1.0)
    assert pick_engine("here") is run_here
