"""Pictures of runs: per-block drift, attention of the same images before and after. They compute nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from clipdrift.record import Record

# Okabe and Ito's palette: told apart by colour-blind readers too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "figure.facecolor": "white",
}


def block_drift(records: Mapping[str, Record], path: Path) -> Path:
    """Drift of each attention measure and CKA by block, one bar per run, at the chosen epoch.

    Args:
        records: finished runs by label.
        path: PNG to write.
    """
    first = next(iter(records.values()))
    names = list(first.backbone.measures)
    points = {label: r.best for label, r in records.items() if r.best is not None}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(11, 5.6), layout="constrained")
        axes = figure.subplots(2, 3).ravel()
        blocks = np.arange(1, first.model.blocks + 1)
        width = 0.8 / max(1, len(points))
        for axis, name in zip(axes, [*names, "cka"], strict=False):
            for index, (label, point) in enumerate(points.items()):
                values = point.measures[name]
                heights = values.blocks if name == "cka" else values.drift_blocks
                place = blocks + (index - (len(points) - 1) / 2) * width
                axis.bar(place, heights, width, label=label, color=COLOURS[index % len(COLOURS)])
            absolute = any(p.measures[name].absolute for p in points.values())
            axis.set_title(name)
            axis.set_xlabel("block")
            axis.set_ylabel(
                "CKA with the backbone" if name == "cka" else "change" if absolute else "change in %"
            )
            axis.set_xticks(blocks)
            axis.axhline(1 if name == "cka" else 0, color="black", linewidth=0.8)
        for axis in axes[len(names) + 1 :]:
            axis.axis("off")
        handles, labels = axes[0].get_legend_handles_labels()
        axes[-1].legend(handles, labels, loc="center", frameon=False, fontsize=11, title="method")
        figure.suptitle(f"Change inside the image tower by block, {first.config.data.target.name}")
        return _save(figure, path)


def attention_maps(
    images: NDArray[np.uint8], maps: Mapping[str, NDArray[np.float64]], titles: Sequence[str], path: Path
) -> Path:
    """The same images beside what the CLS token attends to in each model.

    Args:
        images: (n, H, W, 3) bytes.
        maps: by model, (n, side, side) attention over patches; each row of the picture shares one scale.
        titles: (n) one line per image.
        path: PNG to write.
    """
    with matplotlib.rc_context(_STYLE):
        count, columns = len(images), 1 + len(maps)
        figure = Figure(figsize=(2.0 * columns + 0.9, 1.95 * count + 0.5), layout="constrained")
        axes = figure.subplots(count, columns, squeeze=False)
        for row in range(count):
            axes[row, 0].imshow(images[row], interpolation="nearest")
            axes[row, 0].set_ylabel(titles[row])
            largest = max(float(found[row].max()) for found in maps.values())
            for column, (label, found) in enumerate(maps.items(), start=1):
                shown = axes[row, column].imshow(found[row], vmin=0, vmax=largest, cmap="magma")
                if row == 0:
                    axes[row, column].set_title(label)
            figure.colorbar(shown, ax=axes[row, :], shrink=0.85, pad=0.01)
        axes[0, 0].set_title("image")
        for axis in axes.ravel():
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set_visible(False)
        figure.suptitle("Attention of the class token over patches, last block, mean over heads")
        return _save(figure, path)


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
