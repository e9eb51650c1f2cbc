"""A labelled set of images, uniform over files, table rows and arrays. Nothing is decoded here."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipdrift.data.errors import BadImage

if TYPE_CHECKING:
    from datasets import Dataset

LabelArray = NDArray[np.int64]
Picture = NDArray[np.uint8]


class ImageStore(Protocol):
    """Storage of a set's images, addressed by row number."""

    def read(self, row: int) -> bytes | Picture:
        """Encoded bytes, or uint8 ``(H, W, 3)``. Raises :class:`BadImage` if there is nothing to read."""

    def where(self, row: int) -> str:
        """Name the image for an error message."""

    def content(self, rows: NDArray[np.int64]) -> Iterator[bytes]:
        """Identify these images, in this order; the same on every machine."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their labels.

    Attributes:
        labels: int64 ``(n,)``, positions in the source's class names.
        rows: int64 ``(n,)``, where each image lies in the store.
        store: The images.
    """

    labels: LabelArray
    rows: NDArray[np.int64]
    store: ImageStore

    def __post_init__(self) -> None:
        if self.labels.shape != self.rows.shape or self.labels.ndim != 1:
            raise ValueError(
                f"labels {self.labels.shape} and rows {self.rows.shape} must be equally long lists"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes | Picture:
        """Encoded bytes, or uint8 ``(H, W, 3)``. Raises :class:`BadImage` if there is nothing to read."""
        return self.store.read(int(self.rows[index]))

    def where(self, index: int) -> str:
        """A file's path, or as in ``cifar100 train row 17``."""
        return self.store.where(int(self.rows[index]))

    def subset(self, indices: ArrayLike) -> ImageSet:
        """The images at ``indices``, in that order."""
        picked = np.asarray(indices, dtype=np.int64)
        return ImageSet(self.labels[picked], self.rows[picked], self.store)

    def fingerprint(self) -> str:
        """64 hex digits over content, labels and order.

        It does not depend on file names or places, so that a copy elsewhere is known for the same.
        """
        digest = hashlib.sha256(np.ascontiguousarray(self.labels, dtype="<i8").tobytes())
        for part in self.store.content(self.rows):
            # The length keeps two images from reading the same as one.
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        return digest.hexdigest()


def shown(path: str | Path) -> str:
    """A path or name as it can be printed: bytes that are not UTF-8 stand as ``\\xe9``."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def image_set(labels: ArrayLike, store: ImageStore) -> ImageSet:
    """Make the set of all images of a store, in its own order."""
    array = np.asarray(labels, dtype=np.int64)
    return ImageSet(array, np.arange(len(array), dtype=np.int64), store)


def content_of_each(store: ImageStore, rows: NDArray[np.int64]) -> Iterator[bytes]:
    """What a store holds of each row, for stores that are known by nothing else."""
    for row in rows:
        try:
            data = store.read(int(row))
        except BadImage:
            data = b"unreadable"  # decoding reports it by name; a hash is no place to fail
        yield data if isinstance(data, bytes) else data.tobytes()


def content_of(path: Path) -> bytes:
    """An image file's bytes. Raises :class:`BadImage`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadImage(shown(path), f"cannot be read ({error.strerror or error})") from error


@dataclass(frozen=True, eq=False)
class Files:
    """Image files."""

    paths: tuple[Path, ...]

    def read(self, row: int) -> bytes:
        return content_of(self.paths[row])

    def where(self, row: int) -> str:
        return shown(self.paths[row])

    def content(self, rows: NDArray[np.int64]) -> Iterator[bytes]:
        return content_of_each(self, rows)


@dataclass(frozen=True, eq=False)
class TableRows:
    """Rows of one split, its image column cast so that it gives encoded bytes."""

    table: Dataset
    column: str
    name: str
    """As in ``cifar100 train``."""
    folder: Path | None = None
    """Where relative paths in the column start."""
    encoded: bool = False
    """Whether the column holds base64 text."""
    captions: str | None = None
    """A column of captions beside the images."""

    def read(self, row: int) -> bytes:
        cell: Any = self.table[row][self.column]
        if cell is None or cell == "":
            raise BadImage(self.where(row), "the cell is empty")
        if self.encoded:
            return self._decoded(cell, row)
        if cell["bytes"] is not None:
            data: bytes = cell["bytes"]
            return data
        # Sets kept as loose image files carry a path instead of bytes.
        if cell["path"] is None:
            raise BadImage(self.where(row), "the cell has neither bytes nor a path")
        path = Path(cell["path"])
        if self.folder is not None and not path.is_absolute() and (self.folder / path).exists():
            path = self.folder / path
        try:
            return path.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadImage(
                self.where(row), f"{shown(path)[:120]} cannot be read ({reason!s:.120})"
            ) from error

    def texts(self, row: int) -> Any:
        """The cell of captions in a row; ``None`` without a column of them."""
        return None if self.captions is None else self._texts[row][self.captions]

    @cached_property
    def _texts(self) -> Dataset:
        """The captions alone, so that no image is read for them."""
        return self.table.select_columns([self.captions])

    def linked(self) -> set[Path]:
        """Files that the column names instead of holding their bytes, as far as they are below ``folder``."""
        if self.folder is None or self.encoded:
            return set()
        from pyarrow import compute

        cells = self.table.with_format("arrow")[:][self.column]  # the bytes stay where they are
        alone = compute.is_null(compute.struct_field(cells, "bytes"))
        paths = compute.struct_field(cells, "path").filter(alone).to_pylist()
        return {self.folder / path for path in paths if path}

    def _decoded(self, cell: str, row: int) -> bytes:
        text = cell.split(",", 1)[1] if cell.startswith("data:") else cell
        try:
            return base64.b64decode("".join(text.split()).replace("-", "+").replace("_", "/"), validate=True)
        except ValueError as error:
            raise BadImage(self.where(row), f"not base64 text ({error})") from error

    def where(self, row: int) -> str:
        return f"{self.name} row {row}"

    def content(self, rows: NDArray[np.int64]) -> Iterator[bytes]:
        return content_of_each(self, rows)


@dataclass(frozen=True, eq=False)
class DrawnImages:
    """Generated images. Their recipe identifies them, so they are drawn only when one is looked at: where
    the decoded pixels are cached already, never."""

    draw: Callable[[], Picture]
    """Gives all of them, uint8 ``(n, H, W, 3)``."""
    recipe: Mapping[str, int | str]
    name: str

    @cached_property
    def images(self) -> Picture:
        return self.draw()

    def read(self, row: int) -> Picture:
        picture: Picture = self.images[row]
        return picture

    def where(self, row: int) -> str:
        return f"{self.name} image {row}"

    def content(self, rows: NDArray[np.int64]) -> Iterator[bytes]:
        yield json.dumps(dict(self.recipe), sort_keys=True).encode()
        yield np.ascontiguousarray(rows, dtype="<i8").tobytes()
