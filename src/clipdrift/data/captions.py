"""Read captions of a folder's images from the tables, annotations and text files beside them."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clipdrift.data.errors import DataError
from clipdrift.data.images import TableRows, shown
from clipdrift.data.metadata import (
    CAPTION_COLUMNS,
    FILE_COLUMNS,
    METADATA,
    SPLIT_COLUMNS,
    Finder,
    TableReader,
    open_table,
)
from clipdrift.data.parts import part_of
from clipdrift.errors import one_line

_CAPTIONS = ("jsonl", "csv", "tsv", "txt", "parquet")
_FILES = (*METADATA, *(f"captions.{ending}" for ending in _CAPTIONS), "results.csv")
_ANNOTATIONS = ("dataset*.json", "annotations/dataset*.json", "captions*.json", "annotations/captions*.json")
"""Karpathy's splits, which say more, before COCO's captions."""
_NUMBERED = re.compile(r"(caption|text|sentence|comment)s?[ _]?\d+")
_FIELDS = ("raw", "caption", "text", "sentence", "captions", "texts", "sentences")
"""Where an object has its text or texts, as in Karpathy's splits and in a WebDataset's JSON."""
_NUMBERS = re.compile(r"[\d.eE+\-\s]+")
"""A line of boxes, as detectors keep them beside images."""


@dataclass(frozen=True)
class Captions:
    """Captions of some images.

    Attributes:
        texts: By position; images without captions are missing.
        files: That they were read from.
        notes: What could not be used and why.
    """

    texts: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    files: frozenset[Path] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Columns:
    """Columns of a table that were named; ``None``: to be found by their usual names."""

    image: str | None = None
    captions: str | None = None


Take = Callable[[int, list[str], str], None]
"""Takes an image's position, some of its captions and the name of its split, empty where none is said."""


def read_captions(folder: Path, paths: Sequence[Path]) -> Captions:
    """Captions of images in a folder, as :func:`each_caption` finds them.

    Args:
        folder: Where the images are.
        paths: Their files, in the order of positions.

    Raises:
        DataError: A table that cannot be read.
    """
    texts: dict[int, list[str]] = {}
    notes: list[str] = []

    def take(position: int, found: list[str], split: str) -> None:
        texts.setdefault(position, []).extend(found)

    files, why = each_caption(folder, paths, take, notes)
    if why:
        notes.append(f"retrieval was not tested: {why}")
    notes += _if_some(len(texts), len(paths))
    found = {position: tuple(texts[position]) for position in sorted(texts)}
    return Captions(found, frozenset(files), tuple(notes))


def each_caption(
    folder: Path, paths: Sequence[Path], take: Take, notes: list[str], named: Columns = Columns()
) -> tuple[set[Path], str]:
    """Hand on the captions of images in a folder, row by row.

    Tables are looked for in the folder and in every folder between it and an image: `metadata` as JSON
    lines, CSV, TSV or parquet, `captions` likewise, and `results.csv` as of Flickr30k; then Karpathy's
    `dataset_*.json` and COCO's `captions_*.json`, in the folder or in `annotations/`; then, where none of
    these has any, a text file beside each image. A table needs a column of file names and one of captions (or
    several with a number, as `caption_1`). A cell may hold one text or a list, and several rows for one image
    are several captions. An image that one file has captions for gets none from another.

    Args:
        folder: Where the images are.
        paths: Their files, in the order of positions.
        take: Called with an image's position, some captions of it, and the name of its split.
        notes: What could not be used and why is appended.
        named: Columns that were named.

    Returns:
        The files that were read, and why none of the tables that are there was of use; empty if one was.

    Raises:
        DataError: A table that cannot be read.
    """
    files: set[Path] = set()
    seen: list[TableReader] = []
    takers = _Once(len(paths), take)
    for table, root in _tables(folder, paths):
        name, columns = file_column(table, named), text_columns(table, named)
        if not columns:
            continue
        seen.append(table)
        if name is None:
            continue
        files.add(table.file)
        read_rows(table, name, columns, Finder(root, paths), takers.of(table.file), notes)
    notes += takers.left_out()
    if not takers.any:
        beside, odd = _beside(paths, take)
        files |= beside
        if odd:
            notes.append(
                f"{odd} text files beside images hold numbers or no text, and were not read as captions"
            )
        if not beside and seen:
            wanting = [table for table in seen if file_column(table, named) is None]
            return files, (
                f"{shown(wanting[0].file)} has no column of file names ({', '.join(wanting[0].columns)})"
                if wanting
                else f"{shown(seen[0].file)} names none of the images that were read"
            )
    return files, ""


