"""Labels of a folder's images from a table beside them: ``metadata.csv`` and its kin, or ``labels.csv``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdrift.data.errors import DataError
from clipdrift.data.folder_words import Part, exact_split_of, is_piece, split_of, words_of
from clipdrift.data.images import shown
from clipdrift.data.metadata import (
    CAPTION_COLUMNS,
    FILE_COLUMNS,
    METADATA,
    SPLIT_COLUMNS,
    Finder,
    Table,
    is_table,
    read_table,
)
from clipdrift.data.one_hot import named, one_hot
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
_BEGINNINGS = ("train", "data", "test")
_ANYWHERE = ("label", "class", "annotation", "groundtruth", "ground_truth")
"""In names of Kaggle-like tables: ``labels.csv``, ``train.csv``, ``ISIC_2019_Training_GroundTruth.csv``."""


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


def find_labels(root: Folder, base: Folder, column: str | None) -> Labelled | None:
    """Labels from tables in a folder or in its split folders; ``None`` where no table has any.

    Tables are looked for in ``root`` and ``base`` first, and where there are none one level below.

    Args:
        root: The data set's folder.
        base: The folder in it that holds all the images.
        column: The column of the labels, if it was named.

    Raises:
        DataError: A table that is unreadable, an image with several labels, or names of which none is there.
    """
    found: dict[Path, tuple[str, str]] = {}
    tables, notes = [], []
    for folder, table, label in _tables(root, base, column):
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


def unused_tables(root: Folder, base: Folder) -> str:
    """What columns the tables have that gave no labels, for the end of a message; empty without tables."""
    said = []
    for folder in _places(root, base):
        for file in _listed(folder):
            try:
                table = read_table(file)
            except DataError:
                continue
            odd = "" if _file_column(table, "") else ", none of which is known for names of files (file_name)"
            said.append(f"{shown(file.relative_to(root.path))} has the columns {named(table.columns)}{odd}")
    if not said:
        return ""
    more = f" and {len(said) - 3} more tables" if len(said) > 3 else ""
    return f"; {'; '.join(said[:3])}{more}: name the column of labels with `label_column`"


def _places(root: Folder, base: Folder) -> list[Folder]:
    """Folders that tables may lie in: root, base, and one level below each."""
    tops = [root] if base is root else [root, base]
    return [*tops, *(child for top in tops for child in top.folders.values() if child is not base)]


def _listed(folder: Folder) -> list[Path]:
    return [path for path in folder.others if is_table(path) and path.suffix.lower() != ".txt"]


def _tables(root: Folder, base: Folder, column: str | None) -> Iterator[tuple[Folder, Table, str]]:
    """Tables with a column of labels: of root and base first, then of split folders; else one level below."""
    tops = [root] if base is root else [root, base]
    splits = [child for top in tops for name, child in top.folders.items() if split_of(name)]
    found = [one for top in tops for one in _in(top, top, column)]
    found += [one for split in splits for one in _in(split, split, column, METADATA)]
    if not found:
        for top in tops:
            for child in top.folders.values():
                if child is not base and child not in splits:
                    found += _in(child, child if child.holds_images else top, column)
    yield from found


def _in(
    place: Folder, about: Folder, column: str | None, only: Sequence[str] = ()
) -> list[tuple[Folder, Table, str]]:
    """Tables in one folder with a column of labels, of images in another.

    Of a test part only where a table of another part has the same column, as its labels are often missing.
    """
    listed = sorted(_listed(place), key=lambda file: file.name.lower() not in METADATA)
    listed = [file for file in listed if "submission" not in file.name.lower()]
    if only:
        listed = [file for file in listed if file.name.lower() in only]
    by_name = [file for file in listed if column or _is_known(file)]
    found: list[tuple[Folder, Table, str]] = []
    for file in sorted(by_name or (listed if len(listed) == 1 else []), key=_is_of_test):
        try:
            table = read_table(file)
        except DataError:
            if _is_of_test(file):
                continue  # names of images without labels, often one column
            raise
        usual = file.name.lower() not in METADATA and file in by_name
        pair = _label_column(table, column, usual)
        if pair and (not _is_of_test(file) or any(pair[1] == label for _, _, label in found)):
            found.append((about, *pair))
    return found


def _is_known(file: Path) -> bool:
    name = file.name.lower()
    return name in METADATA or name.startswith(_BEGINNINGS) or any(word in name for word in _ANYWHERE)


def _is_of_test(file: Path) -> bool:
    return _part_of_table(file) == "test"


def _part_of_table(file: Path) -> Part | None:
    """The part that a table's name tells, as ``train_labels.csv`` or ``Test_GroundTruth.csv`` does."""
    found = {part for word in words_of(file.stem) if (part := exact_split_of(word))}
    return found.pop() if len(found) == 1 else None


def _label_column(table: Table, column: str | None, usual: bool) -> tuple[Table, str] | None:
    """The table and its column of labels; ``usual``: whether its name says that it has labels."""
    if column:
        label = table.column([column.strip().lower().replace(" ", "_")])
        return (table, label) if label else None
    if label := table.column(LABEL_COLUMNS):
        return table, label
    file_column = _file_column(table, "")
    if file_column is None:
        return None
    if spread := one_hot(table, [file_column, table.column(SPLIT_COLUMNS)]):
        return spread
    other = [one for one in table.columns if one not in (file_column, table.column(CAPTION_COLUMNS))]
    return (table, other[0]) if usual and len(table.columns) == 2 and len(other) == 1 else None


def _file_column(table: Table, label: str) -> str | None:
    column = table.column(FILE_COLUMNS)
    return column if column != label else None


def _assign(
    folder: Folder, table: Table, file_column: str, label: str, found: dict[Path, tuple[str, str]]
) -> list[str]:
    """Put the table's labels to its images; say what could not be put."""
    images = _meant(folder, table)
    finder = Finder(folder.path, images)
    split = table.column(SPLIT_COLUMNS)
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
        part = (split_of(str(row.get(split))) or "") if split else _own_part(folder, path, table)
        if path in found and found[path][0] != text:
            raise DataError(
                f"{shown(table.file)}: {shown(path.name)} has two labels, {found[path][0]!r} and {text!r}; "
                "one each is needed"
            )
        found.setdefault(path, (text, part))
    if len(missing) == len(table.rows) and not _is_of_test(table.file):
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
    part = _part_of_table(table.file)
    inside = folder.folders.items() if part in ("train", "test") else ()
    of_part = [child for name, child in inside if split_of(name) == part]
    return tuple(path for child in of_part for path in child.below) or folder.below


def _own_part(folder: Folder, path: Path, table: Table) -> str:
    """Part that a table's name tells where no folder of the image does; empty where neither tells."""
    return (_part_of_table(table.file) or "") if _part_of(folder, path) == "all" else ""


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
