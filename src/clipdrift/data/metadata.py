"""Tables that lie beside images and say something of each: labels, captions, splits.

Read are comma-, semicolon-, tab- and bar-separated text, JSON lines and parquet. Lines of JSON end at the
newline character alone, since captions may hold any of Unicode's other separators.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

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

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet", "metadata.tsv")
"""As in Hugging Face's image folders."""

_ENDINGS = frozenset((".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet"))
_SEPARATORS = (",", ";", "\t", "|")


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
        own = {column.strip().lower().replace(" ", "_"): column for column in reversed(self.columns)}
        return next((own[name] for name in names if name in own), None)


def read_table(file: Path) -> Table:
    """Read a table.

    Raises:
        DataError: Not readable, or not of the kind that its ending says.
    """
    try:
        if file.suffix.lower() == ".parquet":
            return _read_parquet(file)
        text, notes = _text(file)
    except OSError as error:
        raise DataError(f"{shown(file)}: cannot be read ({error.strerror or error})") from None
    if file.suffix.lower() in (".jsonl", ".ndjson"):
        return _read_json_lines(file, text, notes)
    return _read_separated(file, text, notes)


def is_table(file: Path) -> bool:
    """Whether :func:`read_table` reads files of this ending."""
    return file.suffix.lower() in _ENDINGS


def _text(file: Path) -> tuple[str, list[str]]:
    """Text of a file without a byte order mark, and what was guessed of its encoding."""
    content = file.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return content.decode("utf-16"), []
        except UnicodeDecodeError:
            raise DataError(f"{shown(file)}: begins as UTF-16 and is not; save it as UTF-8") from None
    try:
        return content.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        if b"\0" in content:
            raise DataError(f"{shown(file)}: not a text file; save it as UTF-8") from None
        return content.decode("cp1252", "replace"), [f"{shown(file)} is not UTF-8; read as Windows-1252"]


def _read_parquet(file: Path) -> Table:
    import pyarrow.parquet
    from pyarrow import ArrowException

    try:
        table = pyarrow.parquet.read_table(file)
    except (ArrowException, ValueError) as error:
        raise DataError(f"{shown(file)}: cannot be read as parquet ({one_line(error)})") from None
    return Table(file, tuple(table.column_names), tuple(table.to_pylist()))


def _read_json_lines(file: Path, text: str, notes: list[str]) -> Table:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{shown(file)} line {number}: not JSON ({one_line(error)})") from None
        if not isinstance(row, dict):
            raise DataError(f"{shown(file)} line {number}: not an object in braces, one for each image")
        rows.append(row)
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return Table(file, columns, tuple(rows), tuple(notes))


def _read_separated(file: Path, text: str, notes: list[str]) -> Table:
    header = text.split("\n", 1)[0]
    separator = max(_SEPARATORS, key=header.count)
    # A bar separates tables that know no quotes; in them a quotation mark is a character like any other.
    lines = io.StringIO(text, newline="")
    if separator == "|":
        reader = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, delimiter=separator)
    try:
        return _separated(file, reader, notes)
    except csv.Error as error:
        raise DataError(f"{shown(file)} line {reader.line_num}: {one_line(error)}") from None


def _separated(file: Path, reader: Iterator[list[str]], notes: list[str]) -> Table:
    columns = tuple(name.strip() for name in next(reader, []))
    if len(columns) < 2:
        raise DataError(
            f"{shown(file)}: one column only; its first line must name the columns, as file_name,label"
        )
    rows, odd = [], 0
    for cells in reader:
        if not cells or not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(columns):
            odd += 1
            continue
        rows.append(dict(zip(columns, (cell.strip() for cell in cells), strict=True)))
    if odd:
        notes = [
            *notes,
            f"{shown(file)}: {odd} lines with another number of columns than {len(columns)}, left out",
        ]
    return Table(file, columns, tuple(rows), tuple(notes))


class Finder:
    """Finds the image that a table's cell names, among images that were listed.

    A name is taken relative to the table's folder, with ``/`` or ``\\`` and with or without its ending; where
    nothing is there, by the file's own name alone, if only one image below the folder has it.
    """

    def __init__(self, folder: Path, images: Sequence[Path]) -> None:
        self._paths: dict[str, int] = {}
        self._names: dict[str, list[int]] = {}
        for index, path in enumerate(images):
            try:
                relative = path.relative_to(folder)
            except ValueError:
                continue
            for key in (relative.as_posix(), relative.with_suffix("").as_posix(), path.as_posix()):
                self._paths.setdefault(key, index)
            for key in {path.name, path.stem}:
                self._names.setdefault(key, []).append(index)

    def __call__(self, cell: object) -> int | None:
        """Position of the image, or ``None``."""
        text = _as_path(cell)
        if text in self._paths:
            return self._paths[text]
        named = self._names.get(PurePosixPath(text).name, ())
        return named[0] if len(named) == 1 else None

    def several(self, cell: object) -> bool:
        """Whether it is not found because several images have that name."""
        return self(cell) is None and len(self._names.get(PurePosixPath(_as_path(cell)).name, ())) > 1


def _as_path(cell: object) -> str:
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return str(cell).strip().replace("\\", "/").removeprefix("./")