class _Once:
    """Lets every image have its captions from one file alone: the same ones lie in several kinds of files."""

    def __init__(self, images: int, take: Take) -> None:
        self._take = take
        self._owners = np.zeros(images, np.int32)  # 0: none, else the number of a file
        self._files: list[Path] = []
        self._more: Counter[Path] = Counter()

    @property
    def any(self) -> bool:
        return bool(self._owners.any())

    def of(self, file: Path) -> Take:
        self._files.append(file)
        own = len(self._files)

        def take(position: int, texts: list[str], split: str) -> None:
            if self._owners[position] in (0, own):
                self._owners[position] = own
                self._take(position, texts, split)
            else:
                self._more[file] += len(texts)

        return take

    def left_out(self) -> list[str]:
        return [
            f"{shown(file)}: {count} captions of images that have captions from another file, left out"
            for file, count in self._more.items()
        ]


def _if_some(captioned: int, images: int) -> list[str]:
    if not 0 < captioned < images:
        return []
    return [f"{captioned} of {images} images have captions; retrieval is tested on these"]


def _tables(folder: Path, paths: Sequence[Path]) -> Iterator[tuple[TableReader, Path]]:
    """Tables and where their file names start: those of folders, in order, then annotations."""
    places = {folder}
    for parent in {path.parent for path in paths}:
        places.update(p for p in (parent, *parent.parents) if folder in p.parents)
    for place in sorted(places):
        for name in _FILES:
            if (place / name).is_file():
                yield open_table(place / name), place
    for pattern in _ANNOTATIONS:
        for file in sorted(folder.glob(pattern)):
            if (table := _annotations(file)) is not None:
                own = file.stem.removeprefix("captions_")  # COCO's file names are those in this folder
                inside = [place for place in (folder / own, folder / "images" / own) if place.is_dir()]
                yield table, inside[0] if inside else folder


