"""One process at a time on a run, whatever became of the last one; and how a run stands, read cheaply."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import SoftFileLock

import clipdrift.runs.locks as locks
import clipdrift.training.runner as running
from clipdrift.errors import BusyError, Interrupted, StorageError
from clipdrift.runs.heartbeat import Heartbeat
from clipdrift.runs.locks import claim, held
from clipdrift.runs.record import Point
from clipdrift.runs.reporter import Silent
from clipdrift.runs.signals import stops
from clipdrift.runs.states import RunState, read_state
from clipdrift.runs.store import RunFolder
from small_runs import Lab

_HOLD = """
import sys, time
from pathlib import Path
from clipdrift.runs.locks import claim
with claim(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""

_RACE = """
import sys
from pathlib import Path
from clipdrift.errors import BusyError
from clipdrift.runs.locks import claim
folder, done = Path(sys.argv[1]), Path(sys.argv[2])
for number in range(30):
    try:
        with claim(folder, patience=0.5):
            inside = folder / "inside"
            inside.touch(exist_ok=False)  # fails where another is in
            inside.unlink()
            print("x")
    except BusyError:
        pass
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that has claimed ``folder``."""
    process = subprocess.Popen([sys.executable, "-c", _HOLD, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def test_a_dead_owners_claim_is_void(tmp_path: Path) -> None:
    """While it lives it is named; killed without a chance to clean up, it holds nothing."""
    folder = RunFolder(tmp_path / "run")
    process = holder(folder.path)
    try:
        with (
            pytest.raises(BusyError, match=rf"run: process {process.pid} on \S+ is at work on this run"),
            claim(folder.path, patience=0.05),
        ):
            pytest.fail("two at once")
        assert held(folder.path)
        assert folder.state() == RunState("running")
        old = json.loads((folder.path / "owner.json").read_text())
        os.utime(folder.path / "lock", (0, 0))  # a clock that jumps is nothing to a lock of the kernel
        assert held(folder.path)
    finally:
        process.kill()
        process.communicate()
    assert not held(folder.path)
    assert json.loads((folder.path / "owner.json").read_text()) == old  # left lying, for people alone
    with folder.claim():
        assert json.loads((folder.path / "owner.json").read_text())["pid"] == os.getpid()
    assert not (folder.path / "owner.json").exists()


def test_processes_that_race_are_never_in_together(tmp_path: Path) -> None:
    """Three of them, over and over; each gets its turns."""
    arguments = [sys.executable, "-c", _RACE, tmp_path / "run", tmp_path]
    racing = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(3)]  # type: ignore[arg-type]
    turns = [process.communicate()[0].count("x") for process in racing]
    assert [process.returncode for process in racing] == [0, 0, 0]
    assert min(turns) > 0


def test_whoever_only_looks_keeps_nobody_out(tmp_path: Path) -> None:
    """A list of runs that is printed all the time must not cost a run its claim."""
    (tmp_path / "lock").touch()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            read_state(tmp_path)
            held(tmp_path)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(50):
            with claim(tmp_path):
                pass
    finally:
        over.set()
        looking.join()


def test_one_of_two_does_a_run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other is told that it is busy, or gets the record once it is there; the work is done once."""
    config, out, done, said = lab.config("norm_only"), lab.tmp(), [], []
    attempt = running.attempt

    def counted(*arguments: Any) -> Any:
        done.append(threading.current_thread())
        return attempt(*arguments)

    monkeypatch.setattr(running, "attempt", counted)

    def work() -> None:
        try:
            said.append(lab.run(config, out)[0].status)
        except BusyError as error:
            said.append(str(error))  # type: ignore[arg-type]

    racing = [threading.Thread(target=work) for _ in range(2)]
    for thread in racing:
        thread.start()
    for thread in racing:
        thread.join()
    assert len(done) == 1
    assert "done" in said
    assert all(text == "done" or f"process {os.getpid()} on" in text for text in said)


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library falls back on there would be kept by a dead owner for ever."""
    monkeypatch.setattr(locks, "FileLock", SoftFileLock)
    with pytest.raises(StorageError, match="this file system has no locks"), claim(tmp_path / "run"):
        pytest.fail("claimed without a lock")


# --- how a run stands


def test_the_states_of_a_run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """From nothing to a record; the whole record is never parsed."""
    config, out = lab.config("norm_only"), lab.tmp()
    folder = RunFolder(out / "nothing")
    assert folder.state() == RunState("planned")
    seen: list[RunState] = []

    class Watches(Silent):
        def point(self, point: Point) -> None:
            (path,) = out.iterdir()
            seen.append(RunFolder(path).state())
            raise RuntimeError("something\nbroke")

    with pytest.raises(RuntimeError, match="something"):
        lab.run(config, out, reporter=Watches())
    assert (seen[0].kind, seen[0].epoch, seen[0].epochs) == ("running", 1, 2)
    (path,) = out.iterdir()
    folder = RunFolder(path)
    state = folder.state()
    assert (state.kind, state.reason, state.epoch, state.epochs) == ("failed", "something broke", 1, 2)
    failure = json.loads((path / "failure.json").read_text())
    assert failure["kind"] == "RuntimeError"
    assert "test_locks.py" in failure["traceback"]
    (path / "failure.json").unlink()
    assert folder.state().kind == "interrupted"
    lab.run(config, out)
    monkeypatch.setattr("clipdrift.runs.store.read_record", lambda *_: pytest.fail("read a whole record"))
    state = folder.state()
    assert (state.kind, state.epoch, state.epochs) == ("done", 2, 2)
    assert state.age_seconds is not None
    assert 0 <= state.age_seconds < 60
    future = time.time() + 10_000
    for file in path.iterdir():
        os.utime(file, (future, future))
    assert folder.state().age_seconds == 0


def test_a_diverged_run_says_why(lab: Lab) -> None:
    """Status and reason stand at the record's beginning."""
    config = lab.config("norm_only", optim={"learning_rate": 1e30, "epochs": 3})
    record, folder = lab.run(config)
    assert record.status == "diverged"
    state = folder.state()
    assert (state.kind, state.reason) == ("diverged", record.reason)
    assert state.epochs == 3


def test_a_record_cut_off_anywhere_is_not_done(lab: Lab) -> None:
    """Cheap is not careless: only a whole record counts; one of another schema is told apart."""
    _, folder = lab.run(lab.config("norm_only"), save=False)
    file = folder.path / "record.json"
    content = file.read_bytes()
    for length in [*range(0, len(content) - 2, 997), len(content) - 2]:
        file.write_bytes(content[:length])
        state = folder.state()
        assert (state.kind, state.reason) == ("interrupted", "its record is damaged"), length
    file.write_bytes(content.replace(b'"schema_version":1', b'"schema_version":9'))
    assert folder.state().kind == "failed"
    assert "record schema 9" in str(folder.state().reason)
    file.write_bytes(content)
    for name in ("config.json", "metrics.jsonl"):
        (folder.path / name).write_bytes(b"\xff{")
    assert folder.state().kind == "done"
    file.unlink()
    state = folder.state()
    assert (state.kind, state.epoch, state.epochs) == ("interrupted", 0, 0)


def test_being_kept_out_or_stopped_is_no_failure(tmp_path: Path) -> None:
    """Whoever starts the run again finds no wrong tracks."""
    folder = RunFolder(tmp_path)
    for error in (BusyError("x"), Interrupted("y", signal.SIGTERM)):
        folder.fail(error)
    assert not (tmp_path / "failure.json").exists()


def test_a_sign_of_life_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most every two seconds, by a clock that never jumps; what is told is passed on."""
    now = 100.0
    monkeypatch.setattr("clipdrift.runs.heartbeat.time.monotonic", lambda: now)
    told: list[Any] = []

    class Notes(Silent):
        def step(self, step: int, steps: int, loss: float) -> None:
            told.append(step)

    file = tmp_path / "pulse"
    with stops() as asked:
        pulse = Heartbeat(Notes(), file, asked)
        touched = []
        for step in range(40):
            now += 0.3
            os.utime(file, (0, 0)) if file.exists() else None
            pulse.step(step, 40, 0.0)
            touched.append(file.stat().st_mtime > 0)
        pulse.stage("testing")
        assert asked.doing == "testing"
    assert told == list(range(40))
    assert touched[0]
    assert 5 <= sum(touched) <= 7
