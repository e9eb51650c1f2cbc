"""The course of a watched training, read back from its folder. Loads no torch."""

from __future__ import annotations

import itertools
import json
import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from clipdrift.monitoring import log
from clipdrift.outcomes.columns import retention_of, zero_shot_of
from clipdrift.rules import Rule, RuleError, already_compared, key_of, parse_rule

GOOD, FACTS = "good", "clipdrift.json"
"""Folder of the last good state in a monitor's folder, and what it is."""
DEFAULT_FOLDER = "drift"
"""A monitor's folder where none was named; it says nothing of the training."""
_PATIENCE, _GAPS = 60.0, 3.0
"""A training lives while its last row is younger than so many seconds, or so many times the longest gap."""
_WRITING = 10.0
"""Seconds after which a line without an end is damage."""
_BLOCK = re.compile(r"(.+)/block_(\d+)")

KINDS = ("warn_when", "stop_when", "reduce_rate_when", "keep_best_when")


@dataclass(frozen=True)
class Condition:
    """One condition of a training's rules.

    Attributes:
        kind: one of :data:`KINDS`.
        text: as the rule was given.
        rule: its bound; None where it is a function.
    """

    kind: str
    text: str
    rule: Rule | None


@dataclass(frozen=True)
class Said:
    """A line that the monitor said.

    Attributes:
        row: of the measurements, from 1; 0 where one failed. kind: warning, stop, rate, kept, note or failed.
    """

    row: int
    step: int
    kind: str
    text: str


@dataclass(frozen=True, eq=False)
class Course:
    """Rows of a monitor, and what is written beside them.

    Attributes:
        out: the monitor's folder.
        rows: as they were measured.
        damaged: lines of the log that are no rows.
        about: what is measured, on what, by which rules; empty where that cannot be read.
        good: step and numbers of the last good state; None: none was kept.
        problems: what could not be read, in words.
        failed: rows of measurements that failed: step, time, and why.
    """

    out: Path
    rows: Sequence[Mapping[str, Any]]
    damaged: int
    about: Mapping[str, Any]
    good: Mapping[str, Any] | None
    problems: tuple[str, ...] = ()
    failed: Sequence[Mapping[str, Any]] = ()

    @property
    def name(self) -> str:
        """Of the training: its folder's name, or its parent's where that is the default one."""
        place = self.out.resolve()
        return place.parent.name if place.name == DEFAULT_FOLDER and place.parent.name else place.name

    @property
    def last(self) -> Mapping[str, Any]:
        return self.rows[-1]

    @property
    def steps(self) -> list[int]:
        return [int(row["step"]) for row in self.rows]

    @property
    def blocks(self) -> int:
        """Of the image tower; 0 where not known."""
        return max(
            (block for row in self.rows for c, block in places(row) if c == "cka" and block), default=0
        )

    @cached_property
    def sets(self) -> Mapping[str, Mapping[str, Any]]:
        """Accuracy before, number of images and whether retention is measurable, by transfer set."""
        found = self.about.get("sets")
        known = {str(n): one for n, one in found.items() if isinstance(one, Mapping)} if found else {}
        tested = [key.partition("/")[2] for row in self.rows for key in row if key.startswith("zero_shot/")]
        return {name: known.get(name, {}) for name in dict.fromkeys([*known, *tested])}

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """What the user said of the training."""
        found = self.about.get("config")
        return found if isinstance(found, Mapping) else {}

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        rules = self.about.get("rules")
        if not isinstance(rules, Mapping):
            return ()
        given = [(kind, str(text)) for kind in KINDS for text in rules.get(kind) or ()]
        return tuple(Condition(kind, text, _rule(text)) for kind, text in given)

    @cached_property
    def said(self) -> tuple[Said, ...]:
        """Everything that was said of the rows, in order."""
        numbers = {id(row): number for number, row in enumerate(self.rows, start=1)}
        return tuple(
            Said(numbers.get(id(row), 0), int(row["step"]), *_halves(line))
            for row in self.attempts
            for line in _lines(row)
        )

    @cached_property
    def attempts(self) -> tuple[Mapping[str, Any], ...]:
        """Rows of all measurements, those that failed among them, in order."""
        return tuple(sorted((*self.rows, *self.failed), key=lambda row: (row["step"], _when(row))))

    def series(self, key: str) -> list[float]:
        """The values of a key, row by row; nan where it is missing or no number."""
        return [value_of(row, key) for row in self.rows]

    def has(self, key: str) -> bool:
        """Whether any row has a number under this key."""
        return any(math.isfinite(value) for value in self.series(key))

    def keys(self, start: str) -> list[str]:
        """Keys without a block that begin so, in order of appearance."""
        found = dict.fromkeys(
            k for row in self.rows for k in row if k.startswith(start) and "/block_" not in k
        )
        return list(found)

    def by_block(self, key: str) -> list[list[float]]:
        """Values of a measure, a list for each block; empty where it has no blocks."""
        numbers = [int(m[2]) for row in self.rows for k in row if (m := _BLOCK.fullmatch(k)) and m[1] == key]
        return [self.series(f"{key}/block_{number}") for number in range(1, max(numbers, default=0) + 1)]

    def bounds(self, key: str) -> Iterator[Condition]:
        """Conditions that bound a key."""
        for one in self.conditions:
            if one.rule is not None and key in bounded(one.rule, (key,)):
                yield one

    @property
    def age(self) -> float:
        """Seconds since the last measurement, also where it failed."""
        return max(0.0, time.time() - _when(self.attempts[-1]))

    @property
    def alive(self) -> bool:
        """Whether the training seems to go on, by how long ago it was measured last."""
        if not self.attempts:
            return False
        times = [found for row in self.attempts[-5:] if math.isfinite(found := _when(row))]
        gaps = [after - before for before, after in itertools.pairwise(times)]
        return self.age <= max(_PATIENCE, _GAPS * max(gaps, default=0.0))


