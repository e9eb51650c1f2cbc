"""Open pictures with captions: folders, tables, archives, or a data set on the hub.

The order in which layouts are tried is that of docs/your-data.md. No image is decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from clipdrift.config.named import DataSet
from clipdrift.data.caption_store import CaptionSource, count_too_long
from clipdrift.data.captions import Columns
from clipdrift.data.errors import DataError
from clipdrift.data.images import shown
from clipdrift.data.metadata import is_table, open_table
from clipdrift.data.pair_folders import open_pair_folder, pairs_in_tables
from clipdrift.data.pair_source import PairSource
from clipdrift.data.pair_splits import PairDivision, divide_pairs, pixel_groups
from clipdrift.data.pair_tables import JoinedRows, pairs_in_rows
from clipdrift.data.parts import ANY, PART_NAMES, TEST, TRAIN, VALIDATION
from clipdrift.data.sources import hub_id
from clipdrift.data.tables import archive_splits, is_saved, load_files, load_hub, parquet_splits, saved_tables
from clipdrift.data.tree import Folder, passed_notes, passed_over, read_tree
from clipdrift.data.worlds import WORLDS

_TableKind = Literal["parquet", "webdataset"]

__all__ = [
    "ANY",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "CaptionSource",
    "PairDivision",
    "PairSource",
    "count_too_long",
    "divide_pairs",
    "open_pairs",
    "pixel_groups",
]


def open_pairs(spec: DataSet) -> PairSource:
    """Opens pictures with captions; reads tables or lists files, decodes nothing.

    Of ``spec``, ``image_column`` and ``caption_column`` name columns, ``train_split`` and ``test_split`` name
    splits of tables; labels are not looked at. A ``path`` may also be a table of file names, as OpenCLIP has
    them. Images without captions and empty captions are left out and counted in the notes.

    Raises:
        DataError: In one line: what is wrong, where, and what to do.
    """
    source = _of_name(spec) if spec.path is None else _of_path(spec, Path(spec.path).expanduser())
    parts = np.unique(source.part)
    if len(parts) > 1 or parts[0] in (TRAIN, ANY):
        return source
    note = f"{spec.name}: all images are in the {PART_NAMES[parts[0]]} split, which is divided"
    return replace(source, part=np.full_like(source.part, ANY), notes=(*source.notes, note))


def _of_name(spec: DataSet) -> PairSource:
    if spec.name in WORLDS:
        raise DataError(f"{spec.name}: a generated world has classes and no captions; name another data set")
    return pairs_in_rows(load_hub(hub_id(spec.name), None, spec.name), spec, "hub")


def _of_path(spec: DataSet, place: Path) -> PairSource:
    columns = Columns(spec.image_column, spec.caption_column)
    if not place.exists():
        raise DataError(f"{shown(place)}: no such file or folder (data set {spec.name!r}); check `path`")
    if place.is_file():
        if not is_table(place):
            raise DataError(
                f"{shown(place)}: a file, and no table of file names and captions (.csv, .tsv, .txt, .jsonl, "
                ".parquet); set `path` to one or to a folder"
            )
        return pairs_in_tables({ANY: open_table(place)}, columns, spec.name)
    if is_saved(place):
        return pairs_in_rows(saved_tables(place), spec, "saved", place)
    tree = read_tree(place)
    if (kept := _tables_in(tree)) is not None:
        return _of_tables(*kept, spec, tree)
    source = open_pair_folder(tree, columns, spec.name)
    return replace(source, notes=(*source.notes, *passed_notes(spec.name, source.passed)))


def _tables_in(tree: Folder) -> tuple[_TableKind, Mapping[str, list[Path]]] | None:
    """How a folder keeps tables of images, and the files of each split; ``None``: it keeps none."""
    archives = {} if tree.holds_images else archive_splits(tree.path)
    # img2dataset writes a table about each archive beside it.
    about = {path.with_suffix(".parquet") for paths in archives.values() for path in paths}
    if archives and about.issuperset(tree.path.rglob("*.parquet")):
        return "webdataset", archives
    files = parquet_splits(tree.path)
    if not files or (tree.holds_images and files.keys() == {"captions"}):
        return None  # captions.parquet beside images is a table of file names
    return "parquet", files


def _of_tables(kind: _TableKind, files: Mapping[str, list[Path]], spec: DataSet, tree: Folder) -> PairSource:
    tables = load_files(files, {split: split for split in files}, shown(tree.path), kind)
    source = pairs_in_rows(tables, spec, kind, tree.path)
    assert isinstance(source.images.store, JoinedRows)
    linked = [store.linked() for store in source.images.store.stores]
    passed = passed_over(tree, {path for paths in files.values() for path in paths}.union(*linked))
    return replace(source, notes=(*source.notes, *passed_notes(spec.name, passed)), passed=passed)