def _annotations(file: Path) -> TableReader | None:
    """COCO's or Karpathy's captions as a table; ``None`` for JSON of another kind."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{shown(file)}: not JSON ({one_line(error)})") from None
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        return None
    captions = content.get("annotations")
    if isinstance(captions, list):  # COCO
        names = {str(image.get("id")): image.get("file_name") for image in images}
        split = None if part_of(file.stem) is None else file.stem
        rows = [
            {"file_name": names.get(str(one.get("image_id"))), "caption": one.get("caption"), "split": split}
            for one in captions
            if isinstance(one, dict) and "caption" in one
        ]
    else:
        rows = [
            {
                "file_name": "/".join(str(image[key]) for key in ("filepath", "filename") if key in image),
                "caption": image["sentences"],
                "split": image.get("split"),
            }
            for image in images
            if "filename" in image and "sentences" in image
        ]
    return TableReader(file, ("file_name", "caption", "split"), lambda notes: iter(rows)) if rows else None


def _beside(paths: Sequence[Path], take: Take) -> tuple[set[Path], int]:
    """Captions of ``x.jpg`` in ``x.txt``, a line each; the files, and how many hold no captions."""
    files, odd = set(), 0
    for position, path in enumerate(paths):
        file = path.with_suffix(".txt")
        try:
            lines = file.read_text(encoding="utf-8-sig").split("\n")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError):
            odd += 1
            continue
        found = [line.strip() for line in lines if line.strip() and not _NUMBERS.fullmatch(line)]
        if found:
            take(position, found, "")
            files.add(file)
        else:
            odd += 1
    return files, odd


def file_column(table: TableReader, named: Columns = Columns()) -> str | None:
    """The column of file names: the one that was named, or the likeliest."""
    return table.column(FILE_COLUMNS if named.image is None else [_key(named.image)])


def text_columns(table: TableReader, named: Columns = Columns()) -> list[str]:
    """The columns of captions: the one that was named, all with a number, or the likeliest; may be empty."""
    if named.captions is None and (numbered := numbered_columns(table.columns)):
        return numbered
    column = table.column(CAPTION_COLUMNS if named.captions is None else [_key(named.captions)])
    return [] if column is None else [column]


def _key(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def numbered_columns(columns: Iterable[str]) -> list[str]:
    """Columns that hold one of several captions each, as ``caption_1``."""
    return [name for name in columns if _NUMBERED.fullmatch(name.strip().lower())]


def read_rows(
    table: TableReader,
    name: str,
    columns: Sequence[str],
    finder: Callable[[object], int | None],
    take: Take,
    notes: list[str],
) -> None:
    """Hand on the table's captions; note how many rows had none.

    Args:
        table: What to read.
        name: Column of file names.
        columns: Those of captions.
        finder: Position of the image that a cell names; ``None`` for one that is not among those read.
        take: As of :func:`each_caption`; not called for rows without a caption.
        notes: What was left out is appended.
    """
    split = table.column(SPLIT_COLUMNS)
    empty = odd = 0
    for row in table.rows(notes):
        position = finder(row.get(name))
        if position is None:
            continue
        found, wrong = texts_of(row.get(column) for column in columns)
        odd += wrong
        if found:
            take(position, found, str(row.get(split) or "") if split else "")
        else:
            empty += 1
    if odd:
        notes.append(f"{shown(table.file)}: {odd} cells are no captions, left out")
    if empty - odd > 0:
        notes.append(f"{shown(table.file)}: {empty - odd} rows have no caption, left out")


def captions_of_rows(store: TableRows, rows: Sequence[int]) -> Captions:
    """Captions of some rows of a table of images, by their position in ``rows``."""
    texts, odd = {}, 0
    for position, row in enumerate(rows):
        found, wrong = texts_of([as_lines(store.captions, store.texts(row))])
        odd += wrong
        if found:
            texts[position] = tuple(found)
    notes = (
        [f"{store.name}: {odd} cells of column {store.captions!r} are no captions, left out"] if odd else []
    )
    notes += _if_some(len(texts), len(rows))
    return Captions(texts, frozenset(), tuple(notes))


def as_lines(column: str | None, cell: Any) -> Any:
    """A cell as :func:`texts_of` takes it: a WebDataset's ``.txt`` has a caption a line, as beside images."""
    return cell.split("\n") if column == "txt" and isinstance(cell, str) else cell


def texts_of(cells: Iterable[Any]) -> tuple[list[str], int]:
    """The captions in the cells of one image that are not empty, and how many cells are no captions."""
    found: list[str] = []
    odd = 0
    for cell in cells:
        try:
            found += [text for text in texts_in(cell) if text]
        except DataError:
            odd += 1
    return found, odd


def texts_in(cell: Any) -> list[str]:
    """The captions in a cell.

    Raises:
        DataError: It holds something else.
    """
    if cell is None or (isinstance(cell, float) and cell != cell):
        return []
    if isinstance(cell, str):
        listed = _list_in(cell)
        return [cell.strip()] if listed is None else listed
    if isinstance(cell, Mapping):
        inner = [cell[field] for field in _FIELDS if field in cell]
        if inner and not isinstance(inner[0], Mapping):
            return texts_in(inner[0])
        raise DataError("no text in it")
    if isinstance(cell, Sequence):
        return [text for one in cell for text in texts_in(one)]
    raise DataError("no text")


def _list_in(cell: str) -> list[str] | None:
    """Texts of a list that was written into a cell of text, as JSON or as Python shows it."""
    if not (cell.lstrip().startswith("[") and cell.rstrip().endswith("]")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, list) and all(isinstance(one, str) for one in found):
            return [one.strip() for one in found]
    return None
