"""Attention of the same images in both models, patch by patch, and the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from clipdrift.figures.panels import ATTENTION, CHANGE, plain, style
from clipdrift.runs.maps import Maps

MOST_IMAGES = 6
"""Images of a sheet, unless told."""


def attention(
    maps: Maps, image: int, block: int, head: int | None = None, *, reader: str = "class token"
) -> Figure:
    """One image: itself, attention of the backbone and of the adapted model on one scale, the difference.

    Args:
        image, block, head: counted from 1; no head means the mean over heads.
        reader: whose attention it is, for the title.

    Raises:
        ValueError: no such image, block or head.
    """
    return _draw(maps, [image], [block], head, reader, cell=2.1)


def attention_sheet(
    maps: Maps,
    blocks: Sequence[int] | None = None,
    head: int | None = None,
    *,
    images: Sequence[int] | None = None,
    reader: str = "class token",
) -> Figure:
    """Images by row: itself, then for each block the backbone, the adapted model and the difference.

    All images of a block share one scale, so that they compare.

    Args:
        blocks: counted from 1; by default the first, the middle and the last.
        head: counted from 1; none means the mean over heads.
        images: counted from 1; by default the first 6.
        reader: whose attention it is, for the title.

    Raises:
        ValueError: no such image, block or head.
    """
    count, depth = maps.before.shape[:2]
    chosen = sorted({1, (depth + 1) // 2, depth}) if blocks is None else list(blocks)
    rows = list(range(1, min(count, MOST_IMAGES) + 1)) if images is None else list(images)
    return _draw(maps, rows, chosen, head, reader, cell=1.05 if len(chosen) > 1 else 1.5)


@dataclass(frozen=True)
class _Page:
    """Places boxes by inches from the upper left corner: rows and columns of any number stay aligned."""

    figure: Figure
    width: float
    height: float

    def box(self, left: float, top: float, width: float, height: float) -> Axes:
        place = (left / self.width, 1 - (top + height) / self.height)
        axis = self.figure.add_axes((*place, width / self.width, height / self.height))
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        return axis

    def text(self, left: float, top: float, words: str, **how: Any) -> None:
        self.figure.text(left / self.width, 1 - top / self.height, words, va="top", **how)


_LEFT, _TOP, _BOTTOM = 0.42, 0.88, 0.62
_NEAR, _FAR = 0.07, 0.3


def _draw(
    maps: Maps, images: Sequence[int], blocks: Sequence[int], head: int | None, reader: str, cell: float
) -> Figure:
    _check(maps, images, blocks, head)
    tall = cell * maps.images.shape[1] / maps.images.shape[2]
    group = 3 * cell + 2 * _NEAR
    width = _LEFT + cell + len(blocks) * (_FAR + group) + 0.2
    height = _TOP + len(images) * (tall + _NEAR) + _BOTTOM
    with style():
        figure = Figure(figsize=(width, height))
        page = _Page(figure, width, height)
        page.text(0.12, 0.1, _title(maps, reader, head, len(images)), fontsize=10)
        for row, image in enumerate(images):
            axis = page.box(_LEFT, _TOP + row * (tall + _NEAR), cell, tall)
            axis.imshow(maps.images[image - 1], interpolation="nearest", aspect="auto")
            axis.set_ylabel(plain(maps.titles[image - 1], int(tall * 13)), fontsize=8)
        page.text(_LEFT + cell / 2, _TOP - 0.22, "image", ha="center")
        for index, block in enumerate(blocks):
            left = _LEFT + cell + _FAR + index * (group + _FAR)
            page.text(left + group / 2, _TOP - 0.44, _block(maps, reader, block), ha="center", weight="bold")
            _group(page, maps, images, block, head, (left, cell, tall))
    return figure


def _group(
    page: _Page,
    maps: Maps,
    images: Sequence[int],
    block: int,
    head: int | None,
    place: tuple[float, float, float],
) -> None:
    """Backbone and adapted on one scale from 0, the difference around 0, a colour bar under each."""
    left, cell, tall = place
    before, after = ([maps.of(s, i - 1, block, head) for i in images] for s in ("before", "after"))
    change = [new - old for old, new in zip(before, after, strict=True)]
    most, widest = _top([*before, *after]), _top(change)
    columns = (
        ("backbone", before, 0.0, most, ATTENTION),
        ("adapted", after, 0.0, most, ATTENTION),
        ("difference", change, -widest, widest, CHANGE),
    )
    for column, (title, found, low, high, colours) in enumerate(columns):
        across = left + column * (cell + _NEAR)
        page.text(across + cell / 2, _TOP - 0.22, title, ha="center")
        for row, values in enumerate(found):
            axis = page.box(across, _TOP + row * (tall + _NEAR), cell, tall)
            shown = axis.imshow(
                values, vmin=low, vmax=high, cmap=colours, interpolation="nearest", aspect="auto"
            )
        if title == "adapted":
            _bar(page, shown, left, 2 * cell + _NEAR, "share of attention")
        elif title == "difference":
            _bar(page, shown, across, cell, "difference")


def _bar(page: _Page, shown: AxesImage, left: float, width: float, label: str) -> None:
    place = page.box(left, page.height - _BOTTOM + 0.02, width, 0.09)
    bar = page.figure.colorbar(shown, cax=place, orientation="horizontal", label=label)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(nbins=2 if width < 1.3 else 4, symmetric=label == "difference")
    bar.ax.tick_params(width=0.8, length=3, labelsize=7)
    bar.ax.xaxis.label.set_fontsize(8)


def _top(found: Sequence[NDArray[np.float32]]) -> float:
    """Largest size of a value: the end of a scale; 1 where all are 0."""
    return max(float(np.abs(one).max()) for one in found) or 1.0


def _title(maps: Maps, reader: str, head: int | None, shown: int) -> str:
    heads = "mean over heads" if head is None else f"head {head}"
    rows, columns = maps.grid
    count = len(maps.images)
    images = f"{shown} of {count} images" if shown < count else f"{count} image{'s' * (count > 1)}"
    return f"Attention of the {reader} over {rows} x {columns} patches, {heads}; {images}"


def _block(maps: Maps, reader: str, block: int) -> str:
    return reader if maps.before.shape[1] == 1 and reader == "pooling head" else f"block {block}"


def _check(maps: Maps, images: Sequence[int], blocks: Sequence[int], head: int | None) -> None:
    count, depth, heads = maps.before.shape[:3]
    for name, asked, most in (
        ("image", images, count),
        ("block", blocks, depth),
        ("head", [] if head is None else [head], heads),
    ):
        for one in asked:
            if not 1 <= one <= most:
                raise ValueError(f"no {name} {one}: there are {most}, counted from 1")
