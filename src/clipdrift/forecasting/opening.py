"""Open what a forecast is made on: the target with or without labels, transfer sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from clipdrift.comparison.compare import TransferLike, transfer_sets
from clipdrift.comparison.images import ImagesLike, open_images
from clipdrift.config import DataSet
from clipdrift.data.catalog import DEFAULT_PROMPTS
from clipdrift.data.deck import Batches, Deck
from clipdrift.data.errors import DataError
from clipdrift.data.sources import open_source
from clipdrift.forecasting.result import ForecastError, ForecastImages
from clipdrift.training.decks import DeckFactory

LEAST_HELD_OUT = 8
"""Debiased CKA needs four; fewer than eight say nothing."""


@dataclass(frozen=True, eq=False)
class Target:
    """The target as a forecast reads it.

    Attributes:
        images: all of them.
        facts: what they are.
        texts: a prompt for each class; empty where no class is known.
        deck: with labels: the same images.
        stepped, held_out: positions of the images that first steps are taken on, and of all others.
    """

    images: Batches
    facts: ForecastImages
    texts: tuple[str, ...]
    notes: tuple[str, ...]
    deck: Deck | None = None
    stepped: NDArray[np.int64] | None = None
    held_out: NDArray[np.int64] | None = None


def open_target(
    images: ImagesLike,
    labels: bool,
    classes: Sequence[str],
    limit: int,
    seed: int,
    image_size: int,
    factory: DeckFactory,
) -> Target:
    """Open the target.

    Args:
        labels: use the labels: those of class folders, or of a named set. Its training images alone are read.
        classes: class names of images without labels.

    Raises:
        ForecastError: no labels where they are asked for, one class, too few images; in one line.
        DataError: as opening does.
    """
    if not labels:
        return _unlabelled(images, classes, limit, seed, image_size, factory)
    if classes:
        raise ForecastError("class names are those of the labels; give --classes without --labels only")
    if not isinstance(images, str | Path | DataSet):
        raise ForecastError(
            "labels are those of class folders or of a named data set; give images= as a name or a folder"
        )
    (spec,) = transfer_sets(images)
    source = open_source(spec, image_size=image_size)
    given = source.train if source.train is not None else source.test
    if given is None or not len(given):
        raise ForecastError(f"{source.name}: no images to forecast on")
    if len(source.classes) < 2:
        only = f"one class, {source.classes[0]}" if source.classes else "no classes"
        raise ForecastError(
            f"{source.name}: {only}; with labels a forecast needs two classes, as folders CLASS/*.jpg"
        )
    deck, counted = factory.deck(given.subset(spread(given.labels, limit, seed)), source.name)
    stepped, held_out = _halves(deck, source.classes, source.name, seed)
    facts = ForecastImages(
        source=spec.path or spec.name,
        count=len(deck),
        stepped=len(stepped),
        held_out=len(held_out),
        classes=source.classes,
        labelled=True,
        fingerprint=counted.fingerprint,
        bad=counted.bad,
    )
    texts = tuple(source.prompts[0].format(name) for name in source.classes)
    return Target(deck, facts, texts, source.notes, deck, stepped, held_out)


def _unlabelled(
    images: ImagesLike,
    classes: Sequence[str],
    limit: int,
    seed: int,
    image_size: int,
    factory: DeckFactory,
) -> Target:
    if len(classes) == 1 or len(set(classes)) < len(classes):
        raise ForecastError(f"classes {', '.join(classes)}: two different names at least are needed")
    probe = open_images(
        images,
        limit=limit,
        seed=seed,
        preprocess=factory.preprocess,
        image_size=image_size,
        device=factory.device,
        factory=factory,
    )
    found = probe.facts
    facts = ForecastImages(
        source=found.source,
        count=found.count,
        held_out=found.count,
        classes=tuple(classes),
        fingerprint=found.fingerprint,
        bad=found.bad,
    )
    texts = tuple(DEFAULT_PROMPTS[0].format(name) for name in classes)
    return Target(probe.on(factory.device), facts, texts, found.notes)


def open_transfer(
    given: TransferLike | Sequence[TransferLike], limit: int, seed: int, image_size: int, factory: DeckFactory
) -> dict[str, tuple[Deck, tuple[str, ...], tuple[str, ...]]]:
    """Test images of each transfer set, ``limit`` at most: the deck, its class texts, notes."""
    opened = {}
    for spec in transfer_sets(given):
        source = open_source(spec, image_size=image_size, parts=("test",))
        if source.test is None:
            raise DataError(f"{spec.name}: a transfer set needs a test split")
        chosen = source.test.subset(spread(source.test.labels, limit, seed))
        deck, _ = factory.deck(chosen, f"{source.name} test")
        texts = tuple(source.prompts[0].format(name) for name in source.classes)
        opened[spec.name] = (deck, texts, source.notes)
    return opened


def spread(labels: NDArray[np.integer], limit: int, seed: int) -> NDArray[np.int64]:
    """Sorted positions of at most ``limit`` images, as even over classes as they go, drawn by ``seed``."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return cast("NDArray[np.int64]", np.sort(order[np.argsort(_turns(labels[order]), kind="stable")][:limit]))


def _turns(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """(n,) how many images of the same class stand before each."""
    turns = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        turns[own] = np.arange(len(own))
    return turns


def _halves(
    deck: Deck, classes: Sequence[str], name: str, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Halves of every class: positions for the first steps, and those held out."""
    counts = np.bincount(deck.labels, minlength=len(classes))
    if counts.min() < 2:
        short = classes[int(counts.argmin())]
        raise ForecastError(
            f"{name}: class {short} has {counts.min()} of the {len(deck)} images that were read; two of each "
            "class are needed, one for the steps and one held out: raise --limit, or add images"
        )
    order = np.random.default_rng([seed, 1]).permutation(len(deck))
    held = np.zeros(len(deck), bool)
    held[order] = _turns(deck.labels[order]) % 2 == 1
    stepped, held_out = np.flatnonzero(~held), np.flatnonzero(held)
    if len(held_out) < LEAST_HELD_OUT:
        raise ForecastError(
            f"{name}: {len(deck)} images, {len(held_out)} of them held out; a forecast needs "
            f"{LEAST_HELD_OUT} held out and as many for the steps: add images"
        )
    return stepped, held_out
