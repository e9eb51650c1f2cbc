"""Figures of a watched training: curves over steps with the rules' bounds, blocks over steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clipdrift.figures.look import DOTS, GREY, INK, Canvas, above, dots, few_ticks, note, style
from clipdrift.figures.panels import CHANGE, COLOURS, SCALE, block_places, colour_bar, heat_map, plain
from clipdrift.figures.source import NotDrawnError
from clipdrift.figures.words import label
from clipdrift.monitoring.course import Condition, Course, column_of, value_of

_LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
_MARKS = ("o", "s", "^", "D")
BOUNDS: dict[str, tuple[str, Any, str]] = {
    "warn_when": ("#B07800", (0, (6, 2)), "warn"),
    "stop_when": ("#A30000", (0, (6, 1.5, 1, 1.5)), "stop"),
    "reduce_rate_when": ("#882255", (0, (2, 1)), "reduce the rate"),
    "keep_best_when": ("#00704F", (0, (1, 1.5)), "keep as good"),
}
"""Kind of condition -> colour, line and word of its bound."""
_SAID = {"warning": ("v", "#B07800", "warned"), "stop": ("X", "#A30000", "asked to stop")}
_MARKED = 40
"""Most measurements whose points are marked."""
_DENSE = 8.0
"""Steps grow so much from the first to the last that an axis of powers is easier to read."""


@dataclass(frozen=True)
class Panel:
    """One panel: what it shows, each line's key and name, and where nothing has changed."""

    title: str
    lines: tuple[tuple[str, str], ...]
    rest: float | None = None


def panels_of(course: Course) -> list[Panel]:
    """The panels that a course can fill: those of every course, then what its rules bound beside them."""
    towers = (("cka", 1.0), ("embedding_drift", 0.0), ("entropy", 0.0), ("weight_drift", 0.0))
    found: dict[str, Panel] = {}
    for name, rest in towers:
        pair = [(f"drift/{name}", "image tower"), (f"drift/text_{name}", "text tower")]
        found[name] = Panel(label(column_of(pair[0][0]) or name), tuple(pair), rest)
    sets = tuple((key, key.partition("/")[2]) for key in course.keys("retention/"))
    tested = tuple((key, key.partition("/")[2]) for key in course.keys("zero_shot/"))
    order = [
        found["cka"],
        found["embedding_drift"],
        Panel("zero-shot kept, %", sets, 100.0) if sets else Panel("zero-shot accuracy, %", tested),
        found["entropy"],
        Panel("zero-shot agreement (1: same)", (("drift/zero_shot_agreement", ""),), 1.0),
        found["weight_drift"],
    ]
    order += [Panel(plain(title), ((key, ""),)) for key, title in _bounded(course, order)]
    filled = []
    for panel in order:
        lines = tuple((key, name) for key, name in panel.lines if any(key in row for row in course.rows))
        if lines:
            filled.append(Panel(panel.title, lines, panel.rest))
    return filled


def _bounded(course: Course, shown: Sequence[Panel]) -> Iterator[tuple[str, str]]:
    """Keys that a rule bounds and no panel shows."""
    known = {key for panel in shown for key, _ in panel.lines}
    keys = dict.fromkeys(key for row in course.rows for key in row if column_of(key) is not None)
    for key in keys:
        if key not in known and any(True for _ in course.bounds(key)):
            whole, block, number = key.partition("/block_")
            column = column_of(whole) or key
            yield key, f"{label(column, blocks=True)}{f', block {number}' if block else ''}"


