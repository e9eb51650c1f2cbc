"""Pictures with captions in tables of images. Captions stay in the tables until they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipdrift.config.named import DataSet
from clipdrift.data.caption_store import checked, digest, without_caption
from clipdrift.data.captions import as_lines, texts_of
from clipdrift.data.columns import ImageColumns, caption_columns, find_columns, image_rows
from clipdrift.data.errors import DataError
from clipdrift.data.images import ImageSet, Picture, TableRows, content_of_each
from clipdrift.data.metadata import SPLIT_COLUMNS
from clipdrift.data.pair_source import PairKind, PairSource
from clipdrift.data.parts import ANY, TEST, TRAIN, part_of

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 1000
"""Rows of captions in memory at once."""


@dataclass(frozen=True, eq=False)
class CaptionTable:
    """The columns of captions of one table, read as Arrow; cells as :func:`texts_of` takes them."""

    table: Dataset
    columns: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.table)

    def texts(self, rows: list[int]) -> Iterator[tuple[list[str], int]]:
        """Captions of each row, and how many cells of it are no captions."""
        batch = self.table[rows]
        cells = ([as_lines(name, cell) for cell in batch[name].to_pylist()] for name in self.columns)
        yield from map(texts_of, zip(*cells, strict=True))


@dataclass(frozen=True, eq=False)
class TableCaptions:
    """Captions that stay in the tables of their images.

    Attributes:
        tables: One after the other; a row's number counts through all of them.
        rows: int64 ``(n,)``, the row of each image.
        counts: int64 ``(n,)``, captions of each.
    """

    tables: tuple[CaptionTable, ...]
    rows: NDArray[np.int64]
    counts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return (tuple(texts) for texts, _ in self.read())

    def text(self, image: int, number: int) -> str:
        own = self.all(image)
        return own[checked(number, len(own))]

    def all(self, image: int) -> tuple[str, ...]:
        table, row = _located(self.starts, int(self.rows[image]))
        ((texts, _),) = self.tables[table].texts([row])
        return tuple(texts)

    def texts(self, images: NDArray[np.int64], numbers: NDArray[np.int64]) -> list[str]:
        pairs = zip(self.subset(images), numbers.tolist(), strict=True)
        return [own[checked(number, len(own))] for own, number in pairs]

    def subset(self, images: NDArray[np.int64]) -> TableCaptions:
        return TableCaptions(self.tables, self.rows[images], self.counts[images])

    def fingerprint(self) -> str:
        return digest(self)

    def read(self) -> Iterator[tuple[list[str], int]]:
        """Captions of each image in turn, and how many cells of it are no captions."""
        for first in range(0, len(self), _BATCH):
            rows = self.rows[first : first + _BATCH]
            own = np.searchsorted(self.starts, rows, side="right") - 1
            for piece in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(own)) + 1):
                table = int(own[piece[0]])
                yield from self.tables[table].texts((rows[piece] - self.starts[table]).tolist())

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """int64 ``(tables,)``, the first row of each."""
        return _starts(self.tables)


@dataclass(frozen=True, eq=False)
class JoinedRows:
    """Images of several tables, one after the other."""

    stores: tuple[TableRows, ...]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """int64 ``(stores,)``, the first row of each."""
        return _starts(tuple(store.table for store in self.stores))

    def read(self, row: int) -> bytes | Picture:
        store, own = _located(self.starts, row)
        return self.stores[store].read(own)

    def where(self, row: int) -> str:
        store, own = _located(self.starts, row)
        return self.stores[store].where(own)

    def content(self, rows: NDArray[np.int64]) -> Iterator[bytes]:
        return content_of_each(self, rows)


def _starts(tables: tuple[Dataset, ...] | tuple[CaptionTable, ...]) -> NDArray[np.int64]:
    lengths = np.array([len(table) for table in tables], dtype=np.int64)
    return np.cumsum(lengths) - lengths


def _located(starts: NDArray[np.int64], row: int) -> tuple[int, int]:
    """Which table a row is in, and its number there."""
    table = int(np.searchsorted(starts, row, side="right")) - 1
    return table, row - int(starts[table])


def pairs_in_rows(
    tables: Mapping[str, Dataset], spec: DataSet, kind: PairKind, folder: Path | None = None
) -> PairSource:
    """Images with captions in the rows of tables.

    A column ``split`` tells an image's part, else the table's own name does. Splits are in the order of their
    names.

    Args:
        tables: By split, ``""`` for one without.
        spec: The configured data set: names of columns and splits, where they were given.
        kind: Where the tables are from.
        folder: Where paths in the image column start, if they are relative.

    Raises:
        DataError: No column of images or captions is known, or no image has a caption.
    """
    data, notes = spec.name, list[str]()
    stores: list[TableRows] = []
    captions: list[CaptionTable] = []
    parts: list[NDArray[np.int8]] = []
    for split, table in sorted(tables.items()):  # the same order wherever they are from
        where = f"{data} {split}".rstrip()
        image, _, guessed = find_columns(table.features, ImageColumns(spec.image_column, None), data, False)
        columns = caption_columns(table.features, spec.caption_column, image, data)
        store, said = image_rows(table, image, None, where, folder)
        stores.append(store)
        captions.append(CaptionTable(table.select_columns(columns).with_format("arrow"), tuple(columns)))
        parts.append(_parts(table, split, spec, where, notes))
        notes += [note for note in (*guessed, *said) if note not in notes]
    rows = np.arange(sum(map(len, captions)), dtype=np.int64)
    everything = TableCaptions(tuple(captions), rows, np.zeros(len(rows), dtype=np.int64))
    counts, odd = np.zeros(len(rows), dtype=np.int64), 0
    for row, (texts, wrong) in enumerate(everything.read()):
        counts[row] = len(texts)
        odd += wrong
    kept = np.flatnonzero(counts)
    names = ", ".join(dict.fromkeys(repr(column) for one in captions for column in one.columns))
    if len(kept) == 0:
        raise DataError(
            f"{data}: none of {len(rows)} images has a caption in column {names}; set `caption_column`"
        )
    notes.append(f"{data}: captions are read from column {names}")
    if odd:
        notes.append(f"{data}: {odd} cells of column {names} are no captions, left out")
    if len(kept) < len(rows):
        notes.append(without_caption(data, len(rows) - len(kept), len(rows)))
    images = ImageSet(np.zeros(len(kept), dtype=np.int64), kept, JoinedRows(tuple(stores)))
    own = TableCaptions(tuple(captions), kept, counts[kept])
    return PairSource(data, kind, images, own, np.concatenate(parts)[kept], tuple(notes))


def _parts(table: Dataset, split: str, spec: DataSet, where: str, notes: list[str]) -> NDArray[np.int8]:
    """Part of each row: what a column of splits says, or else the split that the table is."""
    usual = {spec.train_split: TRAIN, spec.test_split: TEST}.get(split) if split else ANY
    if usual is None:
        usual = part_of(split)
    if usual is None:
        usual = ANY
        notes.append(f"{where}: no name of a split that is known; divided with the training images")
    parts = np.full(len(table), usual, dtype=np.int8)
    column = next((name for name in table.features if name.lower() in SPLIT_COLUMNS), None)
    if column is None or getattr(table.features[column], "dtype", None) not in ("string", "large_string"):
        return parts
    known: dict[str | None, int | None] = {}
    row = 0
    for batch in table.select_columns([column]).with_format("arrow").iter(_BATCH):
        for name in batch[column].to_pylist():
            if name not in known:
                known[name] = part_of(name or "")
            part = known[name]
            parts[row] = usual if part is None else part
            row += 1
    if any(part is not None for part in known.values()):
        notes.append(f"{where}: splits are read from column {column!r}")
    return parts
