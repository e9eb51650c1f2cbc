"""Figures along training: lines by epoch, trajectories, onset, heat maps of blocks and epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from clipdrift.figures.by_method import by_method
from clipdrift.figures.look import (
    DOTS,
    IN_A_ROW,
    INK,
    Canvas,
    above,
    dots,
    few_ticks,
    levels,
    line_width,
    look,
    method_panels,
    note,
    rate_key,
    shade,
    tidy,
)
from clipdrift.figures.over_blocks import seed_means
from clipdrift.figures.over_rates import of_runs
from clipdrift.figures.panels import CHANGE, block_places, colour_bar, heat_map
from clipdrift.figures.seeds import along, band_text, lost_text, zero
from clipdrift.figures.source import NotDrawnError, StudySource, in_order, joined, places, plain, rates
from clipdrift.figures.words import label
from clipdrift.outcomes.keys import select
from clipdrift.texts import rate as rate_text

FALL = -1.0
"""Percent; where analysis says that entropy has begun to fall."""


def epochs(points: pd.DataFrame) -> pd.DataFrame:
    """The points with ``time``: epochs done, as a number between two epochs where looks lie within one.

    Raises:
        NotDrawnError: they have steps alone, as logs of monitors.
    """
    if "epoch" not in points:
        raise NotDrawnError("these trainings have steps and no epochs")
    ends = points.groupby("run")[["step", "epoch"]].transform("max")
    return points.assign(time=(points["step"] * ends["epoch"] / ends["step"]).round(6))


def _over_time(tables: StudySource, canvas: Canvas, columns: Sequence[str]) -> Figure:
    figure = by_method(tables, canvas, epochs(joined(tables, tables.history)), "time", columns, "epoch")
    _from_zero(figure.axes)
    return figure


def _from_zero(axes: Sequence[Axes]) -> None:
    for axis in axes:
        axis.set_xlim(left=0)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))


def training(tables: StudySource, canvas: Canvas) -> Figure:
    """Validation accuracy and entropy drift by epoch."""
    return _over_time(tables, canvas, ("validation_accuracy", "entropy_drift"))


def head_diversity(tables: StudySource, canvas: Canvas) -> Figure:
    """Drift of head diversity by epoch."""
    return _over_time(tables, canvas, ("head_diversity_drift",))


def gini_erf(tables: StudySource, canvas: Canvas) -> Figure:
    """Drift of Gini and of the effective receptive field by epoch."""
    return _over_time(tables, canvas, ("gini_drift", "erf95_drift"))


def trajectories(tables: StudySource, canvas: Canvas) -> Figure:
    """Methods against each other: entropy drift by epoch, a panel for each rate."""
    points = epochs(joined(tables, tables.history, "entropy_drift"))
    at = {place: rates(part) for place, part in places(points)}
    methods = in_order(points["method"])
    figure, axes = canvas.grid(len(at), max(map(len, at.values())), height=1.55, sharex="all", sharey="row")
    for row, (place, part) in zip(axes, places(points), strict=True):
        for axis, rate in zip(row, at[place], strict=False):
            for method, those in part[part["learning_rate"] == rate].groupby("method", sort=False):
                how = look(str(method))
                for _, one in those.groupby("run"):
                    axis.plot(one["time"], one["entropy_drift"], color=how.colour, linewidth=0.4, alpha=0.55)
                along(axis, those, "time", "entropy_drift", how.colour, line=how.line)
            zero(axis)
            axis.set_title(f"{place}, {rate_text(rate)}")
        row[0].set_ylabel(label("entropy_drift"))
    tidy(axes, "epoch")
    _from_zero(list(axes.ravel()))
    keys = [Line2D([], [], color=look(m).colour, linestyle=look(m).line, label=m) for m in methods]
    above(figure, keys)
    note(figure, "Thin lines: runs.", band_text(points), lost_text(tables.ends, plain(tables)))
    return figure


def onset(tables: StudySource, canvas: Canvas) -> Figure:
    """Entropy drift by step, a line for each run, a mark where analysis finds the onset of its fall."""
    points = joined(tables, tables.history, "entropy_drift")
    rows = tables.rows("onset")
    rows = select(rows, "onset step").dropna(subset=["value"])
    marks = of_runs(plain(tables), rows)
    names, methods, found = in_order(points["place"]), in_order(points["method"]), rates(points)
    figure, axes, rows_ = method_panels(canvas, len(names), len(methods), 1.8)
    for panels, (place, part) in zip(rows_, places(points), strict=True):
        for axis, method in zip(panels, methods, strict=True):
            for rate, level in zip(found, levels(len(found)), strict=True):
                _courses(axis, part, marks, method, rate, level)
            if axis.has_data():
                zero(axis)
                axis.axhline(FALL, color=INK, linewidth=0.6, linestyle=(0, (4, 2)))
            axis.set_title(f"{place}, {method}")
        for axis in panels[::IN_A_ROW]:
            axis.set_ylabel(label("entropy_drift"))
        few_ticks(panels[0])
    tidy(axes, "step")
    _from_zero(list(axes.ravel()))
    mark = Line2D([], [], linestyle="none", marker="v", color="white", markeredgecolor=INK, label="onset")
    rate_key(figure, found, mark)
    often = f"{len(marks)} of {points['run'].nunique()} runs"
    note(
        figure, f"Lines: runs. Onset: entropy {-FALL:g} % below the backbone's (dashed); reached by {often}.",
        lost_text(tables.ends, plain(tables)),
    )  # fmt: skip
    return figure


def _courses(
    axis: Axes, points: pd.DataFrame, marks: pd.DataFrame, method: str, rate: float, level: float
) -> None:
    colour = shade(look(method).colour, level)
    mark: dict[str, Any] = {"marker": "v", "markersize": 4, "markeredgecolor": INK, "markeredgewidth": 0.6}
    those = points[(points["method"] == method) & (points["learning_rate"] == rate)]
    for run, one in those.groupby("run", sort=False):
        axis.plot(one["step"], one["entropy_drift"], color=colour, linewidth=0.5 * line_width(level) + 0.2)
        at = marks[marks["run"] == run]
        if len(at):
            drift = one.set_index("step")["entropy_drift"].get(float(at["value"].iloc[0]), FALL)
            axis.plot(at["value"], [drift], color="white", zorder=5, **mark)


def entropy_heat(tables: StudySource, canvas: Canvas) -> Figure:
    """Entropy drift of every block (down) by epoch (across): mean over seeds, one colour scale."""
    points = epochs(joined(tables, tables.history_blocks("entropy"), "drift"))
    means = points.groupby(["place", "method", "learning_rate", "time", "block"], sort=False)["drift"].mean()
    rows = [part for _, part in means.groupby(level=[0, 1], sort=False)]
    most = float(means.abs().max())
    widest = max(part.index.unique(2).size for part in rows)
    figure, axes = canvas.grid(len(rows), widest, height=1.2, extra=0.45)
    for row, part in zip(axes, rows, strict=True):
        cells = list(part.groupby(level=[0, 1, 2]))
        for axis, ((place, method, rate), drift) in zip(row, cells, strict=False):
            shown = _heat(axis, drift, most)
            axis.set_title(f"{place}, {method}, {rate_text(rate)}", fontsize=6.8)
        row[0].set_ylabel("block")
    tidy(axes, "epoch")
    colour_bar(figure, shown, list(axes.ravel()), label("entropy_drift"), aspect=40)
    said = f"{seed_means(points)} {DOTS}"
    note(figure, said, lost_text(tables.ends, plain(tables)))
    return figure


def _heat(axis: Axes, drift: pd.Series, most: float) -> Any:
    """Blocks by epochs; a tick at some whole epochs, of columns that count from 1."""
    matrix = drift.droplevel([0, 1, 2]).unstack("time").sort_index()
    values = matrix.to_numpy(dtype=float)
    shown = heat_map(axis, values, -most, most, CHANGE)
    dots(axis, values, most)
    times = np.asarray(matrix.columns, dtype=float)
    whole = np.flatnonzero(np.abs(times - times.round()) < 1e-6)
    step = max(1, -(-len(whole) // 4))
    some = whole[step - 1 :: step] if len(whole) else np.arange(len(times))
    axis.set_xticks(some + 1, [f"{t:g}" for t in times[some]])
    axis.set_yticks(block_places(len(matrix))[:: 2 if len(matrix) > 6 else 1])
    axis.grid(False)
    return shown
