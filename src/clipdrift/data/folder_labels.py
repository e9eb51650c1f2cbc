"""Labels of a folder's images from a table beside them: ``metadata.csv`` and its kin, or ``labels.csv``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdrift.data.errors import DataError
from clipdrift.data.folder_words import is_piece, split_of
from clipdrift.data.images import shown
from clipdrift.data.metadata import (
    CAPTION_COLUMNS,
    FILE_COLUMNS,
    METADATA,
    Finder,
    Table,
    is_table,
    read_table,
)
from clipdrift.data.tree import Folder

LABEL_COLUMNS = (
    "label",
    "labels",
    "class",
    "classes",
    "class_name",
    "category",
    "categories",
    "breed",
    "species",
)
_SPLIT_COLUMNS = ("split", "subset", "partition", "set", "data_set", "dataset", "fold")
_LABEL_FILES = ("label", "class", "train", "annotation", "data", "groundtruth", "ground_truth")
"""Beginnings of names of Kaggle-like tables: ``labels.csv``, ``train.csv``, ``annotations.csv``."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images with the labels that tables give them.

    Attributes:
        parts: By part (``train``, ``test``, ``other``; ``all`` where nothing tells): image and label, in the
            order of the images.
        tables: The files that were read.
        notes: What was guessed or left out.
    """

    parts: Mapping[str, tuple[tuple[Path, str], ...]]
    tables: tuple[Path, ...]
    notes: tuple[str, ...]


def find_labels(root: Folder, column: str | None) -> Labelled | None:
    """Labels from tables in a folder or in its split folders; ``None`` where no table has any.

    Args:
        root: The data set's folder.
        column: The column of the labels, if it was named.

    Raises:
        DataError: A table that is unreadable, an image with several labels, or names of which none is there.
    """
    found: dict[Path, tuple[str, str]] = {}
    tables, notes = [], []
    for folder, table, label in _tables(root, column):
        file_column = _file_column(table, label)
        if file_column is None:
            continue
        tables.append(table.file)
        notes += [*table.notes, f"labels are read from {shown(table.file)}, column {label!r}"]
        notes += _assign(folder, table, file_column, label, found)
    if not tables:
        return None
    parts: dict[str, list[tuple[Path, str]]] = {}
    inside = [path for path in root.below if path in found]
    for path in inside:
        text, part = found[path]
        parts.setdefault(part or _part_of(root, path), []).append((path, text))
    return Labelled({part: tuple(pairs) for part, pairs in parts.items()}, tuple(tables), tuple(notes))


def _tables(root: Folder, column: str | None) -> Iterator[tuple[Folder, Table, str]]:
    """Tables with a column of labels: of the root first, then of split folders."""
    folders = [root, *(child for name, child in root.folders.items() if split_of(name))]
    for folder in folders:
        metadata = [path for path in folder.others if path.name.lower() in METADATA]
        for path in metadata:
            table = read_table(path)
            if label := table.column([column.lower()] if column else LABEL_COLUMNS):
                yield folder, table, label
    for path in root.others:
        name = path.name.lower()
        if not is_table(path) or name in METADATA or path.suffix.lower() == ".txt":
            continue
        if column is None and not name.startswith(_LABEL_FILES):
            continue
        table = read_table(path)
        label = table.column([column.lower()] if column else LABEL_COLUMNS)
        if label is None and column is None and len(table.columns) == 2:
            file_column = _file_column(table, "")
            captions = table.column(CAPTION_COLUMNS)
            other = [one for one in table.columns if one not in (file_column, captions)]
            label = other[0] if file_column and len(other) == 1 else None
        if label is not None:
            yield root, table, label


def _file_column(table: Table, label: str) -> str | None:
    column = table.column(FILE_COLUMNS)
    return column if column != label else None


def _assign(
    folder: Folder, table: Table, file_column: str, label: str, found: dict[Path, tuple[str, str]]
) -> list[str]:
    """Put the table's labels to its images; say what could not be put."""
    images = _meant(folder, table)
    finder = Finder(folder.path, images)
    split = table.column(_SPLIT_COLUMNS)
    missing, empty = [], 0
    for row in table.rows:
        index = finder(row.get(file_column))
        if index is None and finder.several(row.get(file_column)):
            raise DataError(
                f"{shown(table.file)}: there are several images {shown(str(row.get(file_column)))[:80]} "
                f"below {shown(folder.path)}; write their folder before it"
            )
        if index is None:
            missing.append(str(row.get(file_column)))
            continue
        path, text = images[index], _text_of(row.get(label), table, label)
        if not text:
            empty += 1
            continue
        part = (split_of(str(row.get(split))) or "") if split else ""
        if path in found and found[path][0] != text:
            raise DataError(
                f"{shown(table.file)}: {shown(path.name)} has two labels, {found[path][0]!r} and {text!r}; "
                "one each is needed"
            )
        found.setdefault(path, (text, part))
    if len(missing) == len(table.rows):
        first = f" (the first: {shown(missing[0])[:80]})" if missing else ""
        raise DataError(
            f"{shown(table.file)}: none of the {len(missing)} images that column {file_column!r} names is in "
            f"{shown(folder.path)}{first}"
        )
    notes = []
    if missing:
        notes.append(
            f"{shown(table.file)}: {len(missing)} of {len(table.rows)} rows name images that are not there, "
            f"the first {shown(missing[0])[:80]}"
        )
    if empty:
        notes.append(f"{shown(table.file)}: {empty} rows without a label, left out")
    return notes


def _meant(folder: Folder, table: Table) -> tuple[Path, ...]:
    """Images that a table can be about: ``train.csv`` those of the training split, if there is one."""
    part = split_of(table.file.stem)
    inside = folder.folders.items() if part in ("train", "test") else ()
    of_part = [child for name, child in inside if split_of(name) == part]
    return tuple(path for child in of_part for path in child.below) or folder.below


def _text_of(value: Any, table: Table, column: str) -> str:
    """A label as text; empty where there is none."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if len(value) > 1:
            raise DataError(
                f"{shown(table.file)}: column {column!r} has several labels in one row, {value!r:.80}"
            )
        value = value[0] if value else None
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(
            f"{shown(table.file)}: label {value!r:.80} in column {column!r} is neither number nor name"
        )
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _part_of(root: Folder, path: Path) -> str:
    """Part that the folders above an image name; ``all`` where none does."""
    parts = path.relative_to(root.path).parts[:-1]
    return next((part for name in parts if not is_piece(name) and (part := split_of(name))), "all")
