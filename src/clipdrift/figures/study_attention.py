"""Attention of the same images in the backbone and in adapted models, side by side."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from clipdrift.figures.look import Canvas, note
from clipdrift.figures.panels import ATTENTION, colour_bar
from clipdrift.figures.source import NotDrawnError, StudySource, in_order, places, plain, rates
from clipdrift.texts import rate as rate_text

SHOWN = 3
"""Images of a figure."""


def side_by_side(
    images: NDArray[np.uint8], maps: Mapping[str, NDArray[np.float32]], canvas: Canvas, heading: str = ""
) -> Figure:
    """Images in the first column, then what the class token attends to in each model.

    Args:
        images: (n, height, width, 3) bytes.
        maps: by the model's name, (n, rows, columns) share of the attention on each patch; the maps of one
            image have one scale.
    """
    count, columns = len(images), 1 + len(maps)
    figure = canvas.figure(0.75 + 1.25 * columns, 1.22 * count + 0.45)
    axes = figure.subplots(count, columns, squeeze=False)
    for row, image in zip(range(count), images, strict=True):
        axes[row, 0].imshow(image, interpolation="nearest")
        largest = 100 * max(float(found[row].max()) for found in maps.values())
        for axis, found in zip(axes[row, 1:], maps.values(), strict=True):
            look = {"cmap": ATTENTION, "vmin": 0, "vmax": largest, "interpolation": "nearest"}
            shown = axis.imshow(100 * found[row], **look)
        colour_bar(figure, shown, list(axes[row]), "% of attention", aspect=12, shrink=0.85)
    for axis, name in zip(axes[0], ["image", *maps], strict=True):
        axis.set_title(name, loc="center", fontsize=7)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
    note(figure, heading)
    return figure


def attention(tables: StudySource, canvas: Canvas) -> Figure:
    """The last block, mean over heads: backbone and one run of each method at the highest rate with maps."""
    runs = plain(tables)
    kept = {str(run): found for run in runs["run"] if (found := tables.maps(str(run))) is not None}
    if not kept:
        raise NotDrawnError("no run kept attention maps (maps.npz)")
    place, here = next((place, part) for place, part in places(runs[runs["run"].isin(kept)]))
    rate = max(rates(here), key=lambda r: (here[here["learning_rate"] == r]["method"].nunique(), r))
    those = here[here["learning_rate"] == rate].drop_duplicates("method")
    first = kept[str(those["run"].iloc[0])]
    block, count = first.before.shape[1], min(SHOWN, len(first.images))
    maps = {"backbone": np.stack([first.of("before", i, block, None) for i in range(count)])}
    for method in in_order(those["method"]):
        found = kept[str(those.loc[those["method"] == method, "run"].iloc[0])]
        maps[method] = np.stack([found.of("after", i, block, None) for i in range(count)])
    said = (
        f"Class token over patches, block {block}, mean over heads; {place}, rate {rate_text(rate)}, "
        f"seed {those['seed'].iloc[0]}. Maps of one image share a scale."
    )
    return side_by_side(first.images[:count], maps, canvas, said)
