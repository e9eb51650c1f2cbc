"""Figures of choices: the frontier, the picks of signals, the path back to the backbone."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clipdrift.figures.by_method import by_method
from clipdrift.figures.look import GREY, INK, Canvas, method_key, note
from clipdrift.figures.relations import points_note, scatter
from clipdrift.figures.source import (
    NotDrawnError,
    StudySource,
    done,
    in_order,
    joined,
    places,
    rates,
    retentions,
)
from clipdrift.figures.words import label, short
from clipdrift.outcomes.columns import columns_of
from clipdrift.outcomes.keys import select


def frontier(tables: StudySource, canvas: Canvas) -> Figure:
    """Accuracy on the target over retention; the runs that no other run beats in both are ringed."""
    runs = done(tables)
    gained = "accuracy" if "accuracy" in runs else "validation_accuracy"
    if gained not in runs:
        raise NotDrawnError("no run has an accuracy on its target")
    kept = retentions(runs)
    names = in_order(runs["place"])
    rows = tables.rows("choosing")
    figure, axes = canvas.grid(len(kept), len(names), width=2.3, height=2.1, sharex="row")
    for axis_row, column in zip(axes, kept, strict=True):
        for axis, (place, part) in zip(axis_row, places(runs), strict=True):
            scatter(axis, part, column, gained, rates(runs))
            _front(axis, part, rows, column, gained)
            axis.axvline(100, color=GREY, linewidth=0.6, zorder=1)
            axis.set_title(place)
            axis.set_xlabel(label(column))
        axis_row[0].set_ylabel(label(gained))
    ring = Line2D([], [], color=INK, marker="o", markerfacecolor="none", linewidth=0.8, label="Pareto set")
    method_key(figure, in_order(runs["method"]), ring)
    points_note(figure, tables, "Up and right is better.")
    return figure


def _front(axis: Axes, runs: pd.DataFrame, rows: pd.DataFrame, kept: str, gained: str) -> None:
    front = select(rows, "Pareto set", outcome=kept, signal=gained)
    found = front[front["run"].isin(runs["run"])].sort_values("value")
    axis.step(found["value"], found["effect"], where="pre", color=INK, linewidth=0.8, zorder=2)
    ring: dict[str, Any] = {"facecolor": "none", "edgecolor": INK, "linewidth": 0.8, "s": 34, "zorder": 4}
    axis.scatter(found["value"], found["effect"], **ring)


def choosing(tables: StudySource, canvas: Canvas) -> Figure:
    """Draw what each label-free signal's pick loses in retention against the best pick, beside a random
    one."""
    rows = tables.rows("choosing")
    rows = select(rows, "regret").dropna(subset=["value"])
    if rows.empty:
        raise NotDrawnError("no two runs are near enough to the best accuracy to choose between them")
    kept, groups, signals = (list(dict.fromkeys(rows[name])) for name in ("outcome", "place", "signal"))
    high = 0.5 + 0.19 * len(signals)
    figure, axes = canvas.grid(
        len(kept), len(groups), width=2.6, height=high, extra=0.35, sharey="all", sharex="row"
    )
    for axis_row, column in zip(axes, kept, strict=True):
        those = select(rows, outcome=column)
        axis_row[0].set_xlim(0, 1.12 * float(those[["value", "effect"]].max().max()) or 1)
        for axis, group in zip(axis_row, groups, strict=True):
            here = select(those, place=group)
            at = [signals.index(signal) for signal in here["signal"]]
            axis.barh(at, here["value"], color="#8C8C8C", height=0.62, zorder=2)
            for value, place in zip(here["value"], at, strict=True):
                shift: dict[str, Any] = {"xytext": (2.5, 0), "textcoords": "offset points", "va": "center"}
                axis.annotate(f"{value:.1f}", (value, place), fontsize=6.2, **shift)
            if len(here):
                axis.axvline(here["effect"].iloc[0], color=INK, linewidth=0.9, linestyle="--", zorder=1)
                axis.set_title(f"{group}, n = {here['n'].iloc[0]} runs")
            axis.set_yticks(range(len(signals)), [short(s) for s in signals])
            axis.set_ylim(len(signals) - 0.4, -0.6)
            axis.set_xlabel(f"regret, points of\n{label(column)}")
            axis.grid(axis="y", visible=False)
            axis.grid(axis="x")
    key = Line2D([], [], color=INK, linewidth=0.9, linestyle="--", label="a random pick, on average")
    figure.legend(handles=[key], loc="outside upper left")
    note(figure, "Chosen among runs within a point of the best validation accuracy; 0: as good as any.")
    return figure


def interpolation(tables: StudySource, canvas: Canvas) -> Figure:
    """Accuracy and retention on the way from the backbone to the adapted model."""
    if tables.paths.empty:
        raise NotDrawnError("no interpolation between backbone and adapted models in these tables")
    points = joined(tables, tables.paths, "alpha", of="interpolation")
    columns = [c for c in ("accuracy",) if c in points] + columns_of("retention", points)
    figure = by_method(tables, canvas, points, "alpha", columns, "alpha (0 backbone, 1 adapted)")
    figure.axes[0].set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
    return figure
