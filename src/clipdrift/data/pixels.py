"""Pixel cache: every image is decoded and resized once, and normalised on the device."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from clipdrift.data.decode import DECODING, decode, to_rgb
from clipdrift.data.decoding import DIGEST, digest_of, refused, write_decoded
from clipdrift.data.errors import BadImage, DataError
from clipdrift.data.images import ImageSet
from clipdrift.data.preprocess import Preprocess
from clipdrift.errors import StorageError
from clipdrift.runs.files import write_atomically, write_text

__all__ = ["BadImage", "Pixels", "Preprocess", "decode", "load_pixels", "normalise", "to_rgb"]

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Pixels:
    """A set's pixels, on disk.

    Attributes:
        data: uint8 ``(n, H, W, 3)``, memory-mapped, read-only.
        labels: int64 ``(n,)``.
        kept: int64 ``(n,)``, position in the image set of each.
        bad: Of each image left out, where it is and why.
        fingerprint: The image set's, as it was when the pixels were looked for.
        digests: uint64 ``(n,)``, a digest of each picture's pixels.
    """

    data: np.memmap[Any, np.dtype[np.uint8]]
    labels: NDArray[np.int64]
    kept: NDArray[np.int64]
    bad: tuple[tuple[str, str], ...]
    fingerprint: str
    digests: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.labels)


def load_pixels(
    images: ImageSet,
    preprocess: Preprocess,
    cache_dir: Path,
    *,
    skip_bad: bool = False,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> Pixels:
    """The set's pixels after resizing and cropping: from the cache, or decoded into it.

    A cached file is named by content, geometry and decoding version, so it serves any run, checkpoint or
    place. Of several processes that want the same, one decodes and the others wait for it. A file that was
    cut off or altered is noticed and made anew.

    Args:
        images: What to decode.
        preprocess: The model's.
        cache_dir: Made if need be.
        skip_bad: Leave unreadable images out and list them, instead of stopping at the first.
        workers: Threads that decode; 0: none beside this one.
        progress: Called with images done and images in all, now and then; not at all if cached.
        warn: Told of a cached file that was damaged.

    Raises:
        BadImage: An unreadable image, unless they are skipped.
        DataError: A class of which nothing is left, images of different sizes, or no room on the disk.
    """
    content = images.fingerprint()
    entry = _Entry(Path(cache_dir), _key(content, preprocess), content)
    pixels = entry.load(images, skip_bad)
    if pixels is not None:
        return pixels
    try:
        entry.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(entry.lock):
            pixels = entry.load(images, skip_bad)  # another process may have made it meanwhile
            if pixels is None:
                if entry.sidecar.exists():  # it said that the file was whole
                    warn(f"{entry.pixels}: damaged; decoded again")
                entry.make(images, preprocess, skip_bad, workers, progress)
                pixels = entry.load(images, skip_bad)
    except (OSError, StorageError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        reason = getattr(cause, "strerror", None) or error
        raise DataError(
            f"{entry.folder}: the pixel cache cannot be written ({reason}); free some space "
            "or choose another cache folder"
        ) from error
    if pixels is None:
        raise DataError(f"{entry.pixels}: unreadable right after it was written; choose another cache folder")
    return pixels


def normalise(batch: torch.Tensor, preprocess: Preprocess, flip: torch.Tensor | None = None) -> torch.Tensor:
    """The model's input from uint8 pixels, on the batch's own device.

    Args:
        batch: uint8 ``(B, H, W, 3)``.
        preprocess: The model's; scale, mean and std are used.
        flip: bool ``(B,)``: which images to mirror left to right.

    Returns:
        float32 ``(B, 3, H, W)``; equal to transformers' rescaling and normalising.
    """
    images = batch.permute(0, 3, 1, 2)
    if flip is not None:
        images = torch.where(flip.view(-1, 1, 1, 1), images.flip(3), images)
    values = images.to(torch.float32, memory_format=torch.contiguous_format)
    if preprocess.scale is not None:
        values = values * preprocess.scale
    if preprocess.mean is not None and preprocess.std is not None:
        mean = torch.tensor(preprocess.mean, device=batch.device).view(1, 3, 1, 1)
        std = torch.tensor(preprocess.std, device=batch.device).view(1, 3, 1, 1)
        values = (values - mean) / std
    return values


def _key(content: str, preprocess: Preprocess) -> str:
    parts = {"content": content, "geometry": preprocess.geometry(), "decoding": DECODING}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


@dataclass(frozen=True)
class _Entry:
    """One file of the cache. Its sidecar is written last and says that it is whole."""

    folder: Path
    key: str
    content: str

    @property
    def pixels(self) -> Path:
        return self.folder / f"{self.key}.npy"

    @property
    def sidecar(self) -> Path:
        return self.folder / f"{self.key}.json"

    @property
    def lock(self) -> Path:
        return self.folder / f"{self.key}.lock"

    def load(self, images: ImageSet, skip_bad: bool) -> Pixels | None:
        """``None`` unless a whole, unaltered file is there. Raises as decoding would if images were bad."""
        try:
            note = json.loads(self.sidecar.read_text(encoding="utf-8"))
            stat = self.pixels.stat()
            data = np.lib.format.open_memmap(self.pixels, mode="r")
            bad = {int(index): str(reason) for index, reason in note["bad"]}
            whole = note["format"] == _FORMAT and list(data.shape) == note["shape"] and data.dtype == np.uint8
            # Anything written to the file changes its time; only then is the whole of it read to make sure.
            same = stat.st_mtime_ns == note["mtime_ns"] or (whole and _checksum(data) == note["crc32"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None
        if not (whole and same and stat.st_size == note["bytes"] and len(data) + len(bad) == len(images)):
            return None
        if bad and not skip_bad:
            index = min(bad)
            raise refused(BadImage(images.where(index), bad[index]), len(bad))
        kept = np.delete(np.arange(len(images), dtype=np.int64), list(bad))
        return Pixels(
            data,
            images.labels[kept],
            kept,
            tuple((images.where(i), bad[i]) for i in sorted(bad)),
            self.content,
            self._digests(note, data),
        )

    def _digests(self, note: dict[str, Any], data: NDArray[np.uint8]) -> NDArray[np.uint64]:
        """Digests of the pictures, taken and noted here where an earlier version has not noted them."""
        if len(note.get("digests", "")) != DIGEST * len(data):
            note = note | {"digests": "".join(digest_of(picture.tobytes()) for picture in data)}
            with suppress(OSError, StorageError):  # a cache that is only read
                write_text(self.sidecar, json.dumps(note))
        return np.frombuffer(bytes.fromhex(note["digests"]), dtype=np.uint64)

    def make(
        self,
        images: ImageSet,
        preprocess: Preprocess,
        skip_bad: bool,
        workers: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Decodes all images into a file of its own, then moves it into place."""
        for left in self.folder.glob(f".{self.key}.*.tmp"):
            left.unlink(missing_ok=True)  # of a process that was killed: whoever has the lock is alone
        bad: dict[int, str] = {}
        made: dict[str, Any] = {}

        def decode_into(file: BinaryIO) -> None:
            made["shape"], made["crc32"], made["digests"] = write_decoded(
                file, images, preprocess, bad if skip_bad else None, workers, progress
            )

        write_atomically(self.pixels, decode_into)
        stat = self.pixels.stat()
        note = {
            "format": _FORMAT,
            "shape": list(made["shape"]),
            "bytes": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "crc32": made["crc32"],
            "bad": sorted(bad.items()),
            "digests": made["digests"],
        }
        write_text(self.sidecar, json.dumps(note))


def _checksum(data: NDArray[np.uint8]) -> int:
    crc = 0
    for image in data:
        crc = zlib.crc32(image, crc)
    return crc
