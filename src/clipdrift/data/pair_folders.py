"""Pictures with captions as files: folders with tables, annotations or text files; tables of file names."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipdrift.data.caption_store import CaptionPacker, without_caption
from clipdrift.data.captions import Columns, each_caption, file_column, read_rows, text_columns
from clipdrift.data.errors import DataError
from clipdrift.data.images import Files, content_of, content_of_each, image_set, shown
from clipdrift.data.metadata import TableReader, as_path, is_table, open_table
from clipdrift.data.pair_source import PairSource
from clipdrift.data.parts import ANY, PART_NAMES, part_of
from clipdrift.data.tree import Folder, passed_over


def open_pair_folder(root: Folder, named: Columns, data: str) -> PairSource:
    """Images below a folder with the captions beside them, or images that a table in the folder names.

    Args:
        root: The folder.
        named: Columns that were named.
        data: How errors and notes name the data set.

    Raises:
        DataError: No image with a caption; says what was looked for.
    """
    tree = root
    while not tree.images and not tree.others and len(tree.folders) == 1:
        tree = next(iter(tree.folders.values()))
    inside = tree.path.relative_to(root.path)
    notes = [] if tree is root else [f"{shown(root.path)}: read in {shown(inside)}"]
    found, why = _captioned(tree, named, data) if tree.holds_images else (None, "")
    if found is None and (tables := _tables_of_pairs(tree, named)):
        found = pairs_in_tables(tables, named, data)
        assert isinstance(found.images.store, NamedFiles)
        read = {tree.path / name for name in found.images.store.names}
        passed = passed_over(tree, read | {table.file for table in tables.values()})
        found = replace(found, passed=passed)
    if found is None:
        why = why or _LOOKED_FOR + (f" with a column {named.captions!r}" if named.captions else "")
        count = len(tree.below)
        raise DataError(
            f"{shown(tree.path)}: none of {count} images has a caption ({why}); see docs/your-data.md"
        )
    return replace(found, notes=(*notes, *found.notes))


_LOOKED_FOR = (
    "looked for: metadata.jsonl and the like, captions.csv and the like, results.csv, captions_*.json, "
    "dataset_*.json, x.txt beside x.jpg, a table"
)


def _captioned(tree: Folder, named: Columns, data: str) -> tuple[PairSource | None, str]:
    """Images below a folder that have captions beside them; or none, and why.

    An image's part is that of the split which a row names, of the annotations' file name, or of the first
    folder on its path that is called as a split.
    """
    paths, notes = tree.below, list[str]()
    collected = _Collected(lambda position: shown(paths[position]))
    files, why = each_caption(tree.path, paths, collected.take, notes, named)
    kept, captions = collected.packer.packed()
    if len(kept) == 0:
        return None, "; ".join(filter(None, (*notes, why)))
    if len(kept) < len(paths):
        notes.append(without_caption(data, len(paths) - len(kept), len(paths)))
    places = [paths[position].parent for position in kept]
    part_of_place = {place: _part_of_folders(place.relative_to(tree.path).parts) for place in set(places)}
    part = collected.parts(kept, map(part_of_place.__getitem__, places), notes, data)
    images = image_set(np.zeros(len(kept)), Files(tuple(paths[position] for position in kept)))
    # Text files beside images count as read for those that are left out as well.
    beside = paths[kept[0]].with_suffix(".txt") in files
    known = {*paths, *files, *(path.with_suffix(".txt") for path in paths if beside)}
    passed = passed_over(tree, known)
    return PairSource(data, "folder", images, captions, part, tuple(notes), passed), ""


def _part_of_folders(names: Sequence[str]) -> int:
    return next((part for name in names if (part := part_of(name)) is not None), ANY)


def _tables_of_pairs(folder: Folder, named: Columns) -> dict[int, TableReader]:
    """Tables of file names and captions in a folder, by the part that their names stand for.

    Raises:
        DataError: Several of the same part.
    """
    found: dict[int, TableReader] = {}
    for path in folder.others:
        if not is_table(path) or path.suffix.lower() == ".txt":
            continue
        table = open_table(path)
        if file_column(table, named) is None or not text_columns(table, named):
            continue
        part = part_of(path.stem)
        part = ANY if part is None else part
        if part in found or (found and ANY in (part, *found)):
            both = f"{shown(next(iter(found.values())).file.name)} and {shown(path.name)}"
            raise DataError(
                f"{shown(folder.path)}: {both} both name files and captions; set `path` to one of them"
            )
        found[part] = table
    return found


def pairs_in_tables(tables: Mapping[int, TableReader], named: Columns, data: str) -> PairSource:
    """Images that tables name, by absolute paths or relative to the tables' folder, with their captions.

    Args:
        tables: By the part of rows that name none; all in one folder.
        named: Columns that were named.
        data: How errors and notes name the data set.

    Raises:
        DataError: A table without the columns, or none of whose files is there.
    """
    folder = next(iter(tables.values())).file.parent
    names = _Names(folder)
    notes: list[str] = []
    collected = _Collected(lambda position: shown(names.kept[position]))
    for part, table in tables.items():
        name, columns = file_column(table, named), text_columns(table, named)
        if name is None or not columns:
            what, key = ("file names", "image_column") if name is None else ("captions", "caption_column")
            own = ", ".join(table.columns) or "none"
            raise DataError(f"{shown(table.file)}: no column of {what} is known among {own}; set `{key}`")
        collected.usual = part
        read_rows(table, name, columns, names, collected.take, notes)
    files = ", ".join(shown(table.file) for table in tables.values())
    if names.missing:
        there, first = len(names.kept), shown(next(iter(names.missing)))[:80]
        if not there:
            raise DataError(
                f"{files}: none of the {len(names.missing)} images that it names is there (the first: "
                f"{first}); names that are not absolute start at {shown(folder)}"
            )
        total = there + len(names.missing)
        notes.append(
            f"{files}: {len(names.missing)} of {total} images are not there, the first {first}; left out"
        )
    kept, captions = collected.packer.packed()
    if len(kept) == 0:
        raise DataError(f"{files}: none of the {len(names.kept)} images that it names has a caption")
    if len(kept) < len(names.kept):
        notes.append(without_caption(data, len(names.kept) - len(kept), len(names.kept)))
    own_names = tuple(names.kept[position] for position in kept)
    folders = (_part_of_folders(() if name[0] == "/" else name.split("/")[:-1]) for name in own_names)
    part_of_each = collected.parts(kept, folders, notes, data)
    images = image_set(np.zeros(len(kept)), NamedFiles(folder, own_names))
    return PairSource(data, "table", images, captions, part_of_each, tuple(notes))


class _Names:
    """Gives each file that is there a position, in the order in which a table names them."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._positions: dict[str, int] = {}
        self.kept: list[str] = []
        self.missing: dict[str, None] = {}

    def __call__(self, cell: object) -> int | None:
        name = as_path(cell)
        if name in self._positions:
            return self._positions[name]
        if name in self.missing:
            return None
        if not name or "\0" in name or not os.path.isfile(os.path.join(self._folder, name)):
            self.missing[name] = None
            return None
        self._positions[name] = len(self.kept)
        self.kept.append(name)
        return self._positions[name]


