"""Figures along depth: drift by block, and by block and rate."""

from __future__ import annotations

import pandas as pd
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from clipdrift.figures.look import Canvas, label, note, rate_key, rate_text
from clipdrift.figures.panels import CHANGE, SCALE, block_places, colour_bar, heat_map
from clipdrift.figures.seeds import band_text, by_rate, lost_text, zero
from clipdrift.figures.source import NotDrawnError, Source, in_order, joined, places, plain, rates


def _of(tables: Source, measure: str, column: str) -> pd.DataFrame:
    blocks = tables.blocks
    return joined(tables, blocks[blocks["measure"] == measure], column, of=f"{measure} by block")


def block_drift(tables: Source, canvas: Canvas) -> Figure:
    """Entropy drift and CKA of every block at the chosen epoch, a line for each rate."""
    parts = [("drift", "entropy", _of(tables, "entropy", "drift"))]
    if "cka" in set(tables.blocks["measure"]):
        parts.append(("value", "cka", _of(tables, "cka", "value")))
    points = parts[0][2]
    names, methods, found = in_order(points["place"]), in_order(points["method"]), rates(points)
    figure, axes = canvas.grid(len(names) * len(parts), len(methods), height=1.5, sharex="all", sharey="row")
    rows = iter(axes)
    for name in names:
        for column, measure, table in parts:
            row = next(rows)
            for axis, method in zip(row, methods, strict=True):
                part = table[(table["place"] == name) & (table["method"] == method)]
                by_rate(axis, part, "block", column, method, found)
                zero(axis, 1.0 if measure == "cka" else 0.0)
                axis.set_title(f"{name}, {method}")
            row[0].set_ylabel(label("cka") if measure == "cka" else label("entropy_drift"))
    for axis in axes[-1]:
        axis.set_xlabel("block")
        axis.set_xticks(block_places(int(points["block"].max())))
    rate_key(figure, found)
    note(figure, band_text(points), lost_text(tables.ends, plain(tables)))
    return figure


def rate_blocks(tables: Source, canvas: Canvas) -> Figure:
    """Rates (down) by blocks (across): entropy drift, Gini drift and CKA, mean over seeds."""
    kinds: list[tuple[str, str, Colormap]] = [
        ("entropy", "drift", CHANGE), ("gini", "drift", CHANGE), ("cka", "value", SCALE),
    ]  # fmt: skip
    known = set(tables.blocks["measure"])
    shown = [(m, c, colours, _of(tables, m, c)) for m, c, colours in kinds if m in known]
    if not shown:
        raise NotDrawnError("no record of entropy, gini or cka by block in these tables")
    points = shown[0][3]
    rows = [(place, method) for place, part in places(points) for method in in_order(part["method"])]
    figure, axes = canvas.grid(len(rows), len(shown), height=1.05, extra=0.6, sharey="all", sharex="all")
    found = rates(points)
    for index, (measure, column, colours, table) in enumerate(shown):
        means = table.groupby(["place", "method", "learning_rate", "block"])[column].mean()
        most = float(means.abs().max())
        low, high = (-most, most) if colours is CHANGE else (float(means.min()), 1.0)
        for axis, (place, method) in zip(axes[:, index], rows, strict=True):
            matrix = means[place, method].unstack("block").reindex(found)
            image = heat_map(axis, matrix.to_numpy(dtype=float), low, high, colours)
            axis.set_yticks(range(1, len(found) + 1), [rate_text(r) for r in found])
            axis.set_xticks(block_places(matrix.shape[1])[:: 2 if matrix.shape[1] > 6 else 1])
            axis.set_title(f"{place}, {method}")
            axis.grid(False)
        axes[-1, index].set_xlabel("block")
        said = label("cka") if measure == "cka" else label(f"{measure}_drift")
        colour_bar(figure, image, list(axes[:, index]), said, location="bottom", aspect=25, pad=0.02)
    for axis in axes[:, 0]:
        axis.set_ylabel("learning rate")
    sizes = band_text(points).partition("(")[2].rpartition(" per")[0]
    note(figure, f"Mean over seeds ({sizes} per row of a map).", lost_text(tables.ends, plain(tables)))
    return figure
