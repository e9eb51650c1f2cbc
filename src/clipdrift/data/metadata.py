"""Tables that lie beside images and say something of each: labels, captions, splits.

Read are comma-, semicolon-, tab- and bar-separated text, JSON lines and parquet. Lines of JSON end at the
newline character alone, since captions may hold any of Unicode's other separators.
"""

from __future__ import annotations

import codecs
import csv
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

from clipdrift.data.errors import DataError
from clipdrift.data.images import shown
from clipdrift.errors import one_line

FILE_COLUMNS = (
    "file_name", "filename", "file_names", "file", "files", "image_name", "image_path", "image_file",
    "filepath", "filepaths", "file_path", "path", "image", "images", "img", "image_id", "imageid", "img_name",
    "id", "name",
)  # fmt: skip
"""Columns that can hold the name of an image's file, the likeliest first."""

CAPTION_COLUMNS = (
    "text", "texts", "caption", "captions", "sentence", "sentences", "comment", "description", "raw", "title",
)  # fmt: skip
"""Columns that can hold captions, the likeliest first."""

SPLIT_COLUMNS = ("split", "subset", "partition", "set", "data_set", "dataset", "fold")
"""Columns that can name the part of the data to which an image belongs."""

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet", "metadata.tsv")
"""As in Hugging Face's image folders."""

_ENDINGS = frozenset((".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet"))
_SEPARATORS = (",", ";", "\t", "|")
_BATCH = 10_000
"""Rows of parquet in memory at once."""
_SEVERAL = -1


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of a table, read whole.

    Attributes:
        file: Where it lies.
        columns: In the order of the file.
        rows: Values by column; texts as they are, other types only from JSON lines and parquet.
        notes: What was guessed or left out while reading.
    """

    file: Path
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()

    def column(self, names: Sequence[str]) -> str | None:
        """The first of ``names`` that is a column, whatever its case."""
        return _column(self.columns, names)


@dataclass(frozen=True, eq=False)
class TableReader:
    """Rows of a table, one at a time, so that a table of millions takes no memory.

    Attributes:
        file: Where it lies.
        columns: In the order of the file.
        read: Gives the rows, from the first on at every call, and appends to a list what was left out.
        guessed: What was guessed to open it.
    """

    file: Path
    columns: tuple[str, ...]
    read: Callable[[list[str]], Iterator[Mapping[str, Any]]]
    guessed: tuple[str, ...] = ()

    def column(self, names: Sequence[str]) -> str | None:
        """The first of ``names`` that is a column, whatever its case."""
        return _column(self.columns, names)

    def rows(self, notes: list[str]) -> Iterator[Mapping[str, Any]]:
        """Values by column, as in :class:`Table`; ``notes`` are complete after the last row.

        Raises:
            DataError: A row that cannot be read.
        """
        notes += self.guessed
        with _unreadable(self.file):
            yield from self.read(notes)


def _column(columns: Sequence[str], names: Sequence[str]) -> str | None:
    own = {column.strip().lower().replace(" ", "_"): column for column in reversed(columns)}
    return next((own[name] for name in names if name in own), None)


def read_table(file: Path) -> Table:
    """Read a table.

    Raises:
        DataError: Not readable, or not of the kind that its ending says.
    """
    reader = open_table(file)
    notes: list[str] = []
    return Table(file, reader.columns, tuple(reader.rows(notes)), tuple(notes))


def open_table(file: Path) -> TableReader:
    """Find out the columns of a table and how its rows are read.

    Raises:
        DataError: Not readable, or not of the kind that its ending says.
    """
    with _unreadable(file):
        if file.suffix.lower() == ".parquet":
            return _parquet(file)
        encoding, guessed = _encoding(file)
        if file.suffix.lower() in (".jsonl", ".ndjson"):
            return _json_lines(file, encoding, guessed)
        return _separated(file, encoding, guessed)


@contextmanager
def _unreadable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{shown(file)}: cannot be read ({error.strerror or error})") from None


def is_table(file: Path) -> bool:
    """Whether :func:`read_table` reads files of this ending."""
    return file.suffix.lower() in _ENDINGS


def _encoding(file: Path) -> tuple[str, tuple[str, ...]]:
    """How a file's text is encoded, and what was guessed of it."""
    with file.open("rb") as stream:
        marked = stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if marked:
        if not _decodes(file, "utf-16"):
            raise DataError(f"{shown(file)}: begins as UTF-16 and is not; save it as UTF-8")
        return "utf-16", ()
    if _decodes(file, "utf-8-sig"):
        return "utf-8-sig", ()
    with file.open("rb") as stream:
        if any(b"\0" in piece for piece in _pieces(stream)):
            raise DataError(f"{shown(file)}: not a text file; save it as UTF-8")
    return "cp1252", (f"{shown(file)} is not UTF-8; read as Windows-1252",)


