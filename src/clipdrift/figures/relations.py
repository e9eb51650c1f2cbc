"""Figures of relations: drift and zero-shot, measures with each other, predictors, statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clipdrift.figures.look import GREY, INK, Canvas, few_ticks, levels, look, method_key, note, shade
from clipdrift.figures.panels import colour_bar, heat_map, print_cells
from clipdrift.figures.seeds import lost_text, zero
from clipdrift.figures.source import NotDrawnError, StudySource, done, in_order, places, rates, retentions
from clipdrift.figures.words import label, short
from clipdrift.outcomes.columns import ReadAt, outcome
from clipdrift.outcomes.keys import select
from clipdrift.texts import typeset

DRIFTS = ("entropy_drift", "cka", "embedding_drift", "weight_drift")
TEXT_DRIFTS = ("text_cka", "text_embedding_drift")
"""Shown beside them where some run trains the text tower."""
SIGNS = LinearSegmentedColormap.from_list("clipdrift_signs", ["#0072B2", "#F7F7F7", "#D55E00"])
LISTED = 16
"""Most signals that a ranking shows."""


def drift_zero_shot(tables: StudySource, canvas: Canvas) -> Figure:
    """Retention over drift, a point for each run: which drift goes with the loss."""
    runs = done(tables)
    kept = retentions(runs)
    columns = [c for c in (*DRIFTS, *TEXT_DRIFTS) if c in runs and runs[c].notna().any()]
    if not columns:
        raise NotDrawnError(f"no run has {' or '.join(DRIFTS)}")
    rows = [(place, part, name) for place, part in places(runs) for name in kept]
    figure, axes = canvas.grid(len(rows), len(columns), height=1.6, sharey="row", sharex="col")
    for row, (place, part, name) in zip(axes, rows, strict=True):
        for axis, column in zip(row, columns, strict=True):
            scatter(axis, part, column, name, rates(runs))
            zero(axis, 100)
            few_ticks(axis, x=4)
        row[0].set_ylabel(label(name))
        row[0].set_title(place)
    for axis, column in zip(axes[-1], columns, strict=True):
        axis.set_xlabel(label(column))
        if column.endswith("cka"):
            axis.invert_xaxis()
    method_key(figure, in_order(runs["method"]))
    reading = "CKA falls to the right."
    if texts := set(columns).intersection(TEXT_DRIFTS):
        without = int(runs[min(texts)].isna().sum())
        reading += f" {without} runs leave the text tower as it is; they have no drift of texts." * bool(
            without
        )
    points_note(figure, tables, reading)
    return figure


def points_note(figure: Figure, tables: StudySource, reading: str) -> None:
    """Below a figure of runs as points: how many there are of each target, and how to read it."""
    counts = ", ".join(f"{place} {len(part)}" for place, part in places(done(tables)))
    points = f"A point for each run (n: {counts}), darker at higher rates."
    note(figure, points, reading, lost_text(tables.ends, tables.runs))


def scatter(axis: Axes, runs: pd.DataFrame, x: str, y: str, found: Sequence[float]) -> None:
    """Runs as points in their method's colour and marker, darker at higher rates."""
    dark = dict(zip(found, levels(len(found)), strict=True))
    edge: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.3, "zorder": 3}
    for method, part in runs.dropna(subset=[x, y]).groupby("method", sort=False):
        how = look(str(method))
        colours = [shade(how.colour, dark[rate]) for rate in part["learning_rate"]]
        axis.scatter(part[x], part[y], s=13, c=colours, marker=how.marker, **edge)


