"""Two sets of images with captions as one, the second after the first; nothing is copied."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from clipdrift.data.caption_store import CaptionSource
from clipdrift.data.deck import Deck, Pictures
from clipdrift.data.images import Picture


@dataclass(frozen=True, eq=False)
class JoinedPictures:
    """Pictures of two arrays, picked by row."""

    first: Pictures
    second: Pictures

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.first) + len(self.second), *self.first.shape[1:]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64]) -> Picture:
        found = np.empty((len(rows), *self.shape[1:]), np.uint8)
        later = rows >= len(self.first)
        found[~later] = self.first[rows[~later]]
        found[later] = self.second[rows[later] - len(self.first)]
        return found


def joined_decks(first: Deck, second: Deck) -> Deck:
    """One deck of both, of the same model and on the same device."""
    pictures = JoinedPictures(first.data, second.data)
    rows = np.concatenate([first.rows, second.rows + len(first.data)])
    labels = np.concatenate([first.labels, second.labels])
    return replace(first, data=pictures, rows=rows, labels=labels)


@dataclass(frozen=True, eq=False)
class JoinedCaptions:
    """Captions of two sets."""

    first: CaptionSource
    second: CaptionSource

    @property
    def counts(self) -> NDArray[np.int64]:
        return np.concatenate([self.first.counts, self.second.counts])

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return chain(self.first, self.second)

    def text(self, image: int, number: int) -> str:
        place, at = self._place(image)
        return place.text(at, number)

    def texts(self, images: NDArray[np.int64], numbers: NDArray[np.int64]) -> list[str]:
        later = images >= len(self.first)
        found = np.empty(len(images), object)
        found[~later] = self.first.texts(images[~later], numbers[~later])
        found[later] = self.second.texts(images[later] - len(self.first), numbers[later])
        return list(found)

    def all(self, image: int) -> tuple[str, ...]:
        place, at = self._place(image)
        return place.all(at)

    def subset(self, images: NDArray[np.int64]) -> CaptionSource:
        raise NotImplementedError("joined captions are trained on, not divided")

    def fingerprint(self) -> str:
        both = self.first.fingerprint() + self.second.fingerprint()
        return hashlib.sha256(both.encode()).hexdigest()

    def _place(self, image: int) -> tuple[CaptionSource, int]:
        count = len(self.first)
        return (self.first, image) if image < count else (self.second, image - count)
