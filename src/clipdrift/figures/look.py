"""Style of study figures: one colour, marker and line for each method everywhere."""

from __future__ import annotations

import itertools
import textwrap
import zlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from clipdrift.texts import rate as rate_text

PAGE = 7.0
"""Inches: the width of a paper's two columns."""
SLIDE = (7.62, 4.29)
"""Inches of a slide at paper's size of letters: filling a screen, it is magnified by 1.75."""


@dataclass(frozen=True)
class Look:
    """Look of one method: told by colour, by marker and by line, so also in grey."""

    colour: str
    marker: str
    line: Any


LOOKS: dict[str, Look] = {
    "full_ft": Look("#0072B2", "o", "-"),
    "lora": Look("#D55E00", "s", (0, (5, 1.5))),
    "linear_probe": Look("#6E6E6E", "X", (0, (1, 1.5))),
    "last_blocks": Look("#009E73", "^", (0, (6, 1.5, 1, 1.5))),
    "rslora": Look("#E69F00", "D", (0, (3, 1.5))),
    "dora": Look("#CC79A7", "v", (0, (4, 1, 1, 1, 1, 1))),
    "lora_plus": Look("#882255", "P", (0, (7, 2))),
    "bias_only": Look("#56B4E9", "<", (0, (2, 1))),
    "norm_only": Look("#332288", ">", (0, (3, 1, 1, 1))),
    "lp_ft": Look("#1A1A1A", "*", (0, (8, 1.5, 2, 1.5))),
    "flyp": Look("#999933", "h", (0, (1, 1))),
}
"""Okabe and Ito's palette, and darker colours of Paul Tol's for the rarer methods."""

_OTHERS = ("#44AA99", "#AA4499", "#DDAA33", "#117733", "#7F4F24", "#4477AA")
INK, GREY, FAINT = "#222222", "#6E6E6E", "#D9D9D9"

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.titlepad": 4,
    "axes.labelsize": 7.5,
    "axes.labelpad": 2,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.borderpad": 0.1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.visible": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E8E8E8",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "errorbar.capsize": 1.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # letters stay letters
    "svg.hashsalt": "clipdrift",
    "figure.constrained_layout.h_pad": 0.04,
    "figure.constrained_layout.w_pad": 0.04,
    "text.parse_math": False,  # a name with a dollar sign is no formula
}


def style() -> AbstractContextManager[Any]:
    """The settings under which a figure of a study is made and saved."""
    return matplotlib.rc_context(_STYLE)


def look(method: str) -> Look:
    """A method's look; one that is not known gets one by its name, the same in every figure."""
    if method in LOOKS:
        return LOOKS[method]
    number = zlib.crc32(method.encode())
    markers, lines = ("d", "p", "8", "H"), ((0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
    return Look(_OTHERS[number % len(_OTHERS)], markers[number % 4], lines[number % 3])


def shade(colour: str, level: float) -> tuple[float, float, float]:
    """A colour from light (level 0) over itself (0.6) to darker (1); for things in an order."""
    rgb = np.asarray(to_rgb(colour))
    lighter, darker = 0.68 * max(0.0, 1 - level / 0.6), 0.55 * max(0.0, (level - 0.6) / 0.4)
    mixed = (rgb + (1 - rgb) * lighter) * (1 - darker)
    return (float(mixed[0]), float(mixed[1]), float(mixed[2]))


def levels(count: int) -> list[float]:
    """Places of ``count`` things in an order, from 0 to 1; the middle of the scale for one."""
    return [0.6] if count == 1 else [float(x) for x in np.linspace(0, 1, count)]


IN_A_ROW = 4
"""Most methods side by side; more go on in the next row."""


@dataclass(frozen=True)
class Canvas:
    """The paper a figure is drawn on.

    Attributes:
        size: width and height in inches; none: as the figure's content wants it.
        slide: as the content wants it, but 16:9 and no smaller than :data:`SLIDE`.
    """

    size: tuple[float, float] | None = None
    slide: bool = False

    def figure(self, width: float, height: float) -> Figure:
        """An empty figure whose parts never overlap, of these inches unless the canvas says otherwise."""
        if self.size is not None:
            width, height = self.size
        elif self.slide:
            width = max(width, SLIDE[0], height * 16 / 9)
            height = width * 9 / 16
        return Figure(figsize=(width, height), layout="constrained")

    def grid(
        self,
        rows: int,
        columns: int,
        *,
        height: float = 1.75,
        width: float = 1.75,
        extra: float = 0.55,
        sharex: Literal["none", "all", "row", "col"] = "none",
        sharey: Literal["none", "all", "row", "col"] = "none",
    ) -> tuple[Figure, NDArray[Any]]:
        """Panels as (rows, columns) axes on a page's width, or wider where columns want more.

        Args:
            height: inches of a row.
            width: least inches of a column.
            extra: inches for legend and note.
        """
        figure = self.figure(max(min(PAGE, 3.4 * columns), width * columns), height * rows + extra)
        return figure, figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)


def method_panels(
    canvas: Canvas, rows: int, methods: int, height: float
) -> tuple[Figure, NDArray[Any], list[list[Axes]]]:
    """Lay out a panel per method in each row, at most :data:`IN_A_ROW` side by side; y is shared in a row.

    Returns:
        the figure, all its axes as they stand, and for each row its panels (methods without one vanish by
        :func:`tidy`).
    """
    lines, side = -(-methods // IN_A_ROW), min(methods, IN_A_ROW)
    figure, axes = canvas.grid(rows * lines, side, height=height, extra=0.6, sharex="all")
    groups = [list(axes[i * lines : (i + 1) * lines].ravel()[:methods]) for i in range(rows)]
    for first, *others in groups:
        for place, axis in enumerate(others, start=1):
            axis.sharey(first)
            axis.tick_params(labelleft=place % side == 0)
    return figure, axes, groups


def rate_axis(axis: Axes, values: Iterable[float], label: bool = True) -> None:
    """A logarithmic axis with a tick at each rate."""
    ticks = sorted(set(values))
    axis.set_xscale("log")
    axis.minorticks_off()
    span = float(np.log10(ticks[-1] / ticks[0]))
    pad = max(0.07 * span, 0.12)
    apart = min([float(np.log10(b / a)) for a, b in itertools.pairwise(ticks)], default=1.0)
    inches = apart / (span + 2 * pad) * panel_width(axis)
    axis.set_xticks(ticks, [rate_text(t) for t in ticks])
    if inches < 0.27:  # the labels of two neighbours would touch
        axis.tick_params(axis="x", labelrotation=90 if inches < 0.16 else 45)
    axis.set_xlim(ticks[0] / 10**pad, ticks[-1] * 10**pad)
    if label:
        axis.set_xlabel("learning rate")


def panel_width(axis: Axes) -> float:
    """About how many inches wide the panel will be."""
    place, figure = axis.get_subplotspec(), axis.get_figure(root=True)
    columns = place.get_gridspec().ncols if place is not None else 1
    return 0.8 * float(figure.get_figwidth()) / columns if figure is not None else 1.5


def few_ticks(axis: Axes, x: int | None = None, y: int | None = 5) -> None:
    """Limit the ticks of linear axes, so that labels keep apart in small panels."""
    for part, count in ((axis.xaxis, x), (axis.yaxis, y)):
        if count is not None:
            part.set_major_locator(MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]))