def read_course(out: str | Path) -> Course:
    """Read a monitor's folder, or its log.

    Raises:
        MonitorError: no log there.
    """
    place = Path(out)
    place = place.parent if place.name == log.LOG and not place.is_dir() else place
    text = log.text_of(place)
    rows, damaged = log.rows_of(text)
    damaged -= _being_written(text, place / log.LOG)
    about, problems = _json(place / log.ABOUT)
    good, more = _json(place / GOOD / FACTS) if (place / GOOD).is_dir() else (None, ())
    if about is None and not problems:
        problems = (f"{log.ABOUT} is missing, so neither the rules nor the transfer sets are known",)
    failed = tuple(row for row in rows if log.FAILED in row)
    measured = tuple(row for row in rows if log.FAILED not in row)
    return Course(place, measured, damaged, about or {}, good, (*problems, *more), failed)


def nothing_measured(course: Course) -> str:
    """Why a course has no row, in words."""
    if not course.failed:
        return f"{course.out}: its log has no whole row yet"
    last = course.failed[-1]
    often = (
        "its only measurement"
        if len(course.failed) == 1
        else f"each of its {len(course.failed)} measurements"
    )
    return f"{course.out}: {often} failed, at step {last['step']}: {last[log.FAILED]}"


def _when(row: Mapping[str, Any]) -> float:
    """Time of a row; long ago where it is not known."""
    found = value_of(row, "time")
    return found if math.isfinite(found) else -math.inf


def _lines(row: Mapping[str, Any]) -> list[str]:
    """What was said of a row, and that it failed."""
    failed = [f"failed: not measured ({row[log.FAILED]})"] if log.FAILED in row else []
    return [*failed, *map(str, row.get("said") or ())]


def _being_written(text: str, path: Path) -> bool:
    """Whether the last line is no row because its writer has not ended it yet."""
    last = text.rpartition("\n")[2]
    return bool(log.rows_of(last)[1]) and time.time() - path.stat().st_mtime < _WRITING


def _json(path: Path) -> tuple[Mapping[str, Any] | None, tuple[str, ...]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no table")
    except FileNotFoundError:
        return None, ()
    except (OSError, ValueError) as error:
        return None, (f"{path.name} cannot be read ({error})",)
    return found, ()


def _rule(text: str) -> Rule | None:
    try:
        return parse_rule(text)
    except RuleError:
        return None


def _halves(line: str) -> tuple[str, str]:
    kind, colon, text = line.partition(": ")
    return (kind, text) if colon else ("note", line)


def value_of(row: Mapping[str, Any], key: str) -> float:
    """A number of a row; nan where there is none."""
    found = row.get(key)
    return math.nan if isinstance(found, bool) or not isinstance(found, int | float) else float(found)


def bounded(rule: Rule, keys: Sequence[str]) -> list[str]:
    """Those of a row's keys, blocks and sets among them, whose numbers a rule bounds."""
    key = key_of(rule)
    if key in ("retention", "zero_shot"):
        return [
            one
            for one in keys
            if one == f"{key}/{rule.part}" or (not rule.part and one.startswith(f"{key}/"))
        ]
    return [one for one in keys if one == (f"{key}/{rule.part}" if rule.part else key)]


@cache
def column_of(key: str) -> str | None:
    """The column of tables of runs that a row's key without a block is; None where it is none.

    ``drift/cka`` is ``cka``, ``drift/entropy`` ``entropy_drift``, ``measure/entropy`` ``entropy``,
    ``retention/cifar100`` ``retention_cifar100``.
    """
    head, slash, name = key.partition("/")
    if not slash or not name:
        return None
    match head:
        case "drift" if name == "modality_gap":
            return "modality_gap_change"  # in its own unit; columns that end in _drift are in percent
        case "drift":
            return name if already_compared(name) else f"{name}_drift"
        case "measure":
            return name
        case "retention":
            return retention_of(name)
        case "zero_shot":
            return zero_shot_of(name)
    return None


def places(row: Mapping[str, Any]) -> Iterator[tuple[str, int | None]]:
    """Column and block of every number of a row; no block for the whole."""
    for key in row:
        found = _BLOCK.fullmatch(key)
        column = column_of(found[1] if found else key)
        if column is not None:
            yield column, int(found[2]) if found else None


def courses_in(place: str | Path) -> list[Path]:
    """Folders of monitors: the place itself, or those up to two folders below it, in order."""
    root = Path(place)
    if root.name == log.LOG or (root / log.LOG).is_file():
        return [root.parent if root.name == log.LOG else root]
    found = {path.parent for pattern in ("*", "*/*") for path in root.glob(f"{pattern}/{log.LOG}")}
    return sorted(found)


def names_of(courses: Sequence[Course]) -> list[str]:
    """Names that tell trainings apart: their folders', with those above where two are alike."""
    counts = Counter(course.name for course in courses)
    return [
        course.name if counts[course.name] == 1 else course.out.resolve().as_posix() for course in courses
    ]
