"""Figures over the learning rate: methods side by side at the same rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from clipdrift.figures.look import INK, Canvas, Look, above, look, method_key, note
from clipdrift.figures.seeds import bars, lost_text, over_rates, seeds_text, spread, zero
from clipdrift.figures.source import (
    NotDrawnError,
    StudySource,
    in_order,
    needed,
    places,
    plain,
    rates,
)
from clipdrift.figures.words import label
from clipdrift.outcomes.columns import columns_of, outcome
from clipdrift.texts import rate as rate_text

ATTENTION = ("entropy_drift", "erf95_drift", "gini_drift", "head_diversity_drift")
_HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "++++", "oo")


def rate_panels(
    runs: pd.DataFrame, columns: Sequence[str], canvas: Canvas, ends: dict[str, int] | None = None
) -> Figure:
    """A row of panels for each target, a panel for each column.

    Args:
        runs: with ``place``, ``method``, ``learning_rate``, ``status`` and the columns; diverged runs are
            marked by a cross at their rate.
    """
    names = in_order(runs["place"])
    figure, axes = canvas.grid(len(names), len(columns))
    for row, (place, part) in zip(axes, places(runs), strict=True):
        for axis, column in zip(row, columns, strict=True):
            over_rates(axis, part, column, xlabel=axis in axes[-1])
            reference(axis, part, column)
            axis.set_ylabel(label(column))
        row[0].set_title(place)
    method_key(figure, in_order(runs["method"]))
    note(figure, seeds_text(runs[runs["status"] == "done"]), lost_text(ends or {}, runs, crosses=True))
    return figure


def reference(axis: Axes, runs: pd.DataFrame, column: str) -> None:
    """Draw the line of no change from the backbone."""
    if outcome(column).kind == "retention":
        zero(axis, 100)
        axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
    elif column == "cka":
        zero(axis, 1)
    elif outcome(column).kind == "drift":
        zero(axis)


def _known(runs: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    found = [c for c in columns if c in runs and runs[c].notna().any()]
    if not found:
        raise NotDrawnError(f"no run has {' or '.join(columns)}")
    return found


def rate_sweep(tables: StudySource, canvas: Canvas) -> Figure:
    """Drift of the attention measures over the rate."""
    runs = plain(tables)
    return rate_panels(runs, _known(runs, ATTENTION), canvas, dict(tables.ends))


def representation_sweep(tables: StudySource, canvas: Canvas) -> Figure:
    """Drift of representation and weights over the rate."""
    runs = plain(tables)
    columns = _known(runs, ("cka", "embedding_drift", "weight_drift"))
    return rate_panels(runs, columns, canvas, dict(tables.ends))


def matched_rates(tables: StudySource, canvas: Canvas) -> Figure:
    """Accuracy, entropy drift and retention at matched rates."""
    runs = plain(tables)
    columns = _known(runs, ("accuracy", "entropy_drift", *columns_of("retention", runs)))
    return rate_panels(runs, columns, canvas, dict(tables.ends))


def zero_shot(tables: StudySource, canvas: Canvas) -> Figure:
    """Zero-shot accuracy as bars, the backbone's as a line; a column for each target."""
    runs = plain(tables)
    columns = [c for c in columns_of("zero-shot", runs) if runs[c].notna().any()]
    if not columns:
        raise NotDrawnError("no run was tested on a transfer set")
    names, methods = in_order(runs["place"]), in_order(runs["method"])
    wide = max(2.3, 0.6 + 0.12 * len(methods) * len(rates(runs)))
    figure, axes = canvas.grid(len(columns), len(names), height=1.9, width=wide, sharey="row")
    for axis_row, column in zip(axes, columns, strict=True):
        for axis, (place, part) in zip(axis_row, places(runs), strict=True):
            _bars(axis, part, column, methods)
            before = part[f"backbone_{column}"].dropna() if f"backbone_{column}" in part else []
            for value in list(before)[:1]:
                axis.axhline(float(value), color=INK, linewidth=0.9, linestyle="--")
            axis.set_title(place)
        axis_row[0].set_ylabel(label(column))
    for axis in axes[-1]:
        axis.set_xlabel("learning rate")
    keys = [
        Patch(facecolor=look(m).colour, hatch=_HATCHES[i % len(_HATCHES)], edgecolor="white", label=m)
        for i, m in enumerate(methods)
    ]
    line = Line2D([], [], color=INK, linewidth=0.9, linestyle="--", label="backbone")
    above(figure, [*keys, line])
    said = seeds_text(runs[runs["status"] == "done"]).replace("line: mean; bars:", "bars: mean; whiskers:")
    note(figure, said, lost_text(tables.ends, runs))
    return figure


def _bars(axis: Axes, runs: pd.DataFrame, column: str, methods: list[str]) -> None:
    found = rates(runs)
    width = 0.8 / len(methods)
    for place, method in enumerate(methods):
        part, how = runs[runs["method"] == method].dropna(subset=[column]), look(method)
        table = spread(part, "learning_rate", column)
        x = np.array([found.index(float(r)) for r in table.index]) + (place - (len(methods) - 1) / 2) * width
        hatch = _HATCHES[place % len(_HATCHES)]
        shape: dict[str, Any] = {"hatch": hatch, "edgecolor": "white", "linewidth": 0, "zorder": 2}
        axis.bar(x, table["mean"], width * 0.92, color=how.colour, **shape)
        bars(axis, x, table, Look(INK, how.marker, how.line))
        at = dict(zip(table.index, x, strict=True))
        axis.scatter(
            [at[r] for r in part["learning_rate"]], part[column], s=7, facecolor="white", edgecolor=INK,
            linewidth=0.5, zorder=4, marker=how.marker,
        )  # fmt: skip
    axis.set_xticks(range(len(found)), [rate_text(r) for r in found])
    axis.tick_params(axis="x", length=0)


def convergence(tables: StudySource, canvas: Canvas) -> Figure:
    """Draw how far validation accuracy still moves in the last epochs of each run."""
    rows = tables.rows("convergence").dropna(subset=["value"])
    if rows.empty:
        raise NotDrawnError("no run has enough epochs to say whether accuracy has settled")
    found = of_runs(plain(tables), rows)
    found = needed(found, ["value"], "no plain run has enough epochs")
    names = in_order(found["place"])
    figure, axes = canvas.grid(1, len(names), width=2.3, height=2.0, sharey="row")
    for axis, (place, part) in zip(axes[0], places(found), strict=True):
        over_rates(axis, part, "value")
        axis.set_ylim(bottom=0)
        axis.set_title(place)
    axes[0][0].set_ylabel("range of validation accuracy\nin the last epochs, points")
    method_key(figure, in_order(found["method"]))
    said = f"{rows['statistic'].iloc[0].capitalize()}."
    note(figure, said, seeds_text(found), lost_text(tables.ends, plain(tables)))
    return figure


def of_runs(runs: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Runs with the ``value`` and ``effect`` of the row that is about each of them, where there is one."""
    known = rows[["run", "value", "effect"]]
    return runs.drop(columns=["value", "effect"], errors="ignore").merge(known, on="run")
