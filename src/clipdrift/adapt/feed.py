"""Input of the trained part of the tower: images, or kept outputs of the frozen blocks.

With everything before some block frozen, its output for an image never changes. It is computed once for the
image and once for its mirror image, and training starts there; with the whole tower frozen, from embeddings.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdrift.adapt.adapted import Adapted
from clipdrift.data.deck import Deck
from clipdrift.model.modes import in_eval_mode
from clipdrift.model.towers import tower_of
from clipdrift.model.trace import Traced, trace

IN_MEMORY = 2 * 2**30
"""Bytes of kept states that stay in memory; more go to a temporary file."""

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Kept:
    """States of every image and its mirror image, (2, N, ...) float32."""

    values: Any
    start: int | None
    """Blocks that are behind them; None: they are projected embeddings."""

    def batch(self, picked: NDArray[np.int64], mirrored: NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.values[mirrored.astype(np.int64), picked]))


@dataclass(frozen=True, eq=False)
class Feed:
    """Batches of a deck for an adapted model.

    Attributes:
        kept: states to start from; None where the whole tower runs.
    """

    adapted: Adapted
    deck: Deck
    kept: Kept | None

    @classmethod
    def of(
        cls,
        adapted: Adapted,
        deck: Deck,
        *,
        flip: bool,
        keep: bool = True,
        in_memory: int = IN_MEMORY,
        progress: ProgressCallback | None = None,
    ) -> Feed:
        """Compute what can be kept.

        Args:
            flip: mirror images will be asked for.
            keep: otherwise the whole tower runs each time, as for a check.
            in_memory: bytes beyond which a temporary file is used.
            progress: told of images done, mirror images counted.
        """
        blocks = adapted.constant_blocks()
        if not keep or not blocks:
            return cls(adapted, deck, None)
        embedded = adapted.constant_embedding
        start = None if embedded else blocks
        return cls(adapted, deck, _keep(adapted, deck, start, flip, in_memory, progress))

    def forward(self, picked: NDArray[np.int64], mirrored: NDArray[np.bool_], rows: bool = False) -> Traced:
        """The trained part of the tower on some images, with states and rows of the blocks that ran."""
        device = self.deck.device
        if self.kept is None:
            flips = torch.from_numpy(mirrored) if mirrored.any() else None
            images = self.deck.images(picked, flips)
            return trace(self.adapted.clip.model, images, rows=rows)
        entry = self.kept.batch(picked, mirrored).to(device)
        if self.kept.start is None:
            empty = entry.new_zeros((0, len(entry), 0))
            return Traced(embedding=entry, states=empty, pooled=entry)
        return trace(self.adapted.clip.model, entry, rows=rows, start=self.kept.start)

    @property
    def first_block(self) -> int:
        """The first block, from 1, of which :meth:`forward` gives states and rows."""
        if self.kept is None:
            return 1
        blocks = self.adapted.clip.blocks
        return 1 + (blocks if self.kept.start is None else self.kept.start)


@torch.no_grad()
def _keep(
    adapted: Adapted,
    deck: Deck,
    start: int | None,
    flip: bool,
    in_memory: int,
    progress: ProgressCallback | None,
) -> Kept:
    """Run the frozen part over all images, and over their mirror images, in eval mode and float32."""
    tower = tower_of(adapted.clip.model)
    size = tower.images_per_pass(None)
    sides = 2 if flip else 1
    store: NDArray[np.float32] | None = None
    with in_eval_mode(tower.model):
        for side in range(sides):
            for begin in range(0, len(deck), size):
                picked = np.arange(begin, min(begin + size, len(deck)))
                mirrored = torch.full((len(picked),), bool(side))
                found = _constant(adapted, deck.images(picked, mirrored), start).float().cpu().numpy()
                if store is None:
                    shape = (sides, len(deck), *found.shape[1:])
                    store = room(shape, in_memory)
                store[side, picked] = found
                if progress:
                    progress(side * len(deck) + int(picked[-1]) + 1, sides * len(deck))
    return Kept(store, start)


def _constant(adapted: Adapted, images: Tensor, start: int | None) -> Tensor:
    """(b, T, D) after ``start`` blocks, after the last what is needed of it; (b, E) where that is None."""
    tower = tower_of(adapted.clip.model)
    if start is None:
        return trace(tower.model, images).embedding
    caught: list[Tensor] = []

    def stop(_module: object, _inputs: object, output: object) -> None:
        caught.append(tower.carried(output))
        raise _Enough

    handle = tower.blocks[start - 1].register_forward_hook(stop)
    try:
        trace(tower.model, images)
    except _Enough:
        pass
    finally:
        handle.remove()
    return tower.needed(caught[0]) if start == len(tower.blocks) else caught[0]


class _Enough(Exception):  # noqa: N818 - not an error
    """Raised to end a forward pass whose later blocks need not run."""


def room(shape: tuple[int, ...], in_memory: int) -> NDArray[np.float32]:
    """An array to fill: in memory up to so many bytes, else in a temporary file that goes with it."""
    if 4 * math.prod(shape) <= in_memory:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(prefix="clipdrift-") as file:  # gone with the array, also after a crash
        return np.memmap(file, np.float32, mode="w+", shape=shape)
