"""State of a run, read from its folder cheaply: no torch, no whole record."""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clipdrift.runs.layout import CHECKPOINT, CONFIG, FAILURE, METRICS, PULSE, RECORD
from clipdrift.runs.locks import held
from clipdrift.runs.record import SCHEMA_VERSION

StateKind = Literal["planned", "running", "interrupted", "failed", "done", "diverged"]

_HEAD = re.compile(
    rb'"schema_version":\s*(?P<schema>\d+),\s*"key":\s*"(?P<key>[^"]*)",.*?"status":\s*"(?P<status>done|diverged)",\s*'
    rb'"reason":\s*(?P<reason>null|"(?:[^"\\]|\\.)*")',
    re.DOTALL,
)
_POINT = re.compile(rb'\{"epoch":(\d+),"step":\d+,"ends_epoch":(true|false),')
_STOP = re.compile(rb'"kind":\s*"stop",\s*"epoch":\s*(\d+)')
_TAIL = 2**18
"""Bytes of metrics to look through; a line is far shorter. Remarks of a record are shorter too."""


@dataclass(frozen=True)
class RunState:
    """State of one run.

    Attributes:
        kind: ``planned`` nothing done yet; ``running`` a living process has it; ``interrupted`` begun, and
            nobody is at it; ``failed`` the last try ended in an error; ``done``, ``diverged`` have a record.
        reason: why it failed, diverged, has to be repeated or ended early.
        age_seconds: since the last sign of life; None before the first, 0 where the clock was set back.
        epoch: finished epochs of the training; that in which a rule ended it.
        epochs: how many there are to be; 0 where the configuration cannot be read.
    """

    kind: StateKind
    reason: str | None = None
    age_seconds: float | None = None
    epoch: int = 0
    epochs: int = 0


def read_state(folder: Path) -> RunState:
    """Read the state of the run in ``folder``. Cheap enough for thousands; never raises for what is
    damaged."""
    names = _names(folder)
    if CONFIG not in names:
        return RunState("running" if held(folder) else "planned")
    epochs = _epochs(folder / CONFIG)
    kind, reason = _recorded(folder / RECORD) if RECORD in names else (None, None)
    if kind == "done":
        stopped = _stopped(folder / RECORD)
        reason = None if stopped is None else "stopped by a rule"
        return RunState("done", reason, _age(folder, (RECORD,)), stopped or epochs, epochs)
    if kind is None:
        kind, again = _unfinished(folder, names)
        reason = again or reason
    age = _age(folder, (METRICS, CHECKPOINT, PULSE, RECORD))
    return RunState(kind, reason, age, _epoch(folder / METRICS), epochs)


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _unfinished(folder: Path, names: set[str]) -> tuple[StateKind, str | None]:
    if held(folder):
        return "running", None
    if FAILURE in names:
        return "failed", _load(folder / FAILURE).get("error")
    return "interrupted", None


def _recorded(path: Path) -> tuple[StateKind | None, str | None]:
    """Status and reason from the record's beginning; whole if it ends in the only line break that it has.

    Nothing else in it stands at the margin, so a record that was cut off anywhere is noticed.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(2**14)
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 8))
            whole = stream.read().endswith(b"}\n")
    except OSError as error:
        return None, f"record: {error.strerror}"
    found = _HEAD.search(head)
    if found is None or not whole:
        return None, "its record is damaged"
    if int(found["schema"]) != SCHEMA_VERSION:
        return "failed", f"record schema {found['schema'].decode()}, made by another version of clipdrift"
    if found["key"].decode() != path.parent.name:
        return None, foreign_record(path, found["key"].decode())
    status: StateKind = "done" if found["status"] == b"done" else "diverged"
    with suppress(ValueError):
        return status, json.loads(found["reason"])
    return None, "its record is damaged"


def _stopped(path: Path) -> int | None:
    """Epoch at which a rule ended a finished run; what rules said stands at the record's end."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL))
            found = _STOP.findall(stream.read())
    except OSError:
        return None
    return int(found[0]) if found else None


def foreign_record(path: Path, key: str) -> str:
    """Message about a record that is another run's: a copy, or a renamed folder."""
    return f"{path}: the record of another run ({key}), so this one counts as not done"


def _load(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _epochs(path: Path) -> int:
    try:
        return int(_load(path)["optim"]["epochs"])
    except (KeyError, TypeError, ValueError):
        return 0


def _epoch(path: Path) -> int:
    """Finished epochs by the last whole line; points lie in the order of the training."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL))
            tail = stream.read()
    except OSError:
        return 0
    end = tail.rfind(b"\n")  # what comes after it is torn
    start = tail.rfind(b"\n", 0, max(end, 0)) + 1
    found = _POINT.match(tail, start, max(end, 0))
    return int(found[1]) - (found[2] == b"false") if found else 0


def _age(folder: Path, names: tuple[str, ...]) -> float | None:
    times = []
    for name in names:
        with suppress(OSError):
            times.append((folder / name).stat().st_mtime)
    return max(0.0, time.time() - max(times)) if times else None
