"""Attention over patches of the same images in two models, for pictures. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipdrift.runs.files import write_atomically


@dataclass(frozen=True, eq=False)
class Maps:
    """Images with what every block and head attends to, before and after.

    Attributes:
        images: (n, height, width, 3) bytes as the model sees them.
        titles: n short texts.
        before, after: (n, L, H, P) attention over patches, each row summing to 1, float32; L is 1 where a
            pooling head was read.
        grid: rows and columns of patches.
    """

    images: NDArray[np.uint8]
    titles: tuple[str, ...]
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    grid: tuple[int, int]

    def of(self, side: str, image: int, block: int, head: int | None) -> NDArray[np.float32]:
        """(rows, columns) attention of one image; block and head from 1, no head: mean over heads.

        Args:
            side: ``before`` or ``after``.
        """
        rows = {"before": self.before, "after": self.after}[side][image, block - 1]
        row = rows.mean(0) if head is None else rows[head - 1]
        return row.reshape(self.grid)

    def save(self, path: Path) -> Path:
        """Write as a compressed npz file."""
        write_atomically(
            path,
            lambda file: np.savez_compressed(
                file,
                images=self.images,
                titles=np.asarray(self.titles),
                before=self.before.astype(np.float16),
                after=self.after.astype(np.float16),
                grid=np.asarray(self.grid),
            ),
        )
        return path


def read_maps(path: Path) -> Maps:
    """Read what :meth:`Maps.save` wrote (attention comes back with half precision's three digits)."""
    with np.load(path, allow_pickle=False) as found:
        return Maps(
            images=found["images"],
            titles=tuple(str(t) for t in found["titles"]),
            before=found["before"].astype(np.float32),
            after=found["after"].astype(np.float32),
            grid=(int(found["grid"][0]), int(found["grid"][1])),
        )
