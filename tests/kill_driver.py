"""Kills runs for test_kills: a process of its own, which loads torch once and forks a child for each try.

    python tests/kill_driver.py JOB.json

A job: ``config`` (plain data of a run), ``out``, ``cache``, ``seed``, ``kills`` (at random moments of a run),
``points`` (files to die in the writing of). What happened is printed as JSON.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import torch

import clipdrift.adapt.heads as heads
import clipdrift.runs.files as files
import clipdrift.training.checkpoint as checkpoint
from clipdrift.config import RunConfig, parse_config
from clipdrift.errors import BusyError
from clipdrift.runs.reporter import Silent
from clipdrift.runs.store import Store
from clipdrift.training.course import CheckpointSchedule
from clipdrift.training.preparation import resolve
from clipdrift.training.runner import run

torch.set_num_threads(1)
WRITE = files.write_atomically
SAVE = heads.save_file


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Board(Silent):
    """Says in memory shared with the parent what the child is at."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 256)

    def say(self, text: str) -> None:
        self.memory[:255] = text.encode()[:255].ljust(255)

    def stage(self, text: str) -> None:
        self.say(text)
        if text == "training":
            self.memory[255:] = b"!"

    def read(self) -> str:
        return self.memory[:255].decode().strip()

    @property
    def trained(self) -> bool:
        return self.memory[255:] == b"!"


class Half:
    """Dies when about half of what is usual has been written."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        self.stream, self.left = stream, most

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(view) >= self.left:
            self.stream.write(view[: self.left])
            self.stream.flush()
            die()
        self.left -= len(view)
        return self.stream.write(data)

    def flush(self) -> None:
        self.stream.flush()


def dying(name: str, where: str, nth: int, board: Board) -> Any:
    """``write_atomically`` that kills its process at the nth writing of ``name``."""
    seen = 0

    def write(path: Path, fill: Any) -> None:
        nonlocal seen
        seen += path.name == name
        if path.name != name or seen != nth:
            WRITE(path, fill)
            return
        board.say(f"{name}: {where}")
        if where == "half":
            WRITE(path, lambda stream: fill(Half(stream, 200)))
        elif where == "whole":
            WRITE(path, lambda stream: (fill(stream), die()))  # type: ignore[func-returns-value]
        else:
            WRITE(path, fill)
            die()

    return write


def arm(point: list[Any], board: Board) -> None:
    """Make the child die at ``[file name, half | whole | renamed, nth]``, or among the saved weights."""
    name, where, nth = point
    if name == "weights":

        def save_file(*arguments: Any, **options: Any) -> None:
            SAVE(*arguments, **options)
            board.say("weights: among them")
            die()

        heads.save_file = save_file
        return
    write = dying(name, where, nth, board)
    files.write_atomically = write
    checkpoint.write_atomically = write


def child(job: dict[str, Any], out: Path, board: Board, point: list[Any] | None, steps: int | None) -> int:
    """Fork; the child does the run and ends with 0, 3 where another one has it, or 1."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if point:
            arm(point, board)
        config = parse_config(job["config"], RunConfig)
        board.say("starting")
        schedule = CheckpointSchedule(epoch_seconds=0, steps=steps)
        run(config, out, cache=Path(job["cache"]), device="cpu", reporter=board, schedule=schedule)
        board.say("done")
        code = 0
    except BusyError:
        code = 3
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """Exit status; -9 where it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def random_kills(job: dict[str, Any], board: Board, length: float) -> Counter[str]:
    """Kill until as many have died as asked; a run that got through is put aside and begun again."""
    rng, root = random.Random(job["seed"]), Path(job["out"])
    out = root / "random"
    folder = Store(out).folder(resolve(parse_config(job["config"], RunConfig)).key)
    where: Counter[str] = Counter()
    finished = 0
    while sum(where.values()) < job["kills"]:
        board.say("before the run")
        cold = rng.random() < 0.2  # images are decoded once more
        cache = root.parent / "caches" / str(rng.random()) if cold else Path(job["cache"])
        pid = child(job | {"cache": str(cache)}, out, board, None, rng.choice([1, 1, 2, 5]))
        time.sleep(rng.uniform(0.0, length))
        os.kill(pid, signal.SIGKILL)
        if ended(pid) == -signal.SIGKILL:
            where[board.read().split(" colours")[0]] += 1
        if folder.finished:
            finished += 1
            done = root / f"random-{finished}"
            # killed after its record stood, it may have left what the same call takes away
            assert ended(child(job, out, board, None, None)) == 0
            done.mkdir()
            folder.path.rename(done / folder.path.name)
    where["runs finished meanwhile"] = finished
    assert ended(child(job, out, board, None, 2)) == 0
    return where


def point_kills(job: dict[str, Any], board: Board) -> Counter[str]:
    """Die once at each point of a run of its own, and go on."""
    where: Counter[str] = Counter()
    for number, point in enumerate(job["points"]):
        out = Path(job["out"]) / f"point-{number}"
        board.say("")
        code = ended(child(job, out, board, point, 2))
        where[board.read() if code == -signal.SIGKILL else f"{point}: not reached, {code}"] += 1
        assert ended(child(job, out, board, None, 2)) == 0
    return where


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    root, board = Path(job["out"]), Board()
    assert ended(child(job, root / "whole", board, None, None)) == 0
    start = time.monotonic()  # images are decoded by now
    assert ended(child(job, root / "second", board, None, 1)) == 0
    length = time.monotonic() - start
    said: dict[str, Any] = {"seconds": round(length, 2)}
    said["random"] = random_kills(job, board, 1.1 * length)
    said["points"] = point_kills(job, board)
    racing = [Board() for _ in range(4)]
    pids = [child(job, root / "race", each, None, 1) for each in racing]
    said["race"] = sorted(map(ended, pids))
    said["trained"] = sum(each.trained for each in racing)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