def curves(course: Course, canvas: Canvas | None = None) -> Figure:
    """Drift and what is kept over the steps of a training, with the bounds of its rules.

    Raises:
        NotDrawnError: no row has a number.
    """
    panels = panels_of(course)
    if not panels:
        raise NotDrawnError("no measurement has a number")
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with style():
        canvas = canvas or Canvas()
        figure, axes = canvas.grid(rows, columns, height=1.75, extra=0.75, sharex="all")
        used: set[str] = set()
        broken = False
        for axis, panel in zip(axes.ravel(), panels, strict=False):
            broken |= _panel(axis, panel, course)
            used |= _bounds(axis, panel, course)
            _events(axis, course)
        for axis in axes.ravel()[len(panels) :]:
            axis.set_axis_off()
        for column in axes.T:
            drawn = [axis for axis in column if axis.axison]
            if drawn:
                drawn[-1].set_xlabel("optimiser step")
                drawn[-1].tick_params(labelbottom=True)
        handles = [*_bound_keys(used), *_event_keys(course)]
        if handles:
            above(figure, handles, 1.15)
        said = "Thin line: the backbone, before training." if any(p.rest is not None for p in panels) else ""
        note(figure, said, "Crosses at the foot: no number (nan)." if broken else "")
    return figure


def _panel(axis: Axes, panel: Panel, course: Course) -> bool:
    """Draw a panel's lines; returns whether a value was none."""
    broken = False
    steps, attempts = course.steps, [int(row["step"]) for row in course.attempts]
    if panel.rest is not None:
        axis.axhline(panel.rest, color=GREY, linewidth=0.7)
    for place, (key, name) in enumerate(panel.lines):
        values = np.array(course.series(key))
        whole = np.array([value_of(row, key) for row in course.attempts])  # a gap where measuring failed
        colour, line = COLOURS[place % len(COLOURS)], _LINES[place % len(_LINES)]
        mark = _MARKS[place % len(_MARKS)] if len(steps) <= _MARKED else ""
        axis.plot(
            attempts, np.where(np.isfinite(whole), whole, np.nan), color=colour, linestyle=line, marker=mark,
            markersize=3, linewidth=1.4, label=plain(name, 30),
        )  # fmt: skip
        lost = [
            s
            for s, v, row in zip(steps, values, course.rows, strict=True)
            if key in row and not np.isfinite(v)
        ]
        if lost:
            broken = True
            axis.plot(
                lost,
                [0.02] * len(lost),
                "x",
                color=colour,
                markersize=4,
                transform=axis.get_xaxis_transform(),
            )
    if len(panel.lines) > 1:
        axis.legend(loc="best", fontsize=6.5)
    elif panel.lines[0][1] and panel.lines[0][1] != "image tower":
        axis.legend(loc="best", fontsize=6.5, handlelength=1.2)
    axis.set_title(panel.title, pad=7)
    if min(steps) > 0 and max(steps) >= _DENSE * min(steps) and course.about.get("every") == "dense":
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.minorticks_off()
    else:
        few_ticks(axis, x=5)
    low, high = axis.get_ylim()
    if high - low < 1e-9 * max(1.0, abs(high)):
        axis.set_ylim(low - 0.5, high + 0.5)
    return broken


def _bounds(axis: Axes, panel: Panel, course: Course) -> set[str]:
    """Draw the bounds on a panel's keys; returns their kinds."""
    kinds = set()
    drawn: dict[tuple[str, float], Condition] = {}
    for key, _ in panel.lines:
        for one in course.bounds(key):
            assert one.rule is not None
            for value in {one.rule.threshold, *([-one.rule.threshold] if one.rule.magnitude else [])}:
                drawn[one.kind, value] = one
    values = [value for _, value in drawn]
    for place, (kind, value) in enumerate(drawn):
        colour, line, _ = BOUNDS[kind]
        twice = values.index(value) < place  # two conditions at one number lie side by side
        axis.axhline(
            value, color=colour, linestyle=line, linewidth=2.6 if twice else 1.1, alpha=0.35 if twice else 1
        )
        kinds.add(kind)
    return kinds


def _events(axis: Axes, course: Course) -> None:
    """Mark steps at which a rule spoke, and the state that was kept."""
    for kind, (mark, colour, _) in _SAID.items():
        if steps := sorted({one.step for one in course.said if one.kind == kind}):
            _edge_marks(axis, steps, 1.0, marker=mark, color=colour)
    if failed := [int(row["step"]) for row in course.failed]:
        _edge_marks(axis, failed, 0.0, marker="x", color=GREY)
    step = kept_step(course)
    if step is not None:
        _edge_marks(axis, [step], 0.0, marker="^", color=BOUNDS["keep_best_when"][0])


