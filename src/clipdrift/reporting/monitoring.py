"""The report of a watched training: figures and a page, from its log alone. Loads no torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from clipdrift.figures.registry import write
from clipdrift.figures.source import NotDrawnError
from clipdrift.figures.watched import BOUNDS, FIGURES
from clipdrift.figures.watched_attention import before_and_now
from clipdrift.figures.words import label, short
from clipdrift.listing import MEASURES
from clipdrift.monitoring.course import (
    Condition,
    Course,
    column_of,
    nothing_measured,
    read_course,
    value_of,
)
from clipdrift.monitoring.errors import MonitorError
from clipdrift.monitoring.frames import settings
from clipdrift.monitoring.log import FAILED, LOG
from clipdrift.monitoring.pictures import read_before_and_now
from clipdrift.outcomes.columns import outcome
from clipdrift.pages.study import Shown
from clipdrift.pages.watched import MeasureLine, RowsTable, RuleLine, WatchedPage, write_watched_page
from clipdrift.reporting.watched_words import cell, printed, sentences
from clipdrift.rules import values_for, weakest

PAGE = "index.html"
MOST_ROWS = 300
"""Rows of the log that the page prints."""
_DPI = 150
_TITLES = {
    "curves": (
        "The course of training",
        "What is kept and how far the model has moved, by step. Broken lines are the bounds of the rules.",
    ),
    "blocks": (
        "Blocks over steps",
        "Where it moves: CKA falls from 1, entropy of attention falls (blue) or rises (orange).",
    ),
    "attention": (
        "Attention before and now",
        "Where the {reader} looks in a few images: in the backbone, after step {step}, and the difference.",
    ),
}
_FIRST = (
    "drift/cka", "drift/embedding_drift", "drift/entropy", "drift/zero_shot_agreement", "drift/weight_drift",
    "drift/text_cka", "drift/text_embedding_drift",
)  # fmt: skip
_KINDS = {kind: word for kind, (_, _, word) in BOUNDS.items()}


def write_report(out: str | Path, refresh: int | None = None) -> Path:
    """Figures and ``index.html`` of a monitor's folder; the page is written last, so where it is the rest is.

    Args:
        refresh: seconds after which a browser loads the page again; None: never.

    Raises:
        MonitorError: no log there.
        NotDrawnError: a log without a row.
    """
    course = read_course(out)
    if not course.rows:
        raise NotDrawnError(f"{nothing_measured(course)}; there is nothing to show")
    page = WatchedPage(
        title=course.name,
        facts=_facts(course),
        sentences=sentences(course),
        notes=_notes(course),
        figures=[*(_drawn(course, name) for name in FIGURES), _attention(course)],
        rules=[_rule(course, one) for one in course.conditions],
        said=list(course.said),
        measures=_measures(course),
        rows=_rows(course),
        how=_how(course),
        refresh=refresh,
    )
    return write_watched_page(page, course.out / PAGE)


def _drawn(course: Course, name: str) -> Shown:
    return _shown(course, name, *_TITLES[name], lambda: FIGURES[name](course))


def _attention(course: Course) -> Shown:
    """Attention in a few images, of the backbone and of the last measurement that left it."""
    name = "attention"
    title, text = _TITLES[name]
    if reason := (course.about.get("absent") or {}).get("attention"):
        return Shown(name, title, "", None, f"there is no attention over patches: {reason}")
    try:
        found = read_before_and_now(course.out)
    except MonitorError as error:
        return Shown(name, title, text, None, str(error))
    text = text.format(reader=found.before.reader, step=f"{found.step:,}")
    return _shown(course, name, title, text, lambda: before_and_now(found))


def _shown(course: Course, name: str, title: str, text: str, draw: Callable[[], Figure]) -> Shown:
    try:
        figure = draw()
    except NotDrawnError as error:
        return Shown(name, title, text, None, str(error))
    return Shown(name, title, text, write(figure, course.out / "figures" / f"{name}.png", "png", _DPI))


def moment(seconds: float) -> str:
    """A time for people, in UTC."""
    if not math.isfinite(seconds):
        return "at an unknown time"
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _facts(course: Course) -> list[str]:
    images = course.about.get("images") or {}
    steps = course.steps
    where = (
        f"{images.get('count', '?')} images of {images['source']}" if "source" in images else "unknown images"
    )
    sets = f"; zero-shot on {', '.join(course.sets)}" if course.sets else ""
    often = "1 measurement" if len(steps) == 1 else f"{len(steps):,} measurements"
    span = f"at step {steps[0]:,}" if len(steps) == 1 else f"from step {steps[0]:,} to {steps[-1]:,}"
    return [
        f"Backbone: {course.about.get('backbone', 'not known')}. Measured on {where}{sets}.",
        f"{often} {span}, the last one {moment(value_of(course.last, 'time'))}.",
    ]


def _notes(course: Course) -> list[str]:
    notes = [f"{problem}." for problem in course.problems]
    if course.damaged:
        what = "1 line" if course.damaged == 1 else f"{course.damaged} lines"
        notes.append(f"{what} of {LOG} cannot be read and {'is' if course.damaged == 1 else 'are'} left out.")
    if course.failed:
        last = course.failed[-1]
        often = "1 measurement" if len(course.failed) == 1 else f"{len(course.failed)} measurements"
        when = "at" if len(course.failed) == 1 else "the last at"
        notes.append(f"{often} failed, {when} step {last['step']:,} ({last[FAILED]}); there is a gap.")
    broken = {
        key: sum(key in row and not math.isfinite(value_of(row, key)) for row in course.rows)
        for key in dict.fromkeys(k for row in course.rows for k in row if column_of(k) is not None)
        if "/block_" not in key
    }
    broken = {key: count for key, count in broken.items() if count}
    if broken:
        named = ", ".join(f"{key} ({count})" for key, count in list(broken.items())[:4])
        more = f" and {len(broken) - 4} more" if len(broken) > 4 else ""
        notes.append(f"Some measurements are no number (nan or infinite): {named}{more}.")
    return notes


def _rule(course: Course, one: Condition) -> RuleLine:
    """A condition, and how the last row stands to it."""
    word = _KINDS[one.kind]
    if one.rule is None:
        return RuleLine(word, one.text, None, "a function; only the training can ask it")
    last = _finite(course.last)
    numbers = values_for(one.rule, last)
    key = next((name for name, value in numbers.items() if one.rule.holds(value)), next(iter(numbers), None))
    if one.kind == "keep_best_when":  # a demand on all sets and blocks, where the others are alarms by any
        key = weakest(one.rule, last)
    if key is None:
        return RuleLine(word, one.text, None, "not measured")
    return RuleLine(word, one.text, cell(course, -1, key), "yes" if one.rule.holds(last[key]) else "no")


def _finite(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row, nan where they are none."""
    return {key: value_of(row, key) for key in row if column_of(key.partition("/block_")[0]) is not None}


