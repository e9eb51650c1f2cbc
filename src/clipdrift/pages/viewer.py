"""Attention packed into a page: whole numbers in base64, with the scale that turns them back.

Of every image, block and kept head (the mean over heads first) each side has a row of P whole numbers q; the
share of attention is ``q * scale / top``, where ``scale`` is the row's largest share and ``top`` the largest
whole number. All numbers are little-endian.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import Colormap
from numpy.typing import NDArray
from PIL import Image

from clipdrift.comparison import Comparison
from clipdrift.figures.panels import ATTENTION, CHANGE
from clipdrift.runs.maps import Maps

BUDGET = 9_000_000
"""Most letters of base64 that attention may take; figures and pictures come on top, 15 MB are the limit."""

_FEWEST_HEADS = 4
_MOST_IMAGES = 24
_PICTURES = 2_500_000
"""Most letters that lossless pictures may take; beyond, they are JPEG."""


def pack(comparison: Comparison, maps: Maps, budget: int = BUDGET) -> tuple[dict[str, Any], list[str]]:
    """Pack the viewer's data, and say what was left out to stay within the budget.

    First the steps get coarser (65 536, then 256), then heads go (those that changed least), then images.

    Args:
        budget: letters of base64 for attention.

    Returns:
        A dictionary that JSON can hold, with text and numbers alone; the sentences.
    """
    count, blocks, heads, patches = maps.before.shape
    images, kept, width = _fit(count, blocks, heads, patches, budget)
    chosen = _heads(comparison, blocks, heads, kept)
    data = _head(maps, images, width, comparison.shape.reader, chosen)
    for side, rows in (("before", maps.before), ("after", maps.after)):
        data |= _side(side, rows[:images], chosen, width)
    said = [
        "Each map is kept in 65,536 steps from 0 to its largest share."
        if width == 2
        else "To keep this page small, each map is kept in 256 steps from 0 to its largest share."
    ]
    if kept < heads:
        said.append(
            f"Of the {heads} heads of a block, the {kept} that changed most are here, and the mean over all."
        )
    if images < count:
        said.append(f"Of {count} images, the first {images} are here.")
    if kept < heads or images < count:
        said.append("All are in maps.npz.")
    return data, said


def pack_runs(found: Mapping[str, Maps], budget: int = BUDGET) -> tuple[dict[str, Any], list[str]]:
    """Pack the data of a study's viewer: attention of several runs; a shared backbone is stored once.

    Args:
        found: maps by run; ``before`` is the backbone's.
        budget: letters of base64 for attention of all.

    Returns:
        ``{"shared": [what the viewer takes without "after"], "runs": {run: {"shared": place in that list,
        "after": ..., "after_scales": ...}}}``; sentences on what was left out.
    """
    shared: list[dict[str, Any]] = []
    runs: dict[str, Any] = {}
    places: dict[bytes, int] = {}
    left_out: set[str] = set()
    for run, maps in found.items():
        count, blocks, heads, patches = maps.before.shape
        # a run's share; both sides are counted for each, although backbones are kept once
        images, kept, width = _fit(count, blocks, heads, patches, budget // len(found))
        chosen = [list(range(1, kept + 1))] * blocks
        left_out |= _left_out(width, kept, heads, images, count)
        identity = hashlib.sha256(
            maps.images.tobytes() + maps.before.tobytes() + bytes([width, kept])
        ).digest()
        if identity not in places:
            places[identity] = len(shared)
            shared.append(
                _head(maps, images, width, "class token", chosen)
                | {"names": ["backbone", "adapted"]}
                | _side("before", maps.before[:images], chosen, width)
            )
        after = _side("after", maps.after[:images], chosen, width)
        runs[run] = {"shared": places[identity], **after}
    return {"shared": shared, "runs": runs}, sorted(left_out, key=len)


def _left_out(width: int, kept: int, heads: int, images: int, count: int) -> set[str]:
    said = {"To keep this page small, each map is kept in 256 steps from 0 to its largest share."}
    said = said if width == 1 else set()
    if kept < heads:
        said.add(f"Of the {heads} heads of a block, the first {kept} are here, and the mean over all.")
    if images < count:
        said.add(f"Of {count} images, the first {images} are here.")
    return said


def _head(maps: Maps, images: int, width: int, reader: str, chosen: list[list[int]]) -> dict[str, Any]:
    """Everything that a viewer takes except the attention."""
    return {
        "grid": list(maps.grid),
        "width": width,
        "reader": reader,
        "blocks": maps.before.shape[1],
        "heads": chosen,
        "titles": list(maps.titles[:images]),
        "pictures": _pictures(maps.images[:images]),
        "colours": {"attention": _colours(ATTENTION), "change": _colours(CHANGE)},
    }


def _side(side: str, rows: NDArray[np.float32], chosen: list[list[int]], width: int) -> dict[str, Any]:
    """One model's attention, image by image."""
    packed = [_quantise(_rows(image, chosen), width) for image in rows]
    return {
        side: [base64.b64encode(numbers).decode() for numbers, _ in packed],
        f"{side}_scales": [base64.b64encode(scales).decode() for _, scales in packed],
    }


