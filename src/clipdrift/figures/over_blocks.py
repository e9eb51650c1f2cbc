"""Figures along depth: the backbone's blocks, drift by block, and by block and rate."""

from __future__ import annotations

import pandas as pd
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from clipdrift.figures.by_method import by_method
from clipdrift.figures.look import DOTS, GREY, INK, Canvas, dots, few_ticks, note
from clipdrift.figures.panels import CHANGE, SCALE, block_places, colour_bar, heat_map
from clipdrift.figures.seeds import lost_text
from clipdrift.figures.source import NotDrawnError, StudySource, in_order, joined, needed, places, rates
from clipdrift.figures.words import label, numbers
from clipdrift.texts import rate as rate_text

KINDS: dict[str, Colormap] = {"entropy_drift": CHANGE, "gini_drift": CHANGE, "cka": SCALE}


def by_block(tables: StudySource) -> pd.DataFrame:
    """Plain runs' blocks with ``entropy_drift``, ``gini_drift`` and ``cka``, as far as there are any."""
    blocks = tables.blocks
    parts = []
    for name in KINDS:
        measure, column = name.removesuffix("_drift"), "value" if name == "cka" else "drift"
        part = blocks.loc[blocks["measure"] == measure].set_index(["run", "block"])[column].rename(name)
        if part.notna().any():
            parts.append(part)
    if not parts:
        raise NotDrawnError("no record of entropy, gini or cka by block in these tables")
    return joined(tables, pd.concat(parts, axis=1).reset_index())


def block_drift(tables: StudySource, canvas: Canvas) -> Figure:
    """Entropy drift and CKA of every block at the chosen epoch, a line for each rate."""
    points = by_block(tables)
    figure = by_method(tables, canvas, points, "block", ("entropy_drift", "cka"), "block")
    several = points["method"].nunique() > 3
    figure.axes[0].set_xticks(block_places(int(points["block"].max()))[:: 2 if several else 1])
    return figure


def rate_blocks(tables: StudySource, canvas: Canvas) -> Figure:
    """Rates (down) by blocks (across): entropy drift, Gini drift and CKA, mean over seeds."""
    points = by_block(tables)
    shown = {name: colours for name, colours in KINDS.items() if name in points}
    rows = [(place, method) for place, part in places(points) for method in in_order(part["method"])]
    figure, axes = canvas.grid(len(rows), len(shown), height=1.05, extra=0.6, sharey="all", sharex="all")
    found = rates(points)
    for index, (name, colours) in enumerate(shown.items()):
        means = points.groupby(["place", "method", "learning_rate", "block"])[name].mean()
        most = float(means.abs().max())
        low, high = (-most, most) if colours is CHANGE else (float(means.min()), 1.0)
        for axis, key in zip(axes[:, index], rows, strict=True):
            matrix = means[key].unstack("block").reindex(found)
            image = heat_map(axis, matrix.to_numpy(dtype=float), low, high, colours)
            if colours is CHANGE:
                dots(axis, matrix.to_numpy(dtype=float), most)
            axis.set_yticks(range(1, len(found) + 1), [rate_text(r) for r in found])
            axis.set_xticks(block_places(matrix.shape[1])[:: 2 if matrix.shape[1] > 6 else 1])
            axis.set_title(", ".join(key))
            axis.grid(False)
        axes[-1, index].set_xlabel("block")
        colour_bar(figure, image, list(axes[:, index]), label(name), location="bottom", aspect=25, pad=0.02)
    for axis in axes[:, 0]:
        axis.set_ylabel("learning rate")
    runs = tables.runs
    note(
        figure, f"{seed_means(points)} {DOTS}",
        lost_text(tables.ends, runs[runs["plain"]]),
    )  # fmt: skip
    return figure


def seed_means(points: pd.DataFrame) -> str:
    """Say of how many seeds the cells of a heat map are means."""
    sizes = points.groupby(["place", "method", "learning_rate"])["run"].nunique()
    return f"Colours: {'mean over seeds' if sizes.max() > 1 else 'one seed'} ({numbers(sizes)})."


def baseline(tables: StudySource, canvas: Canvas) -> Figure:
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
            colour, marker = (INK, GREY, "#A0A0A0", "#444444")[i % 4], "os^Dv"[i % 5]
            axis.plot(
                part["block"], part["value"], color=colour, linestyle=lines[i % 4], marker=marker,
                markersize=3, label=place,
            )  # fmt: skip
        axis.set_ylabel(label(name, blocks=True))
        axis.set_xlabel("block")
        axis.set_xticks(block_places(int(points["block"].max()))[:: 2 if len(names) > 2 else 1])
        few_ticks(axis)
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside upper left", ncols=min(5, len(texts)))
    note(figure, "The backbone before any fine-tuning: mean over heads and over each target's probe images.")
    return figure
