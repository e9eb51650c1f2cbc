"""Logs of monitors as tidy tables: one row per measurement, per block, or per training. Loads no torch."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from clipdrift.monitoring.course import (
    Course,
    column_of,
    courses_in,
    names_of,
    nothing_measured,
    places,
    read_course,
    value_of,
)
from clipdrift.monitoring.errors import MonitorError
from clipdrift.monitoring.log import BROKEN, FAILED
from clipdrift.outcomes.chance import accuracy_p
from clipdrift.outcomes.columns import chance_p_of, zero_shot_of

Of = Literal["measurements", "blocks", "runs"]
Places = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

DIVERGED = "diverged"


def frame(where: Places, of: Of = "measurements") -> pd.DataFrame:
    """Logs of :class:`clipdrift.DriftMonitor` as a tidy table, with the columns that frames of runs have.

    Args:
        where: a monitor's folder, a folder with several of them, or a list of such.
        of: what a row is.

            - ``measurements``: ``run`` (the folder's name), ``step``, ``time``, ``seconds``, then numbers
              such as ``cka``, ``entropy_drift`` (percent), ``embedding_drift``, ``retention_cifar100``
              (percent), and ``said``, ``good``, ``kept``, ``failed`` (why there is no number, else empty).
            - ``blocks``: ``run``, ``step``, ``measure``, ``block`` (from 1), ``value``, ``drift`` (percent).
            - ``runs``: the last measurement of each training as its result, with ``status``: ``done``, or
              ``diverged`` where a number is nan or infinite, or the model computed such at last.
              :func:`clipdrift.analyse` takes it where
              ``target``, ``method`` and ``learning_rate`` were said in ``DriftMonitor(config=...)``.

        Of measurements and runs, what was said in ``config=`` are columns too.

    Raises:
        MonitorError: no log there, or one without a row.
    """
    found = read_all(where)
    if of == "blocks":
        return blocks_frame(found)
    if of == "runs":
        return runs_frame(found)
    if of != "measurements":
        raise MonitorError(f"of = {of!r}: measurements, blocks or runs")
    rows = [
        {"run": name} | settings(course.config) | _measured(row)
        for name, course in found.items()
        for row in course.attempts
    ]
    return pd.DataFrame(rows)


def read_all(where: Places) -> dict[str, Course]:
    """Every course in some folders by the name of its training; a name that two would have is longer.

    Raises:
        MonitorError: no log in one of them, or one without a row.
    """
    given = [where] if isinstance(where, str | os.PathLike) else list(where)
    folders: list[Path] = []
    for one in given:
        found = courses_in(Path(one))
        folders += found or [Path(one)]  # whose reading says what is missing
    courses = [read_course(folder) for folder in dict.fromkeys(folders)]
    for course in courses:
        if not course.rows:
            raise MonitorError(nothing_measured(course))
    names = names_of(courses)
    return dict(zip(names, courses, strict=True))


def _measured(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "step": row["step"],
        "time": value_of(row, "time"),
        "seconds": value_of(row, "seconds"),
    }
    for key in row:
        column = column_of(key) if "/block_" not in key else None
        if column is not None:
            found[column] = value_of(row, key)
    for name in ("entropy", "cka"):
        blocks = [block for column, block in places(row) if block and column in (name, f"{name}_drift")]
        if blocks:
            column = "cka_of_last_block" if name == "cka" else "entropy_drift_of_last_block"
            found[column] = value_of(row, f"drift/{name}/block_{max(blocks)}")
    said = row.get("said") or []
    return found | {
        "said": "; ".join(map(str, said)),
        "good": bool(row.get("good", False)),
        "kept": row.get("kept"),
        "failed": row.get(FAILED),
    }


def blocks_frame(courses: Mapping[str, Course]) -> pd.DataFrame:
    """One row per training, measurement, measure and block: ``value`` and ``drift`` (percent); nan: none."""
    rows = []
    for name, course in courses.items():
        for row in course.rows:
            for key in row:
                whole, slash, number = key.partition("/block_")
                column = column_of(whole) if slash and number.isdigit() else None
                if column is None:
                    continue
                drift = whole.startswith("drift/") and column.endswith("_drift") and column != whole[6:]
                measure = column.removesuffix("_drift") if drift else column
                value = value_of(row, key)
                pair = {"value": math.nan, "drift": value} if drift else {"value": value, "drift": math.nan}
                rows.append(
                    {"run": name, "step": row["step"], "measure": measure, "block": int(number)} | pair
                )
    return pd.DataFrame(rows, columns=["run", "step", "measure", "block", "value", "drift"])


def history_frame(courses: Mapping[str, Course]) -> pd.DataFrame:
    """One row per training and measurement, with its numbers alone; of epochs a log says nothing."""
    words = ("time", "seconds", "said", "good", "kept", "failed")
    rows = [
        {"run": name, "ends_epoch": False} | {k: v for k, v in _measured(row).items() if k not in words}
        for name, course in courses.items()
        for row in course.rows
    ]
    return pd.DataFrame(rows)


def runs_frame(courses: Mapping[str, Course]) -> pd.DataFrame:
    """One row per training: what was said of it, and its last measurement as the result."""
    rows = []
    for name, course in courses.items():
        last = _measured(course.last)
        numbers = [value_of(course.last, key) for key in course.last if column_of(key) is not None]
        row: dict[str, Any] = {
            "run": name,
            "status": DIVERGED if _ends_broken(course) or not all(map(math.isfinite, numbers)) else "done",
            "backbone": str(course.about.get("backbone", "")),
            "images": str((course.about.get("images") or {}).get("source", "")),
        }
        row |= settings(course.config)
        row |= {
            column: value
            for column, value in last.items()
            if column not in ("said", "good", "kept", "failed", "time", "seconds")
        }
        row |= _before(course)
        rows.append(row)
    return pd.DataFrame(rows)


def _ends_broken(course: Course) -> bool:
    """Whether the model computed nan or inf when it was to be measured last."""
    return bool(course.attempts[-1].get(BROKEN))


def _before(course: Course) -> dict[str, float]:
    """The backbone's zero-shot accuracy by set, and the p-value that it is above chance."""
    found = {}
    for name, facts in course.sets.items():
        accuracy, images, classes = (value_of(facts, key) for key in ("before", "images", "classes"))
        if math.isfinite(accuracy):
            found[f"backbone_{zero_shot_of(name)}"] = accuracy
        if math.isfinite(accuracy) and images > 0 and classes > 1:
            found[chance_p_of(name)] = accuracy_p(accuracy, int(images), int(classes))
    return found


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What was said of a training, as columns: nested names are cut to their last part where that is enough.

    Names that a measurement has too begin with ``config_``.
    """
    flat = dict(_flat(config, ()))
    counts = Counter(path[-1] for path in flat)
    taken = {"run", "step", "time", "seconds", "said", "good", "kept", "failed"}
    found = {}
    for path, value in flat.items():
        name = path[-1] if counts[path[-1]] == 1 else ".".join(path)
        found[f"config_{name}" if name in taken else name] = value
    return found


def _flat(config: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, (*above, str(name)))
        else:
            plain = value is None or isinstance(value, str | int | float)
            yield (*above, str(name)), value if plain else json.dumps(value)
