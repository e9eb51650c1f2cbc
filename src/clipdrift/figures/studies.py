"""Pictures of studies: a tidy table of runs in, a figure out. Of numbers they make means alone, for lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from clipdrift.figures.runs import COLOURS

MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
}


def matched_rates(runs: pd.DataFrame, panels: Sequence[tuple[str, str]], path: Path) -> Path:
    """One panel per column over the learning rate: a line through the means, a point for each seed.

    Args:
        runs: as :func:`clipdrift.frame.runs_frame` gives it, of one target.
        panels: a column and its title with its unit; columns that the table has not are left out.
        path: PNG to write.
    """
    shown = [(column, title) for column, title in panels if column in runs]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.1 * max(1, len(shown)), 3.2), layout="constrained")
        axes = figure.subplots(1, max(1, len(shown)), squeeze=False)[0]
        for axis, (column, title) in zip(axes, shown, strict=False):
            for index, (method, group) in enumerate(runs.groupby("method", sort=False)):
                colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
                means = group.groupby("learning_rate")[column].mean()
                axis.plot(means.index, means, color=colour, linewidth=1.6, linestyle=("-", "--")[index % 2])
                axis.scatter(
                    group["learning_rate"],
                    group[column],
                    s=22,
                    marker=marker,
                    facecolor="white",
                    edgecolor=colour,
                    linewidth=1.2,
                    zorder=3,
                    label=str(method),
                )
            axis.set_xscale("log")
            axis.set_xlabel("learning rate")
            axis.set_title(title, fontsize=9.5)
        axes[0].legend(frameon=False)
        count = runs["seed"].nunique()
        figure.suptitle(
            f"{runs['target'].iloc[0]}: methods at the same rate, {count} seed{'s' * (count != 1)} as points"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    return path
