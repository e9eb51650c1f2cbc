"""A monitor's rows on disk: one JSON object a line. Loads no torch."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipdrift.monitoring.errors import MonitorError

LOG = "drift.jsonl"
ABOUT = "monitor.json"
"""What is measured, on what, by which rules."""

FAILED = "failed"
"""Key of a row that stands for a measurement that failed, with the reason in a line."""
BROKEN = "not_finite"
"""Key of such a row: whether it failed because the model computes nan or inf."""


def failed_row(step: int, reason: str, broken: bool) -> dict[str, Any]:
    """The row of a measurement that failed.

    Args:
        broken: whether the model computes nan or inf.
    """
    return {"step": step, "time": round(time.time(), 1), FAILED: reason, BROKEN: broken}


def append(out: Path, row: Mapping[str, Any]) -> None:
    """Add a row and have it on disk.

    Raises:
        OSError: it cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / LOG
    text = json.dumps(row, allow_nan=True) + "\n"
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":  # a writer was killed in the middle of a line
                file.write(b"\n")
        file.write(text.encode())


def read(out: Path) -> tuple[list[dict[str, Any]], int]:
    """All rows that are whole, and how many lines are not.

    Raises:
        MonitorError: no log there.
    """
    return rows_of(text_of(out))


def text_of(out: Path) -> str:
    """The log as it is.

    Raises:
        MonitorError: no log there.
    """
    path = out if out.is_file() else out / LOG
    if not path.is_file():
        raise MonitorError(f"{out}: no {LOG}; give the folder that a DriftMonitor writes into")
    return path.read_text(encoding="utf-8", errors="replace")


def rows_of(text: str) -> tuple[list[dict[str, Any]], int]:
    """All rows of a log that are whole, and how many lines are not."""
    rows, damaged = [], 0
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            damaged += bool(line.strip())
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
        else:
            damaged += 1
    return rows, damaged


def begin(out: Path, step: int) -> str | None:
    """Make room for a training that begins, or goes on, at ``step``; returns what was moved, in words.

    At step 0 an older log is moved aside; later, rows after the step are, as those steps are done again.

    Raises:
        OSError: it cannot be done.
    """
    path = out / LOG
    if not path.is_file() or not path.stat().st_size:
        return None
    rows, damaged = read(out)
    kept = [row for row in rows if row["step"] <= step] if step else []
    if len(kept) == len(rows) and not damaged:
        return None
    number = 1
    while (aside := out / f"drift.{number}.jsonl").exists():
        number += 1
    path.rename(aside)
    if kept:
        path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    what = f"{len(rows) - len(kept)} rows after step {step}" if step else "the log of an earlier training"
    return f"{what} moved to {aside.name}"


HEADS = ("drift", "measure", "retention", "zero_shot")
"""How the keys of numbers begin."""


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """A row without blocks and words, as trackers take it."""
    return {
        key: float(value)
        for key, value in row.items()
        if key.partition("/")[0] in HEADS and "/block_" not in key
    }


def checked_config(config: object) -> dict[str, Any]:
    """What a caller says of a training, as it can be written beside the log.

    Raises:
        MonitorError: no dictionary, or with a value that JSON does not have; names it.
    """
    if not isinstance(config, Mapping):
        raise MonitorError(f"config = {config!r}: a dictionary, as in {{'learning_rate': 1e-5}}")
    for name, value in config.items():
        try:
            json.dumps({name: value})
        except (TypeError, ValueError):
            what = type(value).__name__
            raise MonitorError(
                f"config: {name} is a {what}; numbers, words, lists and tables of them can be kept"
            ) from None
    return dict(config)
