"""Decoded images in the order in which a model sees them: bytes on the host, floats on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from clipdrift.data.images import LabelArray
from clipdrift.data.pixels import Pixels, normalise
from clipdrift.data.preprocess import Preprocess
from clipdrift.shapes import Flips, Images


@runtime_checkable
class Batches(Protocol):
    """Preprocessed images in a fixed order, as measuring takes them."""

    def __len__(self) -> int: ...

    def batches(self, size: int) -> Iterator[tuple[Images, slice]]:
        """All images, ``size`` at a time, with the slice that each batch covers."""
        ...


@dataclass(frozen=True, eq=False)
class Prepared:
    """Images that somebody has preprocessed already: floats (n, 3, H, W), moved to ``device`` in batches."""

    images: Images
    device: torch.device

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int) -> Iterator[tuple[Images, slice]]:
        for start in range(0, len(self), size):
            piece = slice(start, min(start + size, len(self)))
            yield self.images[piece].to(self.device), piece


@runtime_checkable
class Pictures(Protocol):
    """Decoded pictures, uint8 (n, H, W, 3): an array, or what is picked from like one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any:
        """uint8 (m, H, W, 3) of m rows."""
        ...


@dataclass(frozen=True, eq=False)
class Deck:
    """Images of one purpose (training, validation, probe set, a transfer set).

    Attributes:
        data: uint8 ``(n, H, W, 3)``, usually memory-mapped and shared by several decks.
        rows: int64 ``(m,)``, which of them, in order.
        labels: int64 ``(m,)``.
        preprocess: the model's, for normalising.
        device: where batches go.
    """

    data: Pictures
    rows: NDArray[np.int64]
    labels: LabelArray
    preprocess: Preprocess
    device: torch.device

    @classmethod
    def of(cls, pixels: Pixels, preprocess: Preprocess, device: torch.device) -> Deck:
        """Make a deck of all images of decoded ``pixels``."""
        return cls(pixels.data, np.arange(len(pixels)), pixels.labels, preprocess, device)

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, indices: ArrayLike) -> Deck:
        """The images at ``indices`` of this deck, in that order."""
        picked = np.asarray(indices, dtype=np.int64)
        return Deck(self.data, self.rows[picked], self.labels[picked], self.preprocess, self.device)

    def images(self, indices: NDArray[np.int64] | slice, flip: Flips | None = None) -> Images:
        """Normalised images (b, 3, H, W) on the device, those where ``flip`` is true mirrored."""
        bytes_ = torch.from_numpy(np.ascontiguousarray(self.data[self.rows[indices]])).to(self.device)
        return normalise(bytes_, self.preprocess, None if flip is None else flip.to(self.device))

    def batches(self, size: int) -> Iterator[tuple[Images, slice]]:
        """All images in order, ``size`` at a time, with the slice that each batch covers."""
        for start in range(0, len(self), size):
            piece = slice(start, min(start + size, len(self)))
            yield self.images(piece), piece