def measures(tables: StudySource, canvas: Canvas) -> Figure:
    """Correlation of every two measures over cells: Pearson below the diagonal, Spearman above."""
    rows = select(tables.rows("measures").dropna(subset=["value"]), over="")
    keys = rows[["quantity", "signal", "outcome"]].itertuples(index=False, name=None)
    found = {key: float(value) for key, value in zip(keys, rows["value"], strict=True)}
    pairs = [(first, second) for kind, first, second in found if kind == "Pearson"]
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    if len(names) < 2:
        raise NotDrawnError("fewer than two measures vary over the runs")
    matrix = np.full((len(names), len(names)), np.nan)
    for i, first in enumerate(names):
        for j, second in enumerate(names[i + 1 :], start=i + 1):
            matrix[j, i] = found.get(("Pearson", first, second), np.nan)
            matrix[i, j] = found.get(("Spearman", first, second), np.nan)
    side = 1.7 + 0.34 * len(names)
    figure = canvas.figure(max(3.4, side), max(3.0, side * 0.93))
    axis = figure.subplots()
    shown = heat_map(axis, matrix, -1, 1, SIGNS)
    print_cells(axis, shown, lambda v: typeset(f"{v:.2f}".replace("0.", ".")), 5.5)
    places_ = range(1, len(names) + 1)
    axis.set_xticks(places_, [short(n) for n in names], rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(places_, [short(n) for n in names])
    axis.patch.set(hatch=None, facecolor="white")
    axis.grid(False)
    colour_bar(figure, shown, axis, "correlation (−1 to 1)")
    note(figure, f"Drifts, n = {rows['n'].iloc[0]} cells. Below the diagonal Pearson, above it Spearman.")
    return figure


def predictors(tables: StudySource, canvas: Canvas) -> Figure:
    """Signals ranked by their rank correlation with retention, at the chosen epoch and after the first."""
    rows = tables.rows("predictors")
    rows = select(rows, population="all", over="").dropna(subset=["value"])
    kept = next((name for name in rows["outcome"] if outcome(name).kind == "retention"), "")
    ranks = select(rows, "Spearman", outcome=kept)
    areas = select(rows, "AUC", outcome=kept)
    chosen = select(ranks, moment="")
    signals = list(chosen["signal"])
    if not signals:
        raise NotDrawnError("no signal varies together with a retention over the runs")
    strength = dict(zip(signals, chosen["value"].abs(), strict=True))
    ranked = sorted(signals, key=lambda s: -strength[s])[:LISTED]
    figure, axes = canvas.grid(1, 2, width=3.4, height=0.6 + 0.21 * len(ranked), extra=0.35, sharey="all")
    threshold = f"{areas['level'].iloc[0]:g} %" if len(areas) else ""
    first: tuple[float, ReadAt, str, str] = (-0.16, "", "o", INK)
    second: tuple[float, ReadAt, str, str] = (0.16, "epoch1", "D", "white")
    for offset, moment, marker, face in (first, second):
        for place, signal in enumerate(ranked):
            for axis, table in ((axes[0][0], ranks), (axes[0][1], areas)):
                for _, row in select(table, signal=signal, moment=moment)[:1].iterrows():
                    interval(axis, row, place + offset, INK, marker, face)
    axes[0][0].set_yticks(range(len(ranked)), [short(s) for s in ranked])
    axes[0][0].set_ylim(len(ranked) - 0.4, -0.6)
    correlation = f"Spearman correlation with\n{label(kept)} (−1 to 1)"
    area = f"AUC for {short(kept)}\nbelow {threshold} (0.5: chance)"
    scales = (((-1.05, 1.05), 0.0, 4, correlation), ((-0.03, 1.03), 0.5, 5, area))
    for axis, (ends, at, steps, said) in zip(axes[0], scales, strict=True):
        few_ticks(axis, x=steps, y=None)
        axis.set_xlim(ends)
        axis.set_xlabel(said)
        axis.axvline(at, color=GREY, linewidth=0.6)
        axis.grid(axis="y", visible=False)
        axis.grid(axis="x")
    keys = [
        Line2D([], [], color=INK, marker=m, markerfacecolor=f, linewidth=0.9, label=t)
        for m, f, t in (("o", INK, "chosen epoch"), ("D", "white", "after the first epoch"))
    ]
    figure.legend(handles=keys, loc="outside upper left", ncols=2)
    n = select(chosen, signal=ranked[0])["n"].iloc[0]
    shown = f"{len(ranked)} of {len(signals)} signals" if len(ranked) < len(signals) else "all signals"
    note(figure, f"Bars: 95 % intervals over cells (n = {n} cells); {shown}.")
    return figure


def interval(
    axis: Axes, row: pd.Series, place: float, colour: str, marker: str, face: str | None = None
) -> None:
    """One row of a table of tests: its value, and its interval where it has one.

    Where the interval is of the effect size, that is the value.
    """
    if pd.notna(row["low"]) and pd.notna(row["high"]):
        axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=0.9, zorder=2)
    value = row["effect"] if str(row["effect_name"]).startswith("Cohen") else row["value"]
    style: dict[str, Any] = {"markerfacecolor": face or colour, "markeredgecolor": colour}
    axis.plot([value], [place], marker=marker, linestyle="none", markersize=4, zorder=3, **style)