def _measures(course: Course) -> list[MeasureLine]:
    """First and last value of every number without a block."""
    keys = [key for start in ("retention/", "zero_shot/", "drift/", "measure/") for key in course.keys(start)]
    lines = []
    for key in sorted(keys, key=lambda key: key not in _FIRST and key.startswith(("drift/", "measure/"))):
        first = next(i for i, row in enumerate(course.rows, start=1) if key in row)
        column = column_of(key) or key
        base = column.removesuffix("_drift") if column not in MEASURES else column
        about = MEASURES[base].summary if base in MEASURES else ""
        name = {"retention": "zero-shot kept, ", "zero-shot": "zero-shot accuracy, "}.get(
            outcome(column).kind
        )
        title = short(column) if name is None else f"{name}{outcome(column).transfer}"
        lines.append(MeasureLine(key, title, about, cell(course, first, key), cell(course, -1, key)))
    return lines


def _rows(course: Course) -> RowsTable:
    chosen = [key for key in _FIRST if any(key in row for row in course.rows)]
    kept = [key for start in ("retention/", "zero_shot/") for key in course.keys(start)]
    keys = [*chosen[:3], *kept, *chosen[3:]]
    start = max(0, len(course.attempts) - MOST_ROWS)
    numbers = {id(row): number for number, row in enumerate(course.rows, start=1)}
    lines = [
        (
            numbers.get(id(row)),
            row["step"],
            [cell(course, numbers[id(row)], key) if id(row) in numbers else None for key in keys],
            "failed" if FAILED in row else "kept" if row.get("kept") else "good" if row.get("good") else "",
            printed("seconds", value_of(row, "seconds")) if "seconds" in row else "",
        )
        for row in course.attempts[start:]
    ]
    left = f"The last {MOST_ROWS} of {len(course.attempts):,} rows; all are in {LOG}." if start else ""
    return RowsTable([(key, label(column_of(key) or key)) for key in keys], lines, left)


def _how(course: Course) -> list[tuple[str, str]]:
    about, images = course.about, course.about.get("images") or {}
    rules = about.get("rules") or {}
    found: dict[str, object] = {
        "folder": course.out,
        "backbone": about.get("backbone"),
        "blocks": about.get("blocks"),
        "images": images.get("source"),
        "number of images": images.get("count"),
        "texts": about.get("texts"),
        "measured": "after 1, 2, 4, 8 ... steps" if about.get("every") == "dense" else about.get("every"),
        "thresholds": rules.get("source"),
        "patience": rules.get("patience"),
        "warm-up": rules.get("warm_up"),
    }
    if isinstance(about.get("every"), int):
        found["measured"] = f"every {about['every']} steps"
    for name, facts in course.sets.items():
        count, before = facts.get("images"), value_of(facts, "before")
        if math.isfinite(before):
            found[f"transfer set {name}"] = f"{count} images, {before:.1f} % before"
    seconds = [value for value in course.series("seconds") if math.isfinite(value)]
    if seconds:
        found["a measurement took"] = f"{sorted(seconds)[len(seconds) // 2]:.2f} s (median)"
    found |= {f"config: {name}": value for name, value in settings(course.config).items()}
    return [(name, str(value)) for name, value in found.items() if value is not None]
