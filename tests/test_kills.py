"""Killed at any moment, stopped by any signal, out of room: nothing is lost, and the result is the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import small_runs
from clipdrift.runs.record import Record
from clipdrift.runs.store import RunFolder, Store
from small_runs import Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
FILES = {"config.json": 1, "checkpoint.pt": 2, "weights.json": 1, "record.json": 1}
"""And at which time of its being written to die."""
POINTS = [
    *([name, where, nth] for name, nth in FILES.items() for where in ("half", "whole", "renamed")),
    ["checkpoint.pt", "half", 1],
    ["metrics.jsonl", "renamed", 1],
    ["weights", "", 1],
]
KINDS: dict[str, dict[str, Any]] = {
    "full_ft": {"method": "full_ft", "penalty": ["ldifs"]},
    "lora": {"method": {"name": "lora", "dropout": 0.3}, "evaluation": {"per_epoch": 2}},
    "lp_ft": {"method": {"name": "lp_ft", "probe_epochs": 2}},
}


def same(one: RunFolder, other: RunFolder) -> None:
    """Record, metrics and weights to the bit, and nothing left over."""
    assert one.record().without_times() == other.record().without_times()
    assert (one.path / "metrics.jsonl").read_bytes() == (other.path / "metrics.jsonl").read_bytes()
    names = {file.name for file in one.path.iterdir()}
    assert names == {file.name for file in other.path.iterdir()}
    for file in (one.path / "model").glob("*.safetensors"):
        first, second = load_file(file), load_file(other.path / "model" / file.name)
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert one.damaged_weights() is None
    assert other.damaged_weights() is None


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment(
    lab: Lab, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL at random moments and in the middle of every kind of file; then four processes for one run."""
    config = small_runs.settings(lab.model, lab.pictures, optim={"epochs": 3}, **KINDS[kind])
    job = {
        "config": config, "out": str(tmp_path / "out"), "cache": str(tmp_path / "cache"),
        "seed": len(kind), "kills": 50, "points": POINTS,
    }  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = subprocess.run(
        [sys.executable, HERE / "kill_driver.py", tmp_path / "job.json"],
        capture_output=True, text=True, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    with capsys.disabled():
        print(f"\n{kind}: {json.dumps(said)}")
    assert not [point for point in said["points"] if "not reached" in point]
    assert sum(said["points"].values()) == len(POINTS)
    assert set(said["race"]) <= {0, 3}  # the record, or that another is at it
    assert said["trained"] == 1
    (whole,) = Store(tmp_path / "out" / "whole").runs()
    others = [folder for place in (tmp_path / "out").iterdir() for folder in Store(place).runs()]
    assert len(others) >= 4 + len(POINTS)
    for folder in others:
        same(whole, folder)


# --- the command line


@pytest.fixture
def command(lab: Lab, tmp_path: Path) -> list[str]:
    """A run of some hundred steps through the command line."""
    settings = small_runs.settings(lab.model, lab.pictures, optim={"epochs": 40}, method="bias_only")
    (tmp_path / "run.toml").write_text(small_runs.toml(settings))
    code = "from clipdrift.cli import main; main()"
    arguments = ["train", str(tmp_path / "run.toml"), "--cache", str(lab.cache), "--device", "cpu"]
    return [sys.executable, "-c", code, *arguments]


def begun(process: subprocess.Popen[str], out: Path) -> Path:
    """Waits until a run is in the middle of its training."""
    for _ in range(6000):
        assert process.poll() is None, process.communicate()
        for metrics in out.glob("*/metrics.jsonl"):
            if len(metrics.read_text().splitlines()) >= 3:
                return metrics.parent
        time.sleep(0.05)
    process.kill()
    process.communicate()
    raise AssertionError("no training")


def finished(command: list[str], out: Path) -> Record:
    done = subprocess.run([*command, "--out", out], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder,) = Store(out).runs()
    return folder.record()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_command(command: list[str], tmp_path: Path, number: int, status: int) -> None:
    """A clean stop with the shell's exit status; the lock is free; the same command goes on."""
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*command, "--out", out], env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    folder = RunFolder(begun(process, out))
    assert folder.state().kind == "running"
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status
    assert said.startswith("stopped at step ")
    assert said.endswith("; the same command goes on\n")
    assert "Traceback" not in said
    assert folder.state().kind == "interrupted"
    assert (folder.path / "checkpoint.pt").is_file()
    record = finished(command, out)
    assert record.without_times() == finished(command, tmp_path / "other").without_times()


def test_a_second_process_is_told_who_has_the_run(command: list[str], tmp_path: Path) -> None:
    """One line and status 2; once the owner is dead, its run is taken over at once."""
    out = tmp_path / "out"
    process = subprocess.Popen([*command, "--out", out], env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    folder = begun(process, out)  # type: ignore[arg-type]
    process.send_signal(signal.SIGSTOP)  # it lives, and has the run, for as long as the second one takes
    second = subprocess.run([*command, "--out", out], env=ENVIRONMENT, capture_output=True, text=True)
    assert second.returncode == 2
    assert f"{folder}: process {process.pid} on " in second.stderr
    process.kill()
    process.wait()
    assert RunFolder(folder).state().kind == "interrupted"
    assert finished(command, out).status == "done"


# --- disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_full_disk(command: list[str], tmp_path: Path, small_disk: Path) -> None:
    """One line that names the place; after room was made the same command goes on, to the same result."""
    out = small_disk / "runs"
    out.mkdir()
    filler = small_disk / "filler"
    fast = [*command, "--checkpoint-every", "0", "--out", out]
    for free in (1_000, 30_000, 150_000, 400_000):
        filler.unlink(missing_ok=True)
        room = os.statvfs(small_disk)
        filler.write_bytes(b"x" * max(0, room.f_bavail * room.f_frsize - free))
        done = subprocess.run(fast, env=ENVIRONMENT, capture_output=True, text=True)  # type: ignore[arg-type]
        assert done.returncode == 2, (free, done.stdout)
        assert done.stderr.startswith(f"error: {small_disk}"), done.stderr
        assert "No space left on device" in done.stderr
        assert done.stderr.count("\n") == 1
    filler.unlink()
    record = finished([*command, "--checkpoint-every", "0"], out)
    assert record.without_times() == finished(command, tmp_path / "other").without_times()


def test_a_read_only_store(command: list[str], small_disk: Path) -> None:
    """A finished run can still be read; another one is refused in one line."""
    out = small_disk / "runs"
    record = finished([*command, "--set", "optim.epochs=1"], out)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert finished([*command, "--set", "optim.epochs=1"], out) == record
    done = subprocess.run([*command, "--out", out], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {out}")
    assert "Read-only file system" in done.stderr
    assert done.stderr.count("\n") == 1
    (folder,) = Store(out).runs()
    assert folder.state().kind == "done"
