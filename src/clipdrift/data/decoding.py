"""Decode a whole set into one array file."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipdrift.data.decode import decode
from clipdrift.data.errors import BadImage, DataError
from clipdrift.data.images import ImageSet
from clipdrift.data.preprocess import Preprocess

DIGEST = 16
"""Hex digits of a picture's digest."""

_BLOCK = 64
"""Images between two calls of ``progress``; with several workers, also the most that wait in memory."""


def write_decoded(
    file: Any,
    images: ImageSet,
    preprocess: Preprocess,
    bad: dict[int, str] | None,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[tuple[int, ...], int, str]:
    """Writes all pictures as one .npy file, image by image, so that memory holds a block at most.

    Args:
        file: Open for reading and writing bytes, at its beginning.
        images, preprocess, workers, progress: As for ``load_pixels``.
        bad: Filled with the reasons of unreadable images, by position; ``None``: stop at the first.

    Returns:
        The array's shape ``(n, H, W, 3)``, the CRC-32 of its content, and each picture's digest.

    Raises:
        BadImage: The first unreadable image, if ``bad`` is ``None``.
        DataError: A class of which nothing is left, or images of different sizes.
    """
    shape: tuple[int, ...] | None = None
    digests = []
    written = crc = start = 0
    for index, picture in enumerate(_decoded(images, preprocess, workers)):
        if isinstance(picture, BadImage):
            if bad is None:
                raise refused(picture, 1)
            bad[index] = picture.reason
        else:
            if shape is None:
                shape = picture.shape
                _header(file, (len(images), *shape))
                start = file.tell()
            if picture.shape != shape:
                height, width = picture.shape[:2]
                raise DataError(
                    f"{images.where(index)}: {width}x{height} pixels after preprocessing, "
                    f"others {shape[1]}x{shape[0]}; the model's preprocessor must crop, or resize to a fixed "
                    "height and width"
                )
            content = picture.tobytes()
            file.write(content)
            crc = zlib.crc32(content, crc)
            digests.append(digest_of(content))
            written += 1
        if progress is not None and ((index + 1) % _BLOCK == 0 or index + 1 == len(images)):
            progress(index + 1, len(images))
    _all_classes_left(images, bad or {})
    if shape is None:
        raise DataError("no images to decode")
    if written != len(images):
        file.seek(0)
        _header(file, (written, *shape))
        if file.tell() != start:
            raise RuntimeError("numpy changed the length of a header that it pads to be rewritten")
    return (written, *shape), crc, "".join(digests)


def digest_of(content: bytes) -> str:
    """16 hex digits of a picture's bytes; among a million pictures two agree by chance in 3e-8 of cases."""
    return hashlib.blake2b(content, digest_size=DIGEST // 2).hexdigest()


def _decoded(
    images: ImageSet, preprocess: Preprocess, workers: int
) -> Iterator[NDArray[np.uint8] | BadImage]:
    def one(job: tuple[bytes | NDArray[np.uint8] | BadImage, str]) -> NDArray[np.uint8] | BadImage:
        data, where = job
        if isinstance(data, BadImage):
            return data
        try:
            return preprocess.apply(decode(data, where))
        except BadImage as error:
            return error

    def jobs(block: range) -> Iterator[tuple[bytes | NDArray[np.uint8] | BadImage, str]]:
        # Reading stays in this thread: tables are not promised to be safe in several.
        for index in block:
            try:
                yield images.read(index), images.where(index)
            except BadImage as error:
                yield error, error.where

    blocks = (range(first, min(first + _BLOCK, len(images))) for first in range(0, len(images), _BLOCK))
    if workers == 0:
        for block in blocks:
            yield from map(one, jobs(block))
        return
    # Threads suffice, as Pillow lets go of the interpreter while it decodes and resizes.
    with ThreadPoolExecutor(workers) as pool:
        for block in blocks:
            yield from pool.map(one, jobs(block))


def _header(file: Any, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def refused(error: BadImage, known: int) -> BadImage:
    """Make the error with advice; ``known``: how many such images there are, as far as is known."""
    more = f" (one of {known})" if known > 1 else ""
    return BadImage(
        error.where, f"{error.reason}{more}; repair or remove it, or leave such out: --skip-bad-images"
    )


def _all_classes_left(images: ImageSet, bad: dict[int, str]) -> None:
    left = np.delete(images.labels, list(bad))
    for label in np.unique(images.labels):
        if label not in left:
            index = int(np.flatnonzero(images.labels == label)[0])
            raise DataError(
                f"{images.where(index)}: {bad[index]}, and so are all {np.sum(images.labels == label)} "
                f"images of its class ({label}); a class without images cannot be used"
            )
