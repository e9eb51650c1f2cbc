"""Make decks of images and sets to be tested on, by one model's preprocessing on one machine."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from clipdrift.config import DataSet
from clipdrift.data.caption_store import CaptionSource
from clipdrift.data.deck import Deck
from clipdrift.data.errors import DataError
from clipdrift.data.images import ImageSet
from clipdrift.data.pixels import Pixels, load_pixels
from clipdrift.data.preprocess import Preprocess
from clipdrift.data.sources import Source
from clipdrift.data.splits import balanced, without
from clipdrift.model.clip import Clip
from clipdrift.model.zero_shot import class_features
from clipdrift.runs.record import DataFacts, ImageCounts
from clipdrift.runs.reporter import Reporter
from clipdrift.shapes import ClassFeatures
from clipdrift.training.backbone_cache import BackboneCache


@dataclass(frozen=True, eq=False)
class TransferSet:
    """A set that is no part of training.

    Attributes:
        features: one text feature per class, where it is tested zero-shot.
        captions: of its images, where it is tested by retrieval.
    """

    deck: Deck
    features: ClassFeatures | None
    facts: DataFacts
    captions: CaptionSource | None = None


@dataclass(frozen=True, eq=False)
class PairInputs:
    """Captions of a target's images, in the order of the decks.

    Attributes:
        train: followed by those of the images that are replayed.
        groups: (n,) equal for identical training images.
        replayed: so many of the training images, the last, are of another set.
    """

    train: CaptionSource
    validation: CaptionSource
    probe: CaptionSource
    test: CaptionSource
    groups: NDArray[np.int64]
    replayed: int = 0


@dataclass(frozen=True, eq=False)
class Target:
    """What is fine-tuned on: decks by purpose, and captions where there are no labels."""

    decks: dict[str, Deck]
    facts: DataFacts
    pairs: PairInputs | None = None


@dataclass(frozen=True, eq=False)
class DeckFactory:
    """Makes decks by one model's preprocessing on one machine; ``seed`` draws parts of sets."""

    preprocess: Preprocess
    cache: Path
    device: torch.device
    reporter: Reporter
    seed: int = 0
    skip_bad: bool = False

    def pixels(self, images: ImageSet, title: str) -> Pixels:
        self.reporter.stage(f"decoding {title}")
        return load_pixels(
            images,
            self.preprocess,
            self.cache / "pixels",
            skip_bad=self.skip_bad,
            progress=self.reporter.advance,
            warn=self.reporter.warn,
        )

    def deck(self, images: ImageSet, title: str) -> tuple[Deck, ImageCounts]:
        return self.deck_of(self.pixels(images, title))

    def deck_of(self, pixels: Pixels) -> tuple[Deck, ImageCounts]:
        deck = Deck.of(pixels, self.preprocess, self.device)
        return deck, ImageCounts(count=len(deck), fingerprint=pixels.fingerprint[:16], bad=pixels.bad)

    def part(self, spec: DataSet, source: Source) -> tuple[Deck, ImageCounts]:
        """Make the deck of a transfer set's test images: all, or those of each class that ``spec`` says."""
        if source.test is None:
            raise DataError(f"{spec.name}: a transfer set needs a test split")
        images = source.test
        if spec.skip_per_class is not None:
            rest = without(images.labels, spec.skip_per_class, self.seed, classes=source.classes)
            images = images.subset(rest)
        if spec.per_class is not None:
            images = images.subset(balanced(images.labels, spec.per_class, self.seed, classes=source.classes))
        return self.deck(images, f"{source.name} test")

    def transfer(
        self, clip: Clip, spec: DataSet, source: Source, ensemble: bool, backbone_cache: BackboneCache
    ) -> TransferSet:
        """A set to be tested zero-shot; its text features are those of the backbone ``shared`` is about."""
        deck, counted = self.part(spec, source)
        prompts = source.prompts if ensemble else source.prompts[:1]
        self.reporter.stage(f"text features of {source.name}")
        found = backbone_cache.tensors(
            "texts",
            [source.classes, prompts],
            lambda: {"features": class_features(clip, source.classes, prompts).cpu()},
        )
        features = found["features"].to(self.device)
        return TransferSet(deck, features, facts_of(source, {"test": counted}, prompts))


def facts_of(
    source: Source, images: dict[str, ImageCounts], prompts: tuple[str, ...] | None = None
) -> DataFacts:
    return DataFacts(
        kind=source.kind,
        classes=source.classes,
        prompts=prompts or source.prompts[:1],
        images=images,
        own_names=source.own_names,
        notes=source.notes,
        passed=tuple(map(astuple, source.passed)),
    )