def tidy(axes: NDArray[Any], xlabel: str) -> None:
    """Hide panels without data; label x at the lowest panel left in each column."""
    for column in axes.T:
        used = [axis for axis in column if axis.has_data()]
        for axis in column:
            if axis not in used:
                axis.set_axis_off()
                axis.set_title("")
        if used:
            used[-1].set_xlabel(xlabel)
            used[-1].tick_params(labelbottom=True)


def method_key(figure: Figure, methods: Sequence[str], *more: Line2D) -> None:
    """The legend of methods above all panels."""
    handles = [
        Line2D([], [], color=look(m).colour, marker=look(m).marker, linestyle=look(m).line, label=m)
        for m in methods
    ]
    above(figure, [*handles, *more])


def rate_key(figure: Figure, found: Sequence[float], *more: Line2D) -> None:
    """The legend of rates: light and thin to dark and thick."""
    handles = [
        Line2D([], [], color=shade(GREY, level), linewidth=line_width(level), label=rate_text(rate))
        for rate, level in zip(found, levels(len(found)), strict=True)
    ]
    title = Line2D([], [], linestyle="none", label="learning rate")
    above(figure, [title, *handles, *more], 0.85)


def line_width(level: float) -> float:
    """Line width in points; later things in an order are thicker."""
    return 0.8 + 1.0 * level


def above(figure: Figure, handles: Sequence[Artist], entry: float = 1.05) -> None:
    """A legend above all panels, in rows of equal length.

    Args:
        entry: inches that one entry takes.
    """
    most = max(1, int(figure.get_figwidth() / entry))
    rows = -(-len(handles) // most)
    figure.legend(
        handles=list(handles), loc="outside upper left", ncols=-(-len(handles) // rows), columnspacing=1.4
    )


DOTS = "Dots: an increase (for reading in grey)."


def dots(axis: Axes, values: NDArray[Any], most: float) -> None:
    """Mark the cells of a heat map that rose by more than a twentieth of the scale: hue is lost in grey."""
    size = np.nan_to_num(values) / most if most else np.zeros_like(values)
    for colour, chosen in ((INK, (size > 0.05) & (size < 0.6)), ("white", size >= 0.6)):
        rows, columns = np.nonzero(chosen)
        axis.plot(columns + 1, rows + 1, ".", color=colour, markersize=1.5, markeredgewidth=0)


def note(figure: Figure, *sentences: str) -> None:
    """Write how to read the figure, in small letters below it."""
    text = " ".join(s for s in sentences if s)
    lines = textwrap.wrap(text, max(30, int(figure.get_figwidth() * 20.5)))
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=6.2, color=GREY)
