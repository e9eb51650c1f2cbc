"""How figures of studies look: one colour, marker and line for each method everywhere; names and units."""

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from clipdrift.listing import MEASURES

PAGE = 7.0
"""Inches: the width of a paper's two columns."""
SLIDE = (7.62, 4.29)
"""Inches of a slide at paper's size of letters: filling a screen, it is magnified by 1.75."""


@dataclass(frozen=True)
class Look:
    """Of one method: read by colour, by marker and by line, so also in grey."""

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
    mixed = (
        rgb + (1 - rgb) * 0.68 * (1 - level / 0.6) if level < 0.6 else rgb * (1 - 0.55 * (level - 0.6) / 0.4)
    )
    return (float(mixed[0]), float(mixed[1]), float(mixed[2]))


def levels(count: int) -> list[float]:
    """Places of ``count`` things in an order, from 0 to 1; the middle of the scale for one."""
    return [0.6] if count == 1 else [float(x) for x in np.linspace(0, 1, count)]


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


_SHORT = {
    "entropy": "entropy",
    "normalised_entropy": "normalised entropy",
    "erf95": "ERF 95",
    "gini": "Gini",
    "head_diversity": "head diversity",
    "head_diversity_of_mean": "head diversity of mean",
    "cls_self": "CLS to itself",
    "sink_share": "sink share",
    "sink_patches": "sink patches",
    "rollout_entropy": "rollout entropy",
    "rollout_erf95": "rollout ERF 95",
    "rollout_gini": "rollout Gini",
    "patch_entropy": "patch entropy",
    "cka": "CKA",
    "embedding_drift": "embedding drift",
    "weight_drift": "weight drift",
    "representation_drift": "1 − CKA",
    "zero_shot_agreement": "zero-shot agreement",
    "zero_shot_kl": "zero-shot KL",
}
_LABELS = {
    "accuracy": "test accuracy, %",
    "validation_accuracy": "validation accuracy, %",
    "train_accuracy": "training accuracy, %",
    "cka": "CKA with backbone (1: same)",
    "embedding_drift": "embedding drift (1 − cosine)",
    "weight_drift": "weight drift (share of norm)",
    "representation_drift": "1 − CKA (0: same)",
    "learning_rate": "learning rate",
}


def short(column: str) -> str:
    """A column for ticks: without unit."""
    for prefix, said in (("epoch1_", ", epoch 1"), ("last_", ", last epoch")):
        if column.startswith(prefix):
            return short(column.removeprefix(prefix)) + said
    if column in _SHORT:
        return _SHORT[column]
    if column.startswith(("retention_", "zero_shot_")):
        return column.removeprefix("zero_shot_").replace("retention_", "retention ")
    base = column.removesuffix("_drift")
    return _SHORT.get(base, base.replace("_", " "))


def label(column: str, blocks: bool = False) -> str:
    """A column for an axis: with its unit.

    Args:
        blocks: it is a measure's value, not its drift.
    """
    if column in _LABELS:
        return _LABELS[column]
    if column.startswith("retention_"):
        return f"retention {column.removeprefix('retention_')}, %"
    if column.startswith("zero_shot_"):
        return f"zero-shot {column.removeprefix('zero_shot_')}, %"
    if column.endswith("_drift") and not blocks:
        return f"{short(column)} drift, %"
    unit = MEASURES[column].unit if column in MEASURES else ""
    return f"{short(column)}, {unit}" if unit else f"{short(column)} (0 to 1)"


def rate_text(rate: float) -> str:
    """``1e-5``, not ``1e-05``."""
    mantissa, _, power = f"{rate:.3g}".partition("e")
    if power:
        return f"{mantissa}e{int(power)}"
    exact = f"{rate:.2e}".partition("e")
    return f"{float(exact[0]):g}e{int(exact[2])}" if rate < 0.1 else mantissa


def rate_axis(axis: Axes, values: Iterable[float], label: bool = True) -> None:
    """A logarithmic axis with a tick at each rate."""
    ticks = sorted(set(values))
    axis.set_xscale("log")
    axis.minorticks_off()
    span = np.log10(ticks[-1] / ticks[0]) if len(ticks) > 1 else 0.0
    shown = [t for i, t in enumerate(ticks) if i == 0 or np.log10(t / ticks[i - 1]) > span / 12]
    axis.set_xticks(shown, [rate_text(t) for t in shown], rotation=0 if len(shown) < 5 else 30)
    pad = 10 ** max(0.07 * span, 0.12)
    axis.set_xlim(ticks[0] / pad, ticks[-1] * pad)
    if label:
        axis.set_xlabel("learning rate")


def method_key(figure: Figure, methods: Sequence[str], *more: Line2D) -> None:
    """The legend of methods above all panels."""
    handles = [
        Line2D([], [], color=look(m).colour, marker=look(m).marker, linestyle=look(m).line, label=m)
        for m in methods
    ]
    _above(figure, [*handles, *more])


def rate_key(figure: Figure, found: Sequence[float], *more: Line2D) -> None:
    """The legend of rates: light and thin to dark and thick."""
    handles = [
        Line2D([], [], color=shade(GREY, level), linewidth=line_width(level), label=rate_text(rate))
        for rate, level in zip(found, levels(len(found)), strict=True)
    ]
    title = Line2D([], [], linestyle="none", label="learning rate")
    _above(figure, [title, *handles, *more])


def line_width(level: float) -> float:
    """Points; later things in an order are thicker."""
    return 0.8 + 1.0 * level


def _above(figure: Figure, handles: list[Line2D]) -> None:
    width = figure.get_figwidth()
    columns = max(1, min(len(handles), int(width / 1.0)))
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, columnspacing=1.4)


def note(figure: Figure, *sentences: str) -> None:
    """How to read the figure, in small letters below it."""
    text = " ".join(s for s in sentences if s)
    lines = textwrap.wrap(text, max(30, int(figure.get_figwidth() * 20.5)))
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=6.2, color=GREY)


def numbers(sizes: Iterable[int]) -> str:
    """``n = 5``, or ``n = 3 to 5`` where cells differ."""
    found = sorted(set(int(s) for s in sizes))
    return f"n = {found[0]}" if len(found) == 1 else f"n = {found[0]} to {found[-1]}" if found else "n = 0"
