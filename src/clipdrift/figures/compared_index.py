"""Figure of a comparison with an index: how much of what BASE finds every way of searching finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipdrift.comparison import Comparison
from clipdrift.comparison.index_facts import Estimate, Queries
from clipdrift.figures.panels import AFTER, COLOURS, heading, new_figure, style

_LOOKS: dict[str, tuple[str, dict[str, Any]]] = {
    "today": ("BASE on BASE's index (today)", {"color": COLOURS[0]}),
    "kept_index": ("TUNED on BASE's index", {"color": COLOURS[1]}),
    "ridge": ("TUNED through a linear map", {"color": COLOURS[2]}),
    "rotation": ("TUNED through a rotation", {"color": COLOURS[2], "hatch": "..", "edgecolor": "black"}),
    "new_index": ("TUNED on its own index", AFTER),
}


def index_memory(comparison: Comparison) -> Figure:
    """Bars of neighbours in common and, where something is right, of queries that find it, by k.

    A row for image queries and one for texts, where there are captions. Lines: 95 % intervals.

    Raises:
        ValueError: no index was searched.
    """
    found = comparison.index
    if found is None:
        raise ValueError("no index was searched")
    rows = [queries for queries in (found.by_image, found.by_text) if queries is not None]
    columns = 2 if any(queries.truth for queries in rows) else 1
    with style():
        figure = new_figure(4.4 * columns, 2.3 * len(rows) + 1.4)
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for line, queries in zip(axes, rows, strict=True):
            _bars(line[0], queries, "overlap", "also found by BASE today, %")
            if queries.truth is not None:
                what = "their class" if queries.truth == "classes" else "their own image"
                _bars(line[1], queries, "recall", f"queries that find {what}, %")
            elif columns == 2:
                line[1].set_axis_off()
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=3, frameon=False)
        heading(figure, comparison, "An index built with BASE, searched with TUNED", images=False)
    return figure


def _bars(axis: Axes, queries: Queries, measure: str, label: str) -> None:
    names = list(queries.searches)
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        values: Mapping[int, Estimate] = getattr(queries.searches[name], measure)
        spots = np.arange(len(values)) + width * (place - (len(names) - 1) / 2)
        heights = [100 * one.value for one in values.values()]
        title, look = _LOOKS[name]
        axis.bar(spots, heights, 0.92 * width, label=title, **look)
        for spot, one in zip(spots, values.values(), strict=True):
            if one.low is not None and one.high is not None:
                axis.plot([spot, spot], [100 * one.low, 100 * one.high], color="black", linewidth=1)
    steps = list(getattr(queries.searches["today"], measure))
    axis.set_xticks(range(len(steps)), [f"first {k}" for k in steps])
    axis.set_ylim(0, 105)
    axis.set_ylabel(label)
    axis.set_title(f"{queries.count:,} {'images' if queries.kind == 'images' else 'captions'} as queries")
