"""Shared parts of comparison figures: style, headings, ticks of blocks, heat maps with numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from clipdrift.comparison import Comparison

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

AFTER: dict[str, Any] = {"color": COLOURS[4], "hatch": "///", "edgecolor": "#7A5200"}
"""Look of TUNED's bars, told apart in grey too."""

CHANGE: Colormap = LinearSegmentedColormap.from_list(
    "clipdrift_change", ["#00324F", COLOURS[0], "#F7F7F7", COLOURS[1], "#6B2F00"]
)
"""Less than before in blue, more in orange, no change in near white."""

SCALE: Colormap = matplotlib.colormaps["viridis"]
ATTENTION: Colormap = matplotlib.colormaps["magma"]

NUMBERED = 12
"""Most blocks of which a heat map prints its values."""

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.linewidth": 0.8,
    "figure.facecolor": "white",
    "figure.titlesize": 10,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "clipdrift",  # the same comparison gives the same file
}


def style() -> AbstractContextManager[Any]:
    """The settings under which a figure is made and saved."""
    return matplotlib.rc_context(_STYLE)


def new_figure(width: float, height: float) -> Figure:
    """Make a figure of a size in inches whose parts never overlap."""
    return Figure(figsize=(width, height), layout="constrained")


def plain(text: str, longest: int = 60) -> str:
    """Text as it is, on one line and never read as a formula; cut in its middle where too long.

    Args:
        longest: most characters to keep.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(line) > longest:
        half = (longest - 1) // 2
        line = f"{line[: longest - 1 - half]}…{line[len(line) - half :]}"
    return line.replace("$", r"\$")


def heading(figure: Figure, comparison: Comparison, title: str, *explained: str, images: bool = True) -> None:
    """Write the title, and under it who is compared with whom, on how many images, how to read it."""
    room = int(10 * figure.get_figwidth())  # letters of a line
    names = [plain(side.name, room - 8) for side in (comparison.base, comparison.tuned)]
    count = f"{comparison.images.count} images of {plain(comparison.images.source, room - 20)}"
    parts = [f"{names[0]}  against  {names[1]}", *[count] * images]
    if len(parts[0]) > room:
        parts = [f"BASE {names[0]}", f"TUNED {names[1]}", *parts[1:]]
    elif images and len("; ".join(parts)) <= room:
        parts = ["; ".join(parts)]
    figure.suptitle("\n".join([title, *parts, *explained]), x=0.01, ha="left", linespacing=1.4)


def block_places(blocks: int) -> list[int]:
    """Blocks that get a tick: all, or the first and multiples where they are many."""
    if blocks <= NUMBERED:
        return list(range(1, blocks + 1))
    step = 4 if blocks <= 32 else 8
    return [1, *range(step, blocks + 1, step)]


def block_ticks(axis: Axes, blocks: int, reader: str = "", which: str = "x", label: str = "block") -> None:
    """Ticks, limits and label of an axis of blocks.

    Args:
        reader: ``pooling head`` names a single block so.
        which: ``x`` or ``y``.
    """
    alone = blocks == 1 and reader == "pooling head"
    places = block_places(blocks)
    names = ["pooling head"] if alone else [str(p) for p in places]
    axis.set(**{f"{which}ticks": places, f"{which}ticklabels": names})
    axis.set(**{f"{which}label": "" if alone else label})


def percent_bars(
    axis: Axes, spots: NDArray[Any], values: Sequence[float], height: float, **look: Any
) -> None:
    """Horizontal bars of percentages, each with its number beside it."""
    axis.barh(spots, values, height, **look)
    for spot, value in zip(spots, values, strict=True):
        axis.text(value + 0.8, spot, f"{value:.1f}", va="center", fontsize=8)


def percent_axis(axis: Axes, places: NDArray[Any], names: Sequence[str], label: str) -> None:
    """0 to 100 % across, with room for a number beside a full bar; a name at each place, the first on top."""
    axis.set_yticks(places, names)
    axis.tick_params(axis="y", length=0)
    axis.set_xlim(0, 108)
    axis.set_xticks(range(0, 101, 20))
    axis.set_xlabel(label)
    axis.invert_yaxis()


def heat_map(
    axis: Axes, values: NDArray[np.float64], low: float, high: float, colours: Colormap = SCALE
) -> AxesImage:
    """A matrix as coloured cells that count from 1; what is nan is hatched.

    Args:
        values: (rows, columns).
        low, high: values at the ends of the colours.
    """
    rows, columns = values.shape
    axis.patch.set(facecolor="white", hatch="////", edgecolor="#BBBBBB", linewidth=0)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(length=0)
    return axis.imshow(
        np.ma.masked_invalid(values),
        cmap=colours,
        vmin=low,
        vmax=high,
        aspect="auto",
        interpolation="nearest",
        extent=(0.5, columns + 0.5, rows + 0.5, 0.5),
    )


def print_cells(
    axis: Axes, shown: AxesImage, text: Callable[[float], str], size: float = 7, *, bold: bool = False
) -> None:
    """Write into every cell of a heat map what ``text`` makes of its value, black or white by its colour."""
    values: NDArray[np.float64] = np.ma.filled(np.ma.asarray(shown.get_array()), np.nan)
    for row, column in np.ndindex(values.shape):
        value = float(values[row, column])
        if np.isfinite(value):
            colour = "white" if luminance(shown, value) < 0.5 else "black"
            axis.text(
                column + 1,
                row + 1,
                text(value),
                ha="center",
                va="center",
                color=colour,
                fontsize=size,
                fontweight="bold" if bold else "normal",
            )


def luminance(shown: AxesImage, value: float) -> float:
    """Luminance of the colour of a value, from 0 to 1 (Rec. 709 weights, gamma of 2.2 undone and redone)."""
    rgb = np.asarray(shown.to_rgba(np.array([value])))[0, :3] ** 2.2
    return float(rgb @ (0.2126, 0.7152, 0.0722)) ** (1 / 2.2)


def colour_bar(figure: Figure, shown: AxesImage, axes: Axes | Sequence[Axes], label: str, **how: Any) -> None:
    """A colour bar without frame."""
    bar = figure.colorbar(shown, ax=axes, label=label, **{"pad": 0.015, "aspect": 30, **how})
    bar.outline.set_visible(False)
    bar.ax.tick_params(width=0.8, length=3)
