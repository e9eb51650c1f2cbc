"""Figures along training: lines by epoch, trajectories, onset, heat maps of blocks and epochs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clipdrift.figures.look import (
    GREY,
    INK,
    Canvas,
    label,
    levels,
    line_width,
    look,
    note,
    rate_key,
    rate_text,
    shade,
)
from clipdrift.figures.over_rates import of_runs
from clipdrift.figures.panels import CHANGE, block_places, colour_bar, heat_map
from clipdrift.figures.seeds import along, band_text, by_rate, lost_text, zero
from clipdrift.figures.source import (
    NotDrawnError,
    Source,
    in_order,
    joined,
    needed,
    places,
    plain,
    rates,
)

FALL = -1.0
"""Percent; where analysis says that entropy has begun to fall."""


def epochs(points: pd.DataFrame) -> pd.DataFrame:
    """The points with ``time``: epochs done, as a number between two epochs where looks lie within one."""
    ends = points.groupby("run")[["step", "epoch"]].transform("max")
    return points.assign(time=(points["step"] * ends["epoch"] / ends["step"]).round(6))


def over_time(tables: Source, canvas: Canvas, columns: Sequence[str]) -> Figure:
    """A row for each target and column, a panel for each method, a line for each rate."""
    points = epochs(joined(tables, tables.history))
    known = [c for c in columns if c in points and points[c].notna().any()]
    if not known:
        raise NotDrawnError(f"no record of {' or '.join(columns)} during training")
    names, methods, found = in_order(points["place"]), in_order(points["method"]), rates(points)
    figure, axes = canvas.grid(
        len(names) * len(known), len(methods), height=1.45, extra=0.6, sharex="all", sharey="row"
    )
    rows = iter(axes)
    for place, part in places(points):
        for column in known:
            row = next(rows)
            for axis, method in zip(row, methods, strict=True):
                by_rate(
                    axis,
                    part[part["method"] == method].dropna(subset=[column]),
                    "time",
                    column,
                    method,
                    found,
                )
                if column.endswith("_drift"):
                    zero(axis)
                axis.set_title(f"{place}, {method}")
            row[0].set_ylabel(label(column))
    _epoch_axis(axes)
    rate_key(figure, found)
    note(figure, band_text(points), lost_text(tables.ends, plain(tables)))
    return figure


def _epoch_axis(axes: np.ndarray) -> None:
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
        axis.set_xlim(left=0)
        axis.xaxis.get_major_locator().set_params(integer=True)


def training(tables: Source, canvas: Canvas) -> Figure:
    """Validation accuracy and entropy drift by epoch."""
    return over_time(tables, canvas, ("validation_accuracy", "entropy_drift"))


def head_diversity(tables: Source, canvas: Canvas) -> Figure:
    """Drift of head diversity by epoch."""
    return over_time(tables, canvas, ("head_diversity_drift",))


def gini_erf(tables: Source, canvas: Canvas) -> Figure:
    """Drift of Gini and of the effective receptive field by epoch."""
    return over_time(tables, canvas, ("gini_drift", "erf95_drift"))


def trajectories(tables: Source, canvas: Canvas) -> Figure:
    """Methods against each other: entropy drift by epoch, a panel for each rate."""
    points = epochs(joined(tables, tables.history, "entropy_drift"))
    names, found = in_order(points["place"]), rates(points)
    figure, axes = canvas.grid(len(names), len(found), height=1.55, sharex="all", sharey="row")
    for row, (place, part) in zip(axes, places(points), strict=True):
        for axis, rate in zip(row, found, strict=True):
            for method, those in part[part["learning_rate"] == rate].groupby("method", sort=False):
                how = look(str(method))
                for _, one in those.groupby("run"):
                    axis.plot(one["time"], one["entropy_drift"], color=how.colour, linewidth=0.4, alpha=0.55)
                along(axis, those, "time", "entropy_drift", how.colour, line=how.line)
            zero(axis)
            axis.set_title(f"{place}, {rate_text(rate)}")
        row[0].set_ylabel(label("entropy_drift"))
    _epoch_axis(axes)
    handles = in_order(points["method"])
    _lines_key(figure, handles)
    note(figure, "Thin lines: runs.", band_text(points), lost_text(tables.ends, plain(tables)))
    return figure


def _lines_key(figure: Figure, methods: Sequence[str]) -> None:
    keys = [Line2D([], [], color=look(m).colour, linestyle=look(m).line, label=m) for m in methods]
    figure.legend(handles=keys, loc="outside upper left", ncols=min(6, len(keys)))


def onset(tables: Source, canvas: Canvas) -> Figure:
    """Entropy drift by step, a line for each run, a mark where analysis finds the onset of its fall."""
    points = joined(tables, tables.history, "entropy_drift")
    rows = tables.rows("onset")
    rows = rows[rows["statistic"].str.startswith("step at which")].dropna(subset=["value"])
    marks = of_runs(plain(tables), rows)
    names, methods, found = in_order(points["place"]), in_order(points["method"]), rates(points)
    figure, axes = canvas.grid(len(names), len(methods), height=1.8, sharey="row", sharex="row")
    for row, (place, part) in zip(axes, places(points), strict=True):
        for axis, method in zip(row, methods, strict=True):
            for rate, level in zip(found, levels(len(found)), strict=True):
                _courses(axis, part, marks, method, rate, level)
            zero(axis)
            axis.axhline(FALL, color=INK, linewidth=0.6, linestyle=(0, (4, 2)))
            axis.set_title(f"{place}, {method}")
            axis.set_xlabel("step")
        row[0].set_ylabel(label("entropy_drift"))
    mark = Line2D([], [], linestyle="none", marker="v", color=GREY, markeredgecolor=INK, label="onset")
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
    those = points[(points["method"] == method) & (points["learning_rate"] == rate)]
    for run, one in those.groupby("run", sort=False):
        axis.plot(one["step"], one["entropy_drift"], color=colour, linewidth=0.5 * line_width(level) + 0.2)
        at = marks[marks["run"] == run]
        if len(at):
            drift = one.set_index("step")["entropy_drift"].get(float(at["value"].iloc[0]), FALL)
            mark = {"marker": "v", "markersize": 4, "markeredgecolor": INK, "markeredgewidth": 0.5}
            axis.plot(at["value"], [drift], color=colour, zorder=5, **mark)


def entropy_heat(tables: Source, canvas: Canvas) -> Figure:
    """Entropy drift of every block (down) by epoch (across): mean over seeds, one colour scale."""
    points = joined(tables, tables.history_blocks("entropy"), "drift")
    points = epochs(points)
    rows = [(place, method) for place, part in places(points) for method in in_order(part["method"])]
    found = rates(points)
    most = float(
        points.groupby(["place", "method", "learning_rate", "time", "block"])["drift"].mean().abs().max()
    )
    figure, axes = canvas.grid(len(rows), len(found), height=1.2, extra=0.45, sharey="all")
    for row, (place, method) in zip(axes, rows, strict=True):
        for axis, rate in zip(row, found, strict=True):
            part = points[(points["place"] == place) & (points["method"] == method)]
            part = part[part["learning_rate"] == rate]
            axis.set_title(f"{place}, {method}, {rate_text(rate)}", fontsize=6.8)
            if part.empty:
                axis.axis("off")
                continue
            matrix = part.pivot_table(index="block", columns="time", values="drift")
            shown = heat_map(axis, matrix.to_numpy(dtype=float), -most, most, CHANGE)
            time_ticks(axis, [float(t) for t in matrix.columns])
            axis.set_yticks(block_places(len(matrix))[:: 2 if len(matrix) > 6 else 1])
            axis.grid(False)
        row[0].set_ylabel("block")
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    colour_bar(figure, shown, list(axes.ravel()), label("entropy_drift"), aspect=40)
    sizes = band_text(points).partition("(")[2].rpartition(" per")[0]
    note(figure, f"Mean over seeds ({sizes} per panel).", lost_text(tables.ends, plain(tables)))
    return figure


def time_ticks(axis: Axes, times: list[float]) -> None:
    """Ticks at whole epochs on an axis whose columns count from 1."""
    whole = [(i, t) for i, t in enumerate(times, start=1) if abs(t - round(t)) < 1e-6]
    step = max(1, -(-len(whole) // 4))
    shown = whole[step - 1 :: step] or whole
    axis.set_xticks([i for i, _ in shown], [f"{t:g}" for _, t in shown])


def baseline(tables: Source, canvas: Canvas) -> Figure:
    """The backbone itself: four measures of attention by block, a line for each target's probe images."""
    found = tables.backbone_blocks
    names = [m for m in ("entropy", "erf95", "gini", "head_diversity") if m in set(found["measure"])]
    if found.empty or not names:
        raise NotDrawnError("no record of the backbone's blocks in these tables")
    first = tables.runs.drop_duplicates("place")[["run", "place"]]
    points = needed(found.merge(first, on="run"), ["value"])
    figure, axes = canvas.grid(1, len(names), height=1.9)
    lines = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
    for axis, name in zip(axes[0], names, strict=True):
        for i, (place, part) in enumerate(places(points[points["measure"] == name])):
            how = {"color": (INK, GREY, "#A0A0A0", "#444444")[i % 4], "linestyle": lines[i % 4]}
            axis.plot(part["block"], part["value"], marker="os^Dv"[i % 5], markersize=3, label=place, **how)
        axis.set_ylabel(label(name, blocks=True))
        axis.set_xlabel("block")
        axis.set_xticks(block_places(int(points["block"].max()))[:: 2 if len(names) > 2 else 1])
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside upper left", ncols=min(5, len(texts)))
    note(
        figure,
        "The backbone before any fine-tuning, mean over heads and over the probe images of each target.",
    )
    return figure