class _Collected:
    """Captions and splits as rows name them."""

    def __init__(self, where: Callable[[int], str]) -> None:
        self.packer = CaptionPacker()
        self.usual = ANY
        self._where = where
        self._parts = array("b")
        self._unknown: Counter[str] = Counter()
        self._known: dict[str, int | None] = {"": None}

    def take(self, position: int, texts: list[str], split: str) -> None:
        self.packer.add(position, texts)
        if split not in self._known:
            self._known[split] = part_of(split)
        part = self._known[split]
        if part is None:
            part = self.usual
            if split:
                self._unknown[split] += 1
        self._parts.extend([ANY] * (position + 1 - len(self._parts)))
        before = self._parts[position]
        if ANY not in (part, before) and part != before:
            both = f"in the {PART_NAMES[before]} split and in the {PART_NAMES[part]} split"
            raise DataError(f"{self._where(position)}: {both}; one is needed")
        if part != ANY:
            self._parts[position] = part

    def parts(
        self, kept: NDArray[np.int64], otherwise: Iterator[int], notes: list[str], data: str
    ) -> NDArray[np.int8]:
        """Part of each image, of those without one what ``otherwise`` says in turn."""
        if self._unknown:
            shown_names = ", ".join(repr(shown(name)[:40]) for name in list(self._unknown)[:3])
            notes.append(
                f"{data}: {sum(self._unknown.values())} rows name a split that is not known ({shown_names}); "
                "taken as if they named none"
            )
        said = np.asarray(self._parts, dtype=np.int8)[kept]
        return np.where(said == ANY, np.fromiter(otherwise, np.int8, len(kept)), said)


@dataclass(frozen=True, eq=False)
class NamedFiles:
    """Image files by names, absolute or from a folder on; as many paths would take three times the memory."""

    folder: Path
    names: tuple[str, ...]

    def read(self, row: int) -> bytes:
        return content_of(self.folder / self.names[row])

    def where(self, row: int) -> str:
        return shown(self.folder / self.names[row])

    def content(self, rows: NDArray[np.int64]) -> Iterator[bytes]:
        return content_of_each(self, rows)
