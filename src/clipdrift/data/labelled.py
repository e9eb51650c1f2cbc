"""Labelled images as captioned ones: class names through many templates, images changed at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipdrift.config import PretrainConfig
from clipdrift.data.augment import Augment
from clipdrift.data.catalog import CATALOG
from clipdrift.data.corpus import CaptionedBatch, HeldOut
from clipdrift.data.errors import DataError
from clipdrift.data.pixels import load_pixels
from clipdrift.data.preprocess import Preprocess
from clipdrift.data.sources import open_source
from clipdrift.data.splits import balanced

_ORDER, _CAPTIONS, _IMAGES = 17, 19, 23  # purposes of random streams

CAPTIONS = (
    "a photo of a {}",
    "a photo of the {}",
    "a photo of one {}",
    "a picture of a {}",
    "an image of a {}",
    "a {} in a photo",
    "this is a {}",
    "a {}",
    "{}",
)
"""Templates for any class name, beside those that a data set brings."""

BROADER_CAPTIONS = (
    "a photo of a {}, a kind of {}",
    "a photo of a {}, a type of {}",
    "a {}, which is a kind of {}",
)
"""Templates for a class name and a broader term for it."""


@dataclass(frozen=True, eq=False)
class LabelledCorpus:
    """Images whose captions are made from their class names.

    Every image is shown once before any is shown again. A batch has one caption for each class that occurs
    in it, and it holds for all images of the class.

    Attributes:
        pixels: The training images, uint8 ``(n, S, S, 3)``, memory-mapped.
        labels: int64 ``(n,)``, positions in ``classes``.
        held: Positions of images that are tested on and not trained on.
        left_out: Positions of images that are neither, where fewer of each class were asked for.
        classes: Readable names.
        prompts: Templates with one ``{}``, the first for zero-shot.
        broader: A broader term for each class that has one.
        augment: How images are changed.
        batch_size: Images of a whole step.
        seed: Of all that is drawn.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    held: NDArray[np.int64]
    left_out: NDArray[np.int64]
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    broader: Mapping[str, str]
    augment: Augment
    batch_size: int
    seed: int

    def texts(self) -> list[str]:
        """Every caption that can be made."""
        return [text for name in self.classes for text in self._captions(name)]

    def batch(self, step: int, part: int, n: int) -> CaptionedBatch:
        """Part ``part`` of the batch of step ``step``: n images, one caption for each of their classes."""
        chosen = self._drawn(step * self.batch_size + part * n, n)
        shown, which = np.unique(self.labels[chosen], return_inverse=True)
        rng = np.random.default_rng([self.seed, _CAPTIONS, step, part])
        possible = [self._captions(self.classes[label]) for label in shown]
        texts = [captions[rng.integers(len(captions))] for captions in possible]
        rng = np.random.default_rng([self.seed, _IMAGES, step, part])
        images = self.augment.apply(np.ascontiguousarray(self.pixels[chosen]), rng)
        return CaptionedBatch(images, texts, which[:, None] == np.arange(len(shown)))

    def held_out(self) -> HeldOut:
        """The images that are tested on, as they are."""
        pixels = np.ascontiguousarray(self.pixels[self.held])
        return HeldOut(pixels, self.labels[self.held], self.classes, self.prompts[0], {})

    def _captions(self, name: str) -> list[str]:
        plain = [t.format(name) for t in dict.fromkeys((*self.prompts, *CAPTIONS))]
        if name not in self.broader:
            return plain
        return plain + [t.format(name, self.broader[name]) for t in BROADER_CAPTIONS]

    def _drawn(self, start: int, n: int) -> NDArray[np.int64]:
        """Positions of the images number ``start`` to ``start + n`` of an endless, shuffled sequence."""
        without = np.concatenate([self.held, self.left_out])
        count = len(self.pixels) - len(without)
        places = np.arange(start, start + n)
        chosen = np.empty(n, np.int64)
        for epoch in np.unique(places // count):
            now = places // count == epoch
            order = _order(self.seed, int(epoch), len(self.pixels), without.tobytes())
            chosen[now] = order[places[now] % count]
        return chosen

    def __getstate__(self) -> dict[str, Any]:
        """Hand other processes the place of the pixels, not the pixels."""
        state = dict(self.__dict__)
        if isinstance(self.pixels, np.memmap) and self.pixels.filename:
            state["pixels"] = Path(self.pixels.filename)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["pixels"], Path):
            state["pixels"] = np.load(state["pixels"], mmap_mode="r")
        self.__dict__.update(state)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int, without: bytes) -> NDArray[np.int64]:
    free = np.setdiff1d(np.arange(count, dtype=np.int64), np.frombuffer(without, np.int64))
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(free)


def open_labelled(
    config: PretrainConfig,
    preprocess: Preprocess,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> LabelledCorpus:
    """The training images of a data set, decoded.

    Args:
        config: What to open, how much is held out, how images are changed.
        preprocess: Of the model to be made.
        cache: Where decoded images are kept.
        progress: Called with images done and images in all while decoding.
        warn: Told of what was guessed or left out, and of a cached file that was damaged.

    Raises:
        DataError: The data cannot be opened, or a class has too few images, `data.per_class` of them where
            that is given.
    """
    wanted = config.data.per_class
    source = open_source(config.data, image_size=config.image_size, train_per_class=wanted, parts=("train",))
    if source.train is None:
        raise DataError(f"{source.name}: no training images")
    for note in source.notes:
        warn(note)
    pixels = load_pixels(source.train, preprocess, cache / "pixels", progress=progress, warn=warn)
    labels = pixels.labels
    taken = np.arange(len(labels))
    if wanted is not None:
        taken = balanced(labels, wanted, config.seed, classes=source.classes)
    for name, count in zip(source.classes, np.bincount(labels[taken]).tolist(), strict=True):
        if count <= config.held_out_per_class:
            raise DataError(
                f"class {name!r} of {source.name} has {count} training images, of which "
                f"{config.held_out_per_class} are held out and none is left; lower `held_out_per_class`"
            )
    held = taken[balanced(labels[taken], config.held_out_per_class, config.seed, classes=source.classes)]
    left_out = np.setdiff1d(np.arange(len(labels)), taken)
    row = CATALOG.get(source.name)
    augment = Augment(config.crop, config.flip, config.colour)
    return LabelledCorpus(
        pixels.data,
        labels,
        held,
        left_out,
        source.classes,
        source.prompts,
        dict(row.broader) if row else {},
        augment,
        config.batch_size,
        config.seed,
    )