def _edge_marks(axis: Axes, steps: Sequence[int], height: float, **look: Any) -> None:
    """Marks on a panel's upper or lower edge, for which no room is made."""
    (marks,) = axis.plot(
        steps, [height] * len(steps), linestyle="none", markersize=4.5, clip_on=False, zorder=6,
        transform=axis.get_xaxis_transform(), **look,
    )  # fmt: skip
    marks.set_in_layout(False)


def kept_step(course: Course) -> int | None:
    """Step of the last good state."""
    found = (course.good or {}).get("step")
    return found if isinstance(found, int) else None


def _bound_keys(kinds: set[str]) -> list[Line2D]:
    return [
        Line2D([], [], color=colour, linestyle=line, linewidth=1.2, label=word)
        for kind, (colour, line, word) in BOUNDS.items()
        if kind in kinds
    ]


def _event_keys(course: Course) -> list[Line2D]:
    spoken = {one.kind for one in course.said}
    keys = [
        Line2D([], [], color=colour, marker=mark, linestyle="none", label=word)
        for kind, (mark, colour, word) in _SAID.items()
        if kind in spoken
    ]
    if course.failed:
        keys.append(Line2D([], [], color=GREY, marker="x", linestyle="none", label="not measured"))
    if kept_step(course) is not None:
        colour = BOUNDS["keep_best_when"][0]
        keys.append(Line2D([], [], color=colour, marker="^", linestyle="none", label="last good state"))
    return keys


_HEATS: Mapping[str, tuple[str, bool]] = {
    "drift/cka": ("CKA with the backbone, image tower", False),
    "drift/entropy": ("entropy drift of attention, %, image tower", True),
    "drift/text_cka": ("CKA with the backbone, text tower", False),
}


def blocks(course: Course, canvas: Canvas | None = None) -> Figure:
    """Blocks (down) over measurements (across): CKA and entropy drift, and of the text tower CKA.

    Raises:
        NotDrawnError: no measurement has numbers by block.
    """
    every = {key: np.array(course.by_block(key), dtype=float) for key in _HEATS}
    heats = {key: values for key, values in every.items() if np.isfinite(values).any()}
    if not heats:
        raise NotDrawnError("no measurement has numbers by block")
    height = sum(0.75 + 0.11 * min(16, len(values)) for values in heats.values())
    with style():
        figure = (canvas or Canvas()).figure(7.0, height + 0.5)
        axes = figure.subplots(len(heats), squeeze=False)[:, 0]
        for axis, (key, values) in zip(axes, heats.items(), strict=True):
            title, signed = _HEATS[key]
            finite = values[np.isfinite(values)]
            most = max(float(np.abs(finite).max()), 1e-9)
            low, high = (-most, most) if signed else (min(float(finite.min()), 0.99), 1.0)
            shown = heat_map(axis, values, low, high, CHANGE if signed else SCALE)
            if signed:
                dots(axis, values, most)
            axis.set_title(title)
            axis.set_ylabel("block")
            axis.set_yticks(block_places(len(values))[:: 2 if len(values) > 6 else 1])
            _step_ticks(axis, course.steps)
            axis.grid(False)
            colour_bar(figure, shown, axis, "", aspect=12)
        axes[-1].set_xlabel("optimiser step of the measurement")
        hatched = any(not np.isfinite(values).all() for values in heats.values())
        said = f"A column is a measurement. {DOTS if 'drift/entropy' in heats else ''}"
        note(figure, said, "Hatched: no number." if hatched else "")
    return figure


def _step_ticks(axis: Axes, steps: Sequence[int]) -> None:
    """A tick at some measurements, of columns that count from 1."""
    every = max(1, math.ceil(len(steps) / 14))
    chosen = list(range(0, len(steps), every))
    axis.set_xticks([place + 1 for place in chosen], [f"{steps[place]:,}" for place in chosen])
    axis.tick_params(axis="x", colors=INK)


FIGURES = {"curves": curves, "blocks": blocks}
"""Figures of a watched training by name."""
