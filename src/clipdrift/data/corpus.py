"""Captioned images to pretrain on: any batch follows from its step alone, so a run can start anywhere."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from clipdrift.data.worlds import objects

_TOKENIZER, _EVALUATION, _TRAINING = 11, 13, 7  # purposes of random streams
_TOKENIZER_TEXTS = 20_000


@dataclass(frozen=True, eq=False)
class CaptionedBatch:
    """``pixels`` uint8 (n, S, S, 3), ``texts`` m captions, ``positives`` bool (n, m): does caption j hold
    for image i? At least one in each row and column."""

    pixels: NDArray[np.uint8]
    texts: list[str]
    positives: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Images with class names, to see zero-shot accuracy as pretraining goes. ``groups`` names subsets of
    the classes that are reported on their own."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    prompt: str
    groups: dict[str, NDArray[np.int64]]


class Corpus(Protocol):
    """A source of captioned images."""

    def texts(self) -> list[str]:
        """Captions to train the tokenizer on."""

    def batch(self, step: int, part: int, n: int) -> CaptionedBatch:
        """Part ``part`` of the batch of step ``step``; the same whenever and wherever it is asked for."""

    def held_out(self) -> HeldOut:
        """Images never trained on."""


@dataclass(frozen=True)
class ObjectsCorpus:
    """The world ``objects`` without its unseen shape-colour pairs."""

    seed: int
    size: int

    def texts(self) -> list[str]:
        rng = np.random.default_rng([self.seed, _TOKENIZER])
        scenes = objects.sample(rng, rng.choice(objects.SEEN, _TOKENIZER_TEXTS))
        return objects.captions(rng, scenes)[0]

    def batch(self, step: int, part: int, n: int) -> CaptionedBatch:
        rng = np.random.default_rng([self.seed, _TRAINING, step, part])
        scenes = objects.sample(rng, rng.choice(objects.SEEN, n))
        texts, said = objects.captions(rng, scenes)
        return CaptionedBatch(objects.render(rng, scenes, self.size), texts, objects.matches(scenes, said))

    def held_out(self, per_class: int = 10) -> HeldOut:
        rng = np.random.default_rng([self.seed, _EVALUATION])
        labels = np.arange(100 * per_class) % 100
        pixels = objects.render(rng, objects.sample(rng, labels, single=True), self.size)
        return HeldOut(pixels, labels, objects.PAIRS, objects.PROMPT, {"never-seen pairs": objects.UNSEEN})


class DrawnAhead:
    """Parts of the batches of some steps, drawn a little before they are wanted. A context manager.

    Args:
        corpus: what to draw from.
        parts: which parts of every step.
        size: images of a part.
        steps: the steps, in order.
        loaders: processes that draw; 0: one thread.
    """

    def __init__(self, corpus: Corpus, parts: range, size: int, steps: range, loaders: int = 0) -> None:
        self._corpus, self._parts, self._size, self._steps = corpus, parts, size, steps
        context = multiprocessing.get_context("spawn")
        self._pool: Executor = ProcessPoolExecutor(loaders, context) if loaders else ThreadPoolExecutor(1)
        self._ahead = 1 + loaders
        self._waiting: dict[int, list[Future[CaptionedBatch]]] = {}
        for step in steps[: self._ahead]:
            self._ask(step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _ask(self, step: int) -> None:
        if step in self._steps:
            drawn = (self._pool.submit(self._corpus.batch, step, part, self._size) for part in self._parts)
            self._waiting[step] = list(drawn)

    def parts(self, step: int) -> Iterator[CaptionedBatch]:
        """The parts of ``step``; steps must be asked for in order."""
        self._ask(step + self._ahead)
        for future in self._waiting.pop(step):
            yield future.result()
