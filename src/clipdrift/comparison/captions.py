"""Read captions of a folder's images from the tables beside them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipdrift.data.errors import DataError
from clipdrift.data.images import shown
from clipdrift.data.metadata import CAPTION_COLUMNS, FILE_COLUMNS, METADATA, Finder, Table, read_table

_CAPTIONS = ("jsonl", "csv", "tsv", "txt", "parquet")
_FILES = (*METADATA, *(f"captions.{ending}" for ending in _CAPTIONS), "results.csv")
_NUMBERED = re.compile(r"(caption|text|sentence|comment)s?[ _]?\d+")
_FIELDS = ("raw", "caption", "text", "sentence")
"""Where an object among several captions has its text, as in Karpathy's splits."""


def captions_of(folder: Path, paths: Sequence[Path]) -> tuple[dict[int, tuple[str, ...]], tuple[str, ...]]:
    """Texts by position, and notes: what could not be used and why.

    Tables are looked for in the folder and in every folder between it and an image: `metadata` as JSON lines,
    CSV, TSV or parquet, `captions` likewise, and `results.csv` as of Flickr30k. They need a column of file
    names and one of captions (or several with a number, as `caption_1`). A cell may hold one text or a list,
    and several rows for one image are several captions.

    Args:
        folder: Where the images are.
        paths: Their files, in the order of positions.

    Raises:
        DataError: A table that cannot be read.
    """
    texts: dict[int, list[str]] = {}
    notes: list[str] = []
    for table in _tables(folder, paths):
        name = table.column(FILE_COLUMNS)
        columns = _text_columns(table)
        if name is None or not columns:
            continue
        notes += table.notes
        notes += _read(table, name, columns, Finder(table.file.parent, paths), texts)
    if not texts and (seen := [table for table in _tables(folder, paths) if _text_columns(table)]):
        wanting = [table for table in seen if table.column(FILE_COLUMNS) is None]
        why = (
            f"{shown(wanting[0].file)} has no column of file names ({', '.join(wanting[0].columns)})"
            if wanting
            else f"{shown(seen[0].file)} names none of the images that were read"
        )
        notes.append(f"retrieval was not tested: {why}")
    if texts and len(texts) < len(paths):
        notes.append(f"{len(texts)} of {len(paths)} images have captions; retrieval is tested on these")
    return {position: tuple(texts[position]) for position in sorted(texts)}, tuple(notes)


def _tables(folder: Path, paths: Sequence[Path]) -> Iterator[Table]:
    """Tables in the folder and in those between it and an image, in order."""
    places = {folder}
    for parent in {path.parent for path in paths}:
        places.update(p for p in (parent, *parent.parents) if folder in p.parents)
    for place in sorted(places):
        for name in _FILES:
            if (place / name).is_file():
                yield read_table(place / name)


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
                found += [text for text in _texts(row.get(column)) if text]
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


def _texts(cell: Any) -> list[str]:
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
        return [text for one in cell for text in _texts(one)]
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
