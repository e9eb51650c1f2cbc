"""Figure of a comparison in which the text tower has changed: attention, CKA and weights by block."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clipdrift.comparison import AT_ONE, Comparison
from clipdrift.figures.panels import COLOURS, block_ticks, heading, new_figure, plain, style

_COLUMNS = 4
_BEFORE: dict[str, Any] = {"color": COLOURS[5], "linewidth": 3.5, "markersize": 7, "label": "before"}
_AFTER: dict[str, Any] = {"color": COLOURS[1], "linewidth": 1.2, "markersize": 3.5, "label": "after"}
"""Lines that can be told apart where they lie on each other."""


def text_tower(comparison: Comparison) -> Figure:
    """Every measure of the text tower that has a value per block, one panel each.

    Measures of attention show both sides, CKA hangs from 1, where nothing changed, weights stand on 0.
    Dashed: the mean over blocks, or the whole tower.

    Raises:
        ValueError: the text tower was not measured by block.
    """
    shown = [
        (name, found)
        for name, found in comparison.measures.items()
        if found.family == "text" and (found.before_blocks or found.value_blocks)
    ]
    if not shown:
        raise ValueError("the text tower was not measured by block")
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    with style():
        figure = new_figure(max(5.8, 2.9 * columns), 1.85 * rows + 1.2)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (name, found) in zip(axes, shown, strict=False):
            blocks = np.arange(1, 1 + len(found.before_blocks or found.value_blocks))
            if found.before_blocks:
                axis.plot(blocks, found.before_blocks, "o-", **_BEFORE)
                axis.plot(blocks, found.after_blocks, "s-", **_AFTER)
                axis.set_ylabel(plain(found.unit) or "0 to 1")
            elif name in AT_ONE:
                axis.vlines(blocks, 1, found.value_blocks, color=COLOURS[2], linewidth=1.2)
                axis.plot(blocks, found.value_blocks, "o", color=COLOURS[2], markersize=3.5)
                axis.axhline(1, color="black", linewidth=0.8)
                axis.set_ylim(min(0.95, min(found.value_blocks) - 0.05), 1.02)
                axis.set_ylabel("CKA")
            else:
                axis.bar(blocks, found.value_blocks, 0.8, color=COLOURS[3])
                axis.set_ylabel("relative change")
            if found.value is not None:
                axis.axhline(found.value, color="black", linewidth=1, linestyle=(0, (4, 3)))
            axis.set_xlim(0.4, len(blocks) + 0.6)
            block_ticks(axis, len(blocks))
            axis.set_title(plain(name.removeprefix("text_").replace("_", " ")), loc="left")
        for axis in axes[len(shown) :]:
            axis.axis("off")
        if any(found.before_blocks for _, found in shown):
            figure.legend(
                *axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False
            )
        towers = comparison.text_tower
        on = f"On {towers.count} {plain(towers.source)}. " if towers and towers.count else ""
        heading(
            figure,
            comparison,
            "The text tower by block",
            f"{on}Dashed: all blocks together. Every panel has its own scale.",
            images=False,
        )
    return figure