def _decodes(file: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    with file.open("rb") as stream:
        try:
            for piece in _pieces(stream):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: stream.read(1 << 20), b"")


def _parquet(file: Path) -> TableReader:
    import pyarrow.parquet
    from pyarrow import ArrowException

    def failed(error: Exception) -> DataError:
        return DataError(f"{shown(file)}: cannot be read as parquet ({one_line(error)})")

    try:
        columns = tuple(pyarrow.parquet.read_schema(file).names)
    except (ArrowException, ValueError) as error:
        raise failed(error) from None

    def read(notes: list[str]) -> Iterator[Mapping[str, Any]]:
        try:
            with pyarrow.parquet.ParquetFile(file) as opened:
                for batch in opened.iter_batches(batch_size=_BATCH):
                    yield from batch.to_pylist()
        except (ArrowException, ValueError) as error:
            raise failed(error) from None

    return TableReader(file, columns, read)


def _json_lines(file: Path, encoding: str, guessed: tuple[str, ...]) -> TableReader:
    def read(notes: list[str]) -> Iterator[Mapping[str, Any]]:
        with file.open(encoding=encoding, errors="replace", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise DataError(f"{shown(file)} line {number}: not JSON ({one_line(error)})") from None
                if not isinstance(row, dict):
                    raise DataError(
                        f"{shown(file)} line {number}: not an object in braces, one for each image"
                    )
                yield row

    columns: dict[str, None] = {}
    for row in read([]):
        columns.update(dict.fromkeys(row))
    return TableReader(file, tuple(columns), read, guessed)


def _separated(file: Path, encoding: str, guessed: tuple[str, ...]) -> TableReader:
    with file.open(encoding=encoding, errors="replace", newline="\n") as lines:
        header = lines.readline()
    separator = max(_SEPARATORS, key=header.count)
    # A bar separates tables that know no quotes; in them a quotation mark is a character like any other.
    quoting: Literal[0, 3] = csv.QUOTE_NONE if separator == "|" else csv.QUOTE_MINIMAL

    def cells() -> Iterator[list[str]]:
        with file.open(encoding=encoding, errors="replace", newline="") as lines:
            reader = csv.reader(lines, delimiter=separator, quoting=quoting)
            try:
                yield from reader
            except csv.Error as error:
                raise DataError(f"{shown(file)} line {reader.line_num}: {one_line(error)}") from None

    columns = tuple(name.strip() for name in next(cells(), []))
    if len(columns) < 2:
        raise DataError(
            f"{shown(file)}: one column only; its first line must name the columns, as file_name,label"
        )

    def read(notes: list[str]) -> Iterator[Mapping[str, Any]]:
        odd = 0
        for row in islice(cells(), 1, None):
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(columns):
                odd += 1
                continue
            yield dict(zip(columns, (cell.strip() for cell in row), strict=True))
        if odd:
            notes.append(
                f"{shown(file)}: {odd} lines with another number of columns than {len(columns)}, left out"
            )

    return TableReader(file, columns, read, guessed)


class Finder:
    """Finds the image that a table's cell names, among images that were listed.

    A name is taken relative to the table's folder, with ``/`` or ``\\`` and with or without its ending; where
    nothing is there, by the file's own name alone, if only one image below the folder has it. Names that
    differ in their Unicode form alone are the same.
    """

    def __init__(self, folder: Path, images: Sequence[Path]) -> None:
        self._paths: dict[str, int] = {}
        self._names: dict[str, int] = {}
        # Texts, because working with paths takes ten times as long and there may be millions.
        start = "" if folder == Path() else f"{folder.as_posix().rstrip('/')}/"
        for index, path in enumerate(images):
            whole, ending = path.as_posix(), path.suffix
            if not whole.startswith(start):
                continue
            relative = whole[len(start) :]
            for key in (relative, relative.removesuffix(ending), whole):
                self._paths.setdefault(key, index)
                if not key.isascii():
                    self._paths.setdefault(_composed(key), index)
            name = _composed(path.name)
            for key in {name, name.removesuffix(ending)}:
                self._names[key] = index if key not in self._names else _SEVERAL

    def __call__(self, cell: object) -> int | None:
        """Position of the image, or ``None``."""
        text = as_path(cell)
        for key in (text, _composed(text)):
            if key in self._paths:
                return self._paths[key]
        named = self._named(text)
        return None if named == _SEVERAL else named

    def several(self, cell: object) -> bool:
        """Whether it is not found because several images have that name."""
        return self(cell) is None and self._named(as_path(cell)) == _SEVERAL

    def _named(self, text: str) -> int | None:
        return self._names.get(_composed(PurePosixPath(text).name))


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def as_path(cell: object) -> str:
    """A file name as it stands in a cell, with ``/`` between folders."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return str(cell).strip().replace("\\", "/").removeprefix("./")
