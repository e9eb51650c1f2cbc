"""Figure of a model card: zero-shot accuracy before and after, CKA by block."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from clipdrift.comparison import Comparison
from clipdrift.figures.panels import (
    AFTER,
    COLOURS,
    block_ticks,
    new_figure,
    percent_axis,
    percent_bars,
    plain,
    style,
)


def card(comparison: Comparison) -> Figure:
    """A small figure, to be read at the width of a card."""
    rows = list(comparison.transfer.items())
    cka = comparison.measures["cka"]
    blocks = cka.value_blocks or (cka.value or 0.0,)
    with style():
        figure = new_figure(7.0, 2.2 + 0.35 * max(0, len(rows) - 1))
        figure.set_layout_engine("constrained", wspace=0.12)
        axes = figure.subplots(1, 2 if rows else 1, squeeze=False)[0]
        if rows:
            left = axes[0]
            places = np.arange(len(rows))
            for shift, look, name, values in (
                (-0.2, {"color": COLOURS[0]}, "base", [row.before for _, row in rows]),
                (0.2, AFTER, "tuned", [row.after for _, row in rows]),
            ):
                percent_bars(left, places + shift, values, 0.36, label=name, **look)
            percent_axis(left, places, [plain(name, 18) for name, _ in rows], "zero-shot accuracy, %")
            left.set_xlim(0, 118)
            left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=2, frameon=False, fontsize=8)
        right = axes[-1]
        right.bar(range(1, len(blocks) + 1), blocks, 0.7, color=COLOURS[2])
        right.axhline(1, color="black", linewidth=0.8, linestyle=":")
        right.set_ylim(min(0, *blocks), 1.05)
        right.set_title("CKA by block (1: unchanged)")
        block_ticks(right, len(blocks), comparison.shape.reader)
    return figure