def _fit(count: int, blocks: int, heads: int, patches: int, budget: int) -> tuple[int, int, int]:
    """Compute how many images, heads and bytes per number the budget allows."""
    images = min(count, _MOST_IMAGES)

    def letters(images: int, heads: int, width: int) -> int:
        return images * blocks * (heads + 1) * 2 * (patches * width + 4) * 4 // 3

    for width in (2, 1):
        if letters(images, heads, width) <= budget:
            return images, heads, width
    for kept in range(heads - 1, min(_FEWEST_HEADS, heads) - 1, -1):
        if letters(images, kept, 1) <= budget:
            return images, kept, 1
    kept = min(_FEWEST_HEADS, heads)
    while images > 1 and letters(images, kept, 1) > budget:
        images -= 1
    return images, kept, 1


def _heads(comparison: Comparison, blocks: int, heads: int, kept: int) -> list[list[int]]:
    """Choose, by block, the heads to keep, counted from 1: all, or those that head its list in heads.csv."""
    if kept == heads:
        return [list(range(1, heads + 1))] * blocks
    frame = comparison.heads_frame()
    ranked: dict[int, list[int]] = {}
    if comparison.heads:
        measured = [row.measure for row in comparison.heads]
        measure = "entropy" if "entropy" in measured else measured[0]
        for block, part in frame[frame["measure"] == measure].groupby("block"):
            ranked[int(block)] = [int(head) for head in part["head"]]
    orders = (ranked.get(block, list(range(1, heads + 1))) for block in range(1, blocks + 1))
    return [sorted(order[:kept]) for order in orders]


def _rows(rows: NDArray[np.float32], chosen: list[list[int]]) -> NDArray[np.float32]:
    """(L, 1 + heads kept, P): the mean over all heads, then those chosen.

    Args:
        rows: (L, H, P) of one image.
    """
    parts = [
        np.concatenate([block.mean(0, keepdims=True), block[np.array(heads) - 1]])
        for block, heads in zip(rows, chosen, strict=True)
    ]
    return np.stack(parts)


def _quantise(rows: NDArray[np.float32], width: int) -> tuple[bytes, bytes]:
    """Whole numbers of ``width`` bytes, and the float32 scale of each row."""
    top = 256**width - 1
    scales = rows.max(-1, keepdims=True).astype("<f4")
    shares = rows / np.where(scales > 0, scales, 1)
    numbers = np.rint(shares.astype(np.float64) * top).astype(f"<u{width}")
    return numbers.tobytes(), scales.tobytes()


def _pictures(images: NDArray[np.uint8]) -> list[str]:
    """Data URIs: PNG, or JPEG where those would be large."""
    exact = [_picture(image, "PNG", optimize=True) for image in images]
    if sum(map(len, exact)) <= _PICTURES:
        return exact
    return [_picture(image, "JPEG", quality=88) for image in images]


def _picture(image: NDArray[np.uint8], format: str, **how: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format, **how)
    return f"data:image/{format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _colours(colours: Colormap) -> str:
    """256 x 3 bytes, low to high."""
    table = np.asarray(colours(np.linspace(0, 1, 256)))[:, :3]
    return base64.b64encode((table * 255).round().astype(np.uint8).tobytes()).decode()
