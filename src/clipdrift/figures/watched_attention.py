"""Attention over a few images of a watched training: the backbone's, a measurement's, the difference."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from clipdrift.figures.look import Canvas, note, style
from clipdrift.figures.panels import ATTENTION, CHANGE, colour_bar, plain
from clipdrift.monitoring.pictures import BeforeAndNow

_UNDER = 0.8
"""How much of the picture's contrast is left under the heat."""
_OVER = 0.62
"""How much of the heat covers it."""


def before_and_now(found: BeforeAndNow, canvas: Canvas | None = None) -> Figure:
    """Images by row: itself, the backbone's attention over it, the measurement's, the difference.

    All images share one scale, so that they compare.
    """
    before = found.before
    count = len(before.images)
    sides = [100 * shares.reshape(count, *before.grid) for shares in (before.shares, found.now)]
    change = sides[1] - sides[0]
    most, widest = float(max(s.max() for s in sides)), float(np.abs(change).max()) or 1.0
    with style():
        figure = (canvas or Canvas()).figure(7.0, 1.55 * count + 0.45)
        axes = figure.subplots(count, 4, squeeze=False)
        for row, image in enumerate(before.images):
            axes[row, 0].imshow(image, interpolation="nearest")
            axes[row, 0].set_ylabel(plain(before.titles[row], 24), fontsize=7)
            for axis, side in zip(axes[row, 1:3], sides, strict=True):
                heat = _over(axis, image, side[row], {"cmap": ATTENTION, "vmin": 0, "vmax": most})
            moved = _over(axes[row, 3], image, change[row], {"cmap": CHANGE, "vmin": -widest, "vmax": widest})
        for axis, name in zip(
            axes[0], ("image", "backbone", f"now, step {found.step:,}", "difference"), strict=True
        ):
            axis.set_title(name, loc="center")
        for axis in axes.ravel():
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            axis.spines[:].set_visible(False)
        colour_bar(
            figure,
            heat,
            list(axes[:, :3].ravel()),
            "% of attention over patches",
            location="bottom",
            shrink=0.5,
        )
        colour_bar(figure, moved, list(axes[:, 3]), "difference, points", location="bottom", aspect=12)
        for bar in figure.axes[-2:]:
            bar.set_facecolor("0.5")  # under the bar's colours as under those of the maps
        note(figure, _said(found))
    return figure


def _over(axis: Axes, image: NDArray[np.uint8], heat: NDArray[np.float32], look: dict[str, Any]) -> AxesImage:
    """A faint grey picture and a map of its patches over it."""
    height, width = image.shape[:2]
    grey = image.astype(np.float32).mean(-1) / 255
    axis.imshow(0.5 + _UNDER * (grey - 0.5), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    return axis.imshow(
        heat, alpha=_OVER, interpolation="nearest", extent=(-0.5, width - 0.5, height - 0.5, -0.5), **look
    )


def _said(found: BeforeAndNow) -> str:
    before = found.before
    rows, columns = before.grid
    where = "" if before.reader == "pooling head" else f"block {before.block}, "
    return (
        f"{before.reader.capitalize()} over {rows} x {columns} patches, {where}mean over heads. All images "
        "have one scale, so that they compare."
    )
