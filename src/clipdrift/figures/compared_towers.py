"""Figure of a comparison in which both towers have changed: each image tower with each text tower."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clipdrift.comparison import Comparison
from clipdrift.figures.panels import COLOURS, heading, new_figure, plain, style


def towers(comparison: Comparison) -> Figure:
    """Zero-shot accuracy of both image towers with both text towers, four bars a transfer set.

    Raises:
        ValueError: on no transfer set have both towers changed.
    """
    sets = {name: row for name, row in comparison.transfer.items() if row.crossed is not None}
    if not sets:
        raise ValueError("on no transfer set have both towers changed")
    bars: list[tuple[str, list[float], dict[str, Any]]] = [
        ("BASE", [row.before for row in sets.values()], {"color": COLOURS[0]}),
        ("TUNED's images, BASE's texts", [], {"color": COLOURS[1]}),
        ("BASE's images, TUNED's texts", [], {"color": COLOURS[2], "hatch": "..", "edgecolor": "black"}),
        ("TUNED", [row.after for row in sets.values()], {"color": COLOURS[4], "hatch": "///"}),
    ]
    for row in sets.values():
        assert row.crossed is not None
        bars[1][1].append(row.crossed.tuned_image)
        bars[2][1].append(row.crossed.tuned_text)
    bars[3][2]["edgecolor"] = "#7A5200"
    places = np.arange(len(sets))
    with style():
        figure = new_figure(8.4, 1.05 * len(sets) + 1.9)
        axis = figure.subplots()
        for index, (label, values, look) in enumerate(bars):
            spots = places + 0.2 * (index - 1.5)
            axis.barh(spots, values, 0.18, label=label, **look)
            for spot, value in zip(spots, values, strict=True):
                axis.text(value + 0.8, spot, f"{value:.1f}", va="center", fontsize=8)
        axis.set_yticks(places, [plain(name, 34) for name in sets])
        axis.tick_params(axis="y", length=0)
        axis.set_xlim(0, 108)
        axis.set_xticks(range(0, 101, 20))
        axis.set_xlabel("zero-shot accuracy, %")
        axis.invert_yaxis()
        figure.legend(loc="outside lower left", ncols=2, frameon=False)
        heading(figure, comparison, "Each image tower with each text tower", images=False)
    return figure
