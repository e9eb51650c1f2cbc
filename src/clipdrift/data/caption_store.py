"""Captions of many images, held as bytes in one buffer instead of as strings."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class CaptionSource(Protocol):
    """Captions by position of an image."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """``(n,)``, captions of each image, all of them at least 1."""

    def __len__(self) -> int:
        """Images."""

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        """The captions of each image in turn, read in larger pieces than one by one."""

    def text(self, image: int, number: int) -> str:
        """Caption ``number`` of an image. Raises IndexError where it has fewer."""

    def all(self, image: int) -> tuple[str, ...]:
        """The captions of an image, in the order of the data."""

    def texts(self, images: NDArray[np.int64], numbers: NDArray[np.int64]) -> list[str]:
        """Caption ``numbers[i]`` of ``images[i]``, all read together; both ``(m,)``. Raises IndexError."""

    def subset(self, images: NDArray[np.int64]) -> CaptionSource:
        """The captions of the images at these positions, in that order."""

    def fingerprint(self) -> str:
        """64 hex digits over texts and order, whatever the data are kept in."""


def digest(captions: CaptionSource) -> str:
    """64 hex digits over the texts of all images and their order."""
    texts = hashlib.sha256()
    lengths = array("q")
    for own in captions:
        for text in own:
            raw = as_bytes(text)
            lengths.append(len(raw))
            texts.update(raw)
    # With both lists of lengths no two divisions of the same letters read the same.
    whole = hashlib.sha256(np.ascontiguousarray(captions.counts, dtype="<i8").tobytes())
    whole.update(np.asarray(lengths, dtype="<i8").tobytes())
    whole.update(texts.digest())
    return whole.hexdigest()


def as_bytes(text: str) -> bytes:
    """UTF-8; half a surrogate pair, which has none, becomes a question mark."""
    return text.encode("utf-8", "replace")


@dataclass(frozen=True, eq=False)
class PackedCaptions:
    """Captions in memory: their bytes one after the other, and where each begins.

    Attributes:
        buffer: UTF-8 of all texts.
        begins, lengths: int64 ``(t,)``, of each text in bytes, those of one image beside each other.
        first: int64 ``(n,)``, each image's first text.
        counts: int64 ``(n,)``, how many it has.
    """

    buffer: bytes | bytearray
    begins: NDArray[np.int64]
    lengths: NDArray[np.int64]
    first: NDArray[np.int64]
    counts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.counts)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return map(self.all, range(len(self)))

    def text(self, image: int, number: int) -> str:
        return self._text(int(self.first[image]) + checked(number, int(self.counts[image])))

    def all(self, image: int) -> tuple[str, ...]:
        first = int(self.first[image])
        return tuple(self._text(at) for at in range(first, first + int(self.counts[image])))

    def texts(self, images: NDArray[np.int64], numbers: NDArray[np.int64]) -> list[str]:
        return [self.text(*pair) for pair in zip(images.tolist(), numbers.tolist(), strict=True)]

    def subset(self, images: NDArray[np.int64]) -> PackedCaptions:
        return PackedCaptions(self.buffer, self.begins, self.lengths, self.first[images], self.counts[images])

    def fingerprint(self) -> str:
        return digest(self)

    def _text(self, at: int) -> str:
        begin = int(self.begins[at])
        return self.buffer[begin : begin + int(self.lengths[at])].decode()


def checked(number: int, count: int) -> int:
    """The number of a caption of an image that has ``count``. Raises IndexError where there is none."""
    if not 0 <= number < count:
        raise IndexError(f"an image with {count} captions has no caption number {number}")
    return number


class CaptionPacker:
    """Collects captions in any order of their images."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._lengths = array("q")
        self._images = array("q")

    def add(self, image: int, texts: Iterable[str]) -> None:
        """Append captions of the image at this position."""
        for text in texts:
            raw = as_bytes(text)
            self._buffer += raw
            self._lengths.append(len(raw))
            self._images.append(image)

    def packed(self) -> tuple[NDArray[np.int64], PackedCaptions]:
        """Positions of the images that have captions, sorted, and these captions."""
        images, lengths = (np.asarray(one, dtype=np.int64) for one in (self._images, self._lengths))
        order = np.argsort(images, kind="stable")
        positions, first, counts = np.unique(images[order], return_index=True, return_counts=True)
        begins = np.cumsum(lengths) - lengths
        return positions, PackedCaptions(self._buffer, begins[order], lengths[order], first, counts)


def without_caption(data: str, count: int, of: int) -> str:
    """The note of images that have no caption."""
    return f"{data}: {count} of {of} images have no caption, left out"


def count_too_long(
    captions: CaptionSource,
    count_tokens: Callable[[list[str]], list[int]],
    most: int,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """How many captions have more than ``most`` tokens.

    Args:
        captions: All of them are counted.
        count_tokens: Tokens of each of some texts, with those that mark beginning and end.
        most: Tokens that the model reads.
        progress: Called with captions done and captions in all, now and then.
    """
    texts = (text for own in captions for text in own)
    total, done, found = int(captions.counts.sum()), 0, 0
    while batch := list(islice(texts, 1000)):
        found += sum(count > most for count in count_tokens(batch))
        done += len(batch)
        if progress is not None:
            progress(done, total)
    return found
