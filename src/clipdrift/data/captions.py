"""Read captions of a folder's images from the tables, annotations and text files beside them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipdrift.data.errors import DataError
from clipdrift.data.images import TableRows, shown
from clipdrift.data.metadata import CAPTION_COLUMNS, FILE_COLUMNS, METADATA, Finder, Table, read_table
from clipdrift.errors import one_line

_CAPTIONS = ("jsonl", "csv", "tsv", "txt", "parquet")
_FILES = (*METADATA, *(f"captions.{ending}" for ending in _CAPTIONS), "results.csv")
_ANNOTATIONS = ("captions*.json", "dataset*.json", "annotations/captions*.json", "annotations/dataset*.json")
"""COCO's captions and Karpathy's splits."""
_NUMBERED = re.compile(r"(caption|text|sentence|comment)s?[ _]?\d+")
_FIELDS = ("raw", "caption", "text", "sentence")
"""Where an object among several captions has its text, as in Karpathy's splits."""
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


def read_captions(folder: Path, paths: Sequence[Path]) -> Captions:
    """Captions of images in a folder.

    Tables are looked for in the folder and in every folder between it and an image: `metadata` as JSON lines,
    CSV, TSV or parquet, `captions` likewise, and `results.csv` as of Flickr30k; then COCO's `captions_*.json`
    and Karpathy's `dataset_*.json`, in the folder or in `annotations/`; then, where none of these has any,
    a text file beside each image. A table needs a column of file names and one of captions (or several with a
    number, as `caption_1`). A cell may hold one text or a list, and several rows for one image are several
    captions.

    Args:
        folder: Where the images are.
        paths: Their files, in the order of positions.

    Raises:
        DataError: A table that cannot be read.
    """
    texts: dict[int, list[str]] = {}
    files: set[Path] = set()
    notes: list[str] = []
    seen: list[Table] = []
    for table, root in _tables(folder, paths):
        name, columns = table.column(FILE_COLUMNS), _text_columns(table)
        if not columns:
            continue
        seen.append(table)
        if name is None:
            continue
        files.add(table.file)
        notes += table.notes
        notes += _read(table, name, columns, Finder(root, paths), texts)
    if not texts:
        beside, odd = _beside(paths, texts)
        files |= beside
        if odd:
            notes.append(
                f"{odd} text files beside images hold numbers or no text, and were not read as captions"
            )
    if not texts and seen:
        wanting = [table for table in seen if table.column(FILE_COLUMNS) is None]
        why = (
            f"{shown(wanting[0].file)} has no column of file names ({', '.join(wanting[0].columns)})"
            if wanting
            else f"{shown(seen[0].file)} names none of the images that were read"
        )
        notes.append(f"retrieval was not tested: {why}")
    notes += _if_some(len(texts), len(paths))
    found = {position: tuple(texts[position]) for position in sorted(texts)}
    return Captions(found, frozenset(files), tuple(notes))


def _if_some(captioned: int, images: int) -> list[str]:
    if not 0 < captioned < images:
        return []
    return [f"{captioned} of {images} images have captions; retrieval is tested on these"]


def _tables(folder: Path, paths: Sequence[Path]) -> Iterator[tuple[Table, Path]]:
    """Tables and where their file names start: those of folders, in order, then annotations."""
    places = {folder}
    for parent in {path.parent for path in paths}:
        places.update(p for p in (parent, *parent.parents) if folder in p.parents)
    for place in sorted(places):
        for name in _FILES:
            if (place / name).is_file():
                yield read_table(place / name), place
    for pattern in _ANNOTATIONS:
        for file in sorted(folder.glob(pattern)):
            if (table := _annotations(file)) is not None:
                yield table, folder


def _annotations(file: Path) -> Table | None:
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
        names = {image.get("id"): image.get("file_name") for image in images}
        rows = [
            {"file_name": names.get(one.get("image_id")), "caption": one.get("caption")}
            for one in captions
            if isinstance(one, dict) and "caption" in one
        ]
        return Table(file, ("file_name", "caption"), tuple(rows)) if rows else None
    rows = [
        {
            "file_name": "/".join(str(image[key]) for key in ("filepath", "filename") if key in image),
            "caption": image["sentences"],
        }
        for image in images
        if "filename" in image and "sentences" in image
    ]
    return Table(file, ("file_name", "caption"), tuple(rows)) if rows else None


def _beside(paths: Sequence[Path], texts: dict[int, list[str]]) -> tuple[set[Path], int]:
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
            texts[position] = found
            files.add(file)
        else:
            odd += 1
    return files, odd


def _text_columns(table: Table) -> list[str]:
    numbered = [name for name in table.columns if _NUMBERED.fullmatch(name.strip().lower())]
    if numbered:
        return numbered
    column = table.column(CAPTION_COLUMNS)
    return [] if column is None else [column]


def _read(
    table: Table, name: str, columns: Sequence[str], finder: Finder, texts: dict[int, list[str]]
) -> list[str]:
    """Add the table's captions to ``texts``; say how many rows had none."""
    empty = odd = 0
    for row in table.rows:
        position = finder(row.get(name))
        if position is None:
            continue  # of an image that is not among those read
        found: list[str] = []
        for column in columns:
            try:
                found += [text for text in texts_in(row.get(column)) if text]
            except DataError:
                odd += 1
        if not found:
            empty += 1
        texts.setdefault(position, []).extend(found)
    for position in [position for position, found in texts.items() if not found]:
        del texts[position]
    notes = []
    if odd:
        notes.append(f"{shown(table.file)}: {odd} cells are no captions, left out")
    if empty - odd > 0:
        notes.append(f"{shown(table.file)}: {empty - odd} rows have no caption, left out")
    return notes


def captions_of_rows(store: TableRows, rows: Sequence[int]) -> Captions:
    """Captions of some rows of a table of images, by their position in ``rows``."""
    texts, odd = {}, 0
    for position, row in enumerate(rows):
        try:
            found = [text for text in texts_in(store.texts(row)) if text]
        except DataError:
            odd += 1
            continue
        if found:
            texts[position] = tuple(found)
    notes = (
        [f"{store.name}: {odd} cells of column {store.captions!r} are no captions, left out"] if odd else []
    )
    notes += _if_some(len(texts), len(rows))
    return Captions(texts, frozenset(), tuple(notes))


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
        inner = next((cell[field] for field in _FIELDS if field in cell), None)
        if isinstance(inner, str):
            return [inner.strip()]
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
