"""The order in which a training sees its images; a step's batch follows from the seed and its epoch alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clipdrift.config import OptimConfig

_REPLAY = 3
"""Purpose of the random numbers that choose what is replayed."""

Part = tuple[NDArray[np.int64], NDArray[np.bool_]]
"""Images, and which of them are mirrored."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The images of one step: ``step`` counts from 0, ``look`` is whether the caller looks after it."""

    epoch: int
    step: int
    picked: NDArray[np.int64]
    mirrored: NDArray[np.bool_]
    begins_epoch: bool
    ends_epoch: bool
    look: bool

    def parts(self, most: int | None) -> Iterator[Part]:
        """Yield the images and which of them are mirrored, in parts that fit into memory."""
        size = most or len(self.picked)
        for start in range(0, len(self.picked), size):
            yield self.picked[start : start + size], self.mirrored[start : start + size]


@dataclass(frozen=True)
class Order:
    """Batches of a training.

    Attributes:
        count: images that an epoch goes through, the first of the deck.
        replayed: images after them, of which every batch has ``share``.
    """

    count: int
    size: int
    epochs: int
    replayed: int = 0
    share: float = 0.0

    @classmethod
    def of(cls, count: int, optim: OptimConfig, replayed: int = 0, share: float = 0.0) -> Order:
        """The order of a training on ``count`` images, or of so many and others that are replayed."""
        return cls(count, optim.batch_size, optim.epochs, replayed, share if replayed else 0.0)

    @property
    def again(self) -> int:
        """Replayed images of a batch: at least one where there are any, and never all."""
        return min(max(1, round(self.share * self.size)), self.size - 1) if self.replayed else 0

    @property
    def per_epoch(self) -> int:
        """Steps."""
        return math.ceil(self.count / (self.size - self.again))

    @property
    def steps(self) -> int:
        return self.per_epoch * self.epochs

    def looks(self, per_epoch: int = 1, at: Literal["dense"] | Sequence[float] = ()) -> frozenset[int]:
        """Steps, counted from 1, after which the model is looked at; each epoch's end among them.

        Args:
            per_epoch: looks in an epoch, evenly apart.
            at: shares of the training besides, rounded down to steps from the first on, or ``dense``: after
                1, 2, 4, 8 ... steps.
        """
        within = {math.ceil(self.per_epoch * (k + 1) / per_epoch) for k in range(per_epoch)}
        found = {epoch * self.per_epoch + step for epoch in range(self.epochs) for step in within}
        if at == "dense":
            return frozenset(found | {2**n for n in range(self.steps.bit_length())})
        return frozenset(found | {max(1, math.floor(share * self.steps + 1e-9)) for share in at})

    def batches(self, seed: int, flip: bool, looks: Set[int] | None = None) -> Iterator[Batch]:
        """Yield all steps.

        Args:
            flip: mirror half of the images at random.
            looks: of :meth:`looks`; none: each epoch's end.
        """
        per_epoch, size = self.per_epoch, self.size - self.again
        stops = self.looks() if looks is None else looks
        for epoch in range(1, self.epochs + 1):
            rng = np.random.default_rng([seed, epoch])  # an epoch's order depends on nothing before it
            order = rng.permutation(self.count)
            mirrored = rng.random(self.count) < 0.5 if flip else np.zeros(self.count, bool)
            others, turned = self._replay(seed, epoch, flip)
            for number in range(per_epoch):
                picked = order[number * size : (number + 1) * size]
                again = slice(number * self.again, (number + 1) * self.again)
                step = (epoch - 1) * per_epoch + number
                yield Batch(
                    epoch,
                    step,
                    np.concatenate([picked, others[again]]),
                    np.concatenate([mirrored[picked], turned[again]]),
                    begins_epoch=number == 0,
                    ends_epoch=number + 1 == per_epoch,
                    look=step + 1 in stops,
                )

    def _replay(self, seed: int, epoch: int, flip: bool) -> Part:
        """Replayed images of all steps of an epoch; each comes once before any comes again."""
        wanted = self.per_epoch * self.again
        rng = np.random.default_rng([seed, epoch, _REPLAY])
        rounds = [rng.permutation(self.replayed) for _ in range(math.ceil(wanted / max(self.replayed, 1)))]
        chosen = self.count + np.concatenate([*rounds, np.zeros(0, np.int64)]).astype(np.int64)[:wanted]
        return chosen, rng.random(wanted) < 0.5 if flip else np.zeros(wanted, bool)
