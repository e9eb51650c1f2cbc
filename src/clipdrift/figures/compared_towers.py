"""Figure of a comparison in which both towers have changed: each image tower with each text tower."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clipdrift.comparison import Comparison
from clipdrift.figures.panels import (
    AFTER,
    COLOURS,
    heading,
    new_figure,
    percent_axis,
    percent_bars,
    plain,
    style,
)


def towers(comparison: Comparison) -> Figure:
    """Zero-shot accuracy of both image towers with both text towers, four bars a transfer set.

    Raises:
        ValueError: on no transfer set have both towers changed.
    """
    sets = {name: (row, row.crossed) for name, row in comparison.transfer.items() if row.crossed is not None}
    if not sets:
        raise ValueError("on no transfer set have both towers changed")
    rows = sets.values()
    bars: tuple[tuple[str, list[float], dict[str, Any]], ...] = (
        ("BASE", [row.before for row, _ in rows], {"color": COLOURS[0]}),
        ("TUNED's images, BASE's texts", [one.tuned_image for _, one in rows], {"color": COLOURS[1]}),
        (
            "BASE's images, TUNED's texts",
            [one.tuned_text for _, one in rows],
            {"color": COLOURS[2], "hatch": "..", "edgecolor": "black"},
        ),
        ("TUNED", [row.after for row, _ in rows], AFTER),
    )
    places = np.arange(len(sets))
    with style():
        figure = new_figure(8.4, 1.05 * len(sets) + 1.9)
        axis = figure.subplots()
        for index, (label, values, look) in enumerate(bars):
            spots = places + 0.2 * (index - 1.5)
            percent_bars(axis, spots, values, 0.18, label=label, **look)
        percent_axis(axis, places, [plain(name, 34) for name in sets], "zero-shot accuracy, %")
        figure.legend(loc="outside lower left", ncols=2, frameon=False)
        heading(figure, comparison, "Each image tower with each text tower", images=False)
    return figure
