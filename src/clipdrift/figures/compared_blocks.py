"""Bars of a comparison: every measure by block, zero-shot ability by transfer set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipdrift.comparison import AT_ONE, FAMILIES, Compared, Comparison
from clipdrift.figures.panels import (
    AFTER,
    COLOURS,
    block_ticks,
    heading,
    new_figure,
    percent_axis,
    percent_bars,
    plain,
    style,
)

_FAMILY_COLOURS = dict(zip(FAMILIES, COLOURS, strict=False))
_COLUMNS = 4


def block_drift(comparison: Comparison) -> Figure:
    """Every measure of the image tower that has a value per block, one panel each, from block 1 to the last.

    Measures of both sides show their drift: in percent, or in their own unit where it is absolute. Measures
    that are a comparison already show their values: CKA as distance from 1, where nothing changed, weights
    from 0. Dashed: the one value that stands for all blocks. Measures with one value alone, such as those of
    a pooling head, share the last panel.
    """
    measures = [
        (name, found)
        for family in FAMILIES
        for name, found in comparison.measures.items()
        if found.family == family and family != "text"
    ]
    shown = [(name, found) for name, found in measures if found.drift_blocks or found.value_blocks]
    single = {
        name: found.drift
        for name, found in measures
        if found.drift is not None and not (found.drift_blocks or found.absolute or found.family == "ability")
    }
    panels = len(shown) + bool(single)
    columns = min(_COLUMNS, max(2, panels))
    rows = max(1, math.ceil(panels / columns))
    with style():
        figure = new_figure(2.9 * columns, 1.85 * rows + 0.85)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (name, found) in zip(axes, shown, strict=False):
            _panel(axis, name, found, comparison.shape.reader)
        if single:
            _single(axes[len(shown)], single, comparison.shape.reader)
        for axis in axes[panels:]:
            axis.axis("off")
        heading(
            figure,
            comparison,
            "Change inside the image tower by block",
            "Dashed: all blocks together. Every panel has its own scale.",
        )
    return figure


def _single(axis: Axes, drifts: Mapping[str, float], reader: str) -> None:
    """Measures with one value for the whole tower, one bar each."""
    places = np.arange(len(drifts))
    axis.barh(places, list(drifts.values()), 0.7, color="#666666")
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(places, [plain(name.replace("_", " "), 24) for name in drifts])
    axis.tick_params(axis="y", length=0, labelsize=7 if len(drifts) > 5 else 8)
    axis.invert_yaxis()
    if not any(drifts.values()):
        axis.set_xlim(-1, 1)
    axis.set_xlabel("change, %")
    whose = "pooling head, " if reader == "pooling head" else ""
    axis.set_title(f"{whose}one value each", loc="left")


def _panel(axis: Axes, name: str, found: Compared, reader: str) -> None:
    values = found.drift_blocks or found.value_blocks
    whole = found.drift if found.drift_blocks else found.value
    blocks = np.arange(1, len(values) + 1)
    colour = _FAMILY_COLOURS[found.family]
    rest = 1.0 if name in AT_ONE else 0.0
    if rest:
        # bars of CKA from 0 would hide a fall from 1 to 0.97, so points hang from 1
        axis.vlines(blocks, rest, values, color=colour, linewidth=1.2)
        axis.plot(blocks, values, "o", color=colour, markersize=3.5, label=name)
        axis.set_ylim(min(0.95, min(values) - 0.05), 1.02)
    else:
        axis.bar(blocks, values, 0.8, color=colour, label=name)
    axis.axhline(rest, color="black", linewidth=0.8)
    if whole is not None and len(values) > 1:
        axis.axhline(whole, color="black", linewidth=1, linestyle=(0, (4, 3)))
    room = 1.0 if len(values) == 1 else 0.6
    axis.set_xlim(1 - room, len(values) + room)
    block_ticks(axis, len(values), reader)
    axis.set_title(plain(name.replace("_", " ")), loc="left")
    axis.set_ylabel(_unit(name, found))
    low, high = axis.get_ylim()
    if low == high or not any(v != rest for v in (*values, whole or rest)):
        axis.set_ylim(rest - 1, rest + (0.1 if rest else 1))  # nothing moved: a flat line, not noise


def _unit(name: str, found: Compared) -> str:
    if not found.drift_blocks:
        return "CKA" if name in AT_ONE else plain(found.unit) or "relative change"
    return f"change, {plain(found.unit) or 'absolute'}" if found.absolute else "change, %"


def transfer(comparison: Comparison) -> Figure:
    """Zero-shot accuracy on every transfer set before and after, the level of chance marked.

    Raises:
        ValueError: no transfer set was measured.
    """
    if not comparison.transfer:
        raise ValueError("no transfer set was measured")
    sets = comparison.transfer
    places = np.arange(len(sets))
    sides: tuple[tuple[str, float, dict[str, Any]], ...] = (
        ("before", -0.2, {"color": COLOURS[0]}),
        ("after", 0.2, AFTER),
    )
    with style():
        figure = new_figure(8.4, 0.62 * len(sets) + 1.9)
        axis = figure.subplots()
        for side, shift, look in sides:
            values = [getattr(row, side) for row in sets.values()]
            percent_bars(axis, places + shift, values, 0.38, label=side, **look)
        chance = [row.chance for row in sets.values()]
        axis.vlines(chance, places - 0.46, places + 0.46, color="white", linewidth=3.4)
        axis.vlines(chance, places - 0.46, places + 0.46, color="black", linewidth=1.6, label="chance")
        names = [f"{plain(n, 34)}\n{r.images} images, {r.classes} classes" for n, r in sets.items()]
        percent_axis(axis, places, names, "zero-shot accuracy, %")
        figure.legend(loc="outside lower left", ncols=3, frameon=False)
        heading(figure, comparison, "Zero-shot ability on transfer sets", images=False)
    return figure
