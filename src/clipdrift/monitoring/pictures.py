"""Attention of a few probe images, the backbone's and that of the last measurement. Loads no torch."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipdrift.monitoring.errors import MonitorError
from clipdrift.runs.files import write_atomically

BACKBONE = "backbone"
"""Folder of the backbone's side in a monitor's folder."""
FILE = "attention.npz"
"""Of the backbone in its folder, of the last measurement in the monitor's own."""
SHOWN = 4
"""Images at most."""


@dataclass(frozen=True, eq=False)
class ProbeAttention:
    """Some probe images and what the backbone attends to in them.

    Attributes:
        images: (n, height, width, 3) bytes as the model sees them.
        titles: n short texts.
        shares: (n, P) attention over patches, last block, mean over heads, each row summing to 1.
        grid: rows and columns of patches.
        block: the last one, from 1.
        reader: whose attention it is.
    """

    images: NDArray[np.uint8]
    titles: tuple[str, ...]
    shares: NDArray[np.float32]
    grid: tuple[int, int]
    block: int
    reader: str

    def save(self, folder: Path) -> None:
        """Write into the backbone's folder.

        Raises:
            StorageError: no room, or no right to write there.
        """
        _save(
            folder / FILE, images=self.images, titles=np.asarray(self.titles), shares=self.shares,
            grid=np.asarray(self.grid), block=np.asarray(self.block), reader=np.asarray(self.reader),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class BeforeAndNow:
    """Attention of the same images in the backbone and in the model of a measurement.

    Attributes:
        now: (n, P) as ``before.shares``.
        step: of the measurement.
    """

    before: ProbeAttention
    now: NDArray[np.float32]
    step: int


def save_now(out: Path, step: int, shares: NDArray[np.float32]) -> None:
    """Write a measurement's attention over that of the one before, whole or not at all.

    Raises:
        StorageError: no room, or no right to write there.
    """
    _save(out / FILE, step=np.asarray(step), shares=shares)


def read_before_and_now(out: Path) -> BeforeAndNow:
    """What a monitor's folder has for pictures.

    Raises:
        MonitorError: nothing was kept, or it cannot be read; why, in words.
    """
    if not (out / BACKBONE).is_dir():
        raise MonitorError("the backbone's side is not there any more")
    if not (out / BACKBONE / FILE).is_file():
        raise MonitorError(
            "no pictures were kept with the backbone, as the images were given as tensors, or an earlier "
            "release made this folder"
        )
    if not (out / FILE).is_file():
        raise MonitorError("no measurement has left its attention yet")
    try:
        kept, now = _read(out / BACKBONE / FILE), _read(out / FILE)
        rows, columns = map(int, kept["grid"])
        before = ProbeAttention(
            kept["images"], tuple(map(str, kept["titles"])), kept["shares"], (rows, columns),
            int(kept["block"]), str(kept["reader"]),
        )  # fmt: skip
        found = BeforeAndNow(before, now["shares"], int(now["step"]))
        count = (len(before.images), len(before.titles), len(before.shares))
        if set(count) != {len(found.now)} or {before.shares.shape[1], found.now.shape[1]} != {rows * columns}:
            raise ValueError("of other images")
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise MonitorError(f"{FILE} cannot be read ({error})") from None
    return found


def _save(path: Path, **arrays: NDArray[Any]) -> None:
    contents: dict[str, Any] = dict(arrays)
    write_atomically(path, lambda file: np.savez_compressed(file, **contents))


def _read(path: Path) -> dict[str, NDArray[Any]]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}
