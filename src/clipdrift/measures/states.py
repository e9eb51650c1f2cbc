"""Keep states of every block and image: in memory while they are few, else in a temporary file."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipdrift.measures.errors import MeasureError
from clipdrift.shapes import States

IN_MEMORY = 8 * 2**20
"""Bytes of states that are kept in memory; what goes beyond is written to the temporary folder."""


class KeptStates:
    """States (N, D) in float32 of L blocks, which may differ in width; filled by batch, read by block."""

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self._limit = in_memory
        self._batches: list[list[Tensor]] = []
        self._folder: Path | None = None
        self.images = 0
        self.widths: tuple[int, ...] = ()

    @property
    def blocks(self) -> int:
        return len(self.widths)

    def add(self, states: States | Sequence[Tensor]) -> None:
        """The states (B, D) of the next B images after each block.

        Raises:
            MeasureError: the temporary folder cannot be made or written, or is full.
        """
        batch = [state.detach().to("cpu", torch.float32) for state in states]
        if not self.images:
            self.widths = tuple(state.shape[1] for state in batch)
        self.images += len(batch[0]) if batch else 0
        self._batches.append(batch)
        if self._folder is not None or 4 * self.images * sum(self.widths) > self._limit:
            try:
                self._spill()
            except OSError as error:
                place = self._folder or error.filename  # neither where no temporary folder was found
                raise MeasureError(
                    f"the states of {self.images} images cannot be kept in a temporary folder: "
                    f"{error.strerror}{f': {place}' if place else ''}; "
                    "make room there, or name another folder in TMPDIR"
                ) from None

    def _spill(self) -> None:
        """Append what is in memory to one file per block."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="clipdrift-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        for block in range(self.blocks):
            with self._file(block).open("ab") as file:
                for batch in self._batches:
                    file.write(batch[block].contiguous().numpy().tobytes())
        self._batches.clear()

    def _file(self, block: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{block}.f32"

    def __len__(self) -> int:
        """Number of blocks."""
        return self.blocks

    @property
    def on_disk(self) -> bool:
        return self._folder is not None

    def block(self, index: int, images: slice = slice(None)) -> Tensor:
        """(n, D) states after block ``index`` (from 0) of the images of a contiguous slice."""
        start, stop, step = images.indices(self.images)
        if step != 1:
            raise ValueError("states are read in contiguous pieces")
        if self._folder is None:
            if len(self._batches) > 1:
                self._batches = [[torch.cat(parts) for parts in zip(*self._batches, strict=True)]]
            return self._batches[0][index][start:stop]
        count, width = max(0, stop - start), self.widths[index]
        flat = np.fromfile(self._file(index), np.float32, count * width, offset=4 * start * width)
        return torch.from_numpy(flat.reshape(count, width))

    def pieces(self, index: int, size: int) -> Iterator[Tensor]:
        """The states after one block, ``size`` images at a time."""
        for start in range(0, self.images, size):
            yield self.block(index, slice(start, start + size))

    def __iter__(self) -> Iterator[Tensor]:
        """(N, D) of each block in turn."""
        return (self.block(index) for index in range(self.blocks))

    def __getitem__(self, index: int) -> Tensor:
        return self.block(range(self.blocks)[index])
