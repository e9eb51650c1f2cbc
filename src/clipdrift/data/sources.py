"""Open a configured data set: hub, local copy, folder of images, or generated world."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from clipdrift.config.named import DataSet
from clipdrift.data.catalog import CATALOG, DEFAULT_PROMPTS, CatalogRow
from clipdrift.data.columns import ImageColumns, read_tables
from clipdrift.data.errors import DataError
from clipdrift.data.folders import open_folder
from clipdrift.data.images import DrawnImages, ImageSet, LabelArray, Picture, TableRows, image_set
from clipdrift.data.naming import class_names
from clipdrift.data.tables import archive_splits, is_saved, load_files, load_hub, load_saved, parquet_splits
from clipdrift.data.tree import PassedOver, passed_notes, passed_over, read_tree, walk
from clipdrift.data.worlds import VERSION, WORLDS, World, generate

__all__ = ["DataError", "ImageSet", "Source", "SplitName", "fingerprint_path", "open_source"]

SplitName = Literal["train", "test"]
_TableKind = Literal["parquet", "webdataset"]


@dataclass(frozen=True, eq=False)
class Source:
    """An opened data set.

    Attributes:
        name: As in the configuration.
        kind: Where it came from.
        classes: Readable names; a label is a position in it.
        prompts: Templates with one ``{}``, the default first.
        train, test: The images; ``None`` for a part that was not asked for.
        own_names: The data's own names in label order, where ``classes`` are others; else empty.
        notes: One line each: what was guessed, and what was not read.
        passed: Files below a local copy that were not read, counted.
    """

    name: str
    kind: Literal["hub", "folder", "parquet", "webdataset", "saved", "world"]
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    train: ImageSet | None
    test: ImageSet | None
    own_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    passed: tuple[PassedOver, ...] = ()


def open_source(
    spec: DataSet,
    *,
    image_size: int,
    train_per_class: int | None = None,
    parts: tuple[SplitName, ...] = ("train", "test"),
    labelled: bool = True,
) -> Source:
    """Opens a data set; reads its tables or lists its files, decodes nothing.

    With a ``path`` the local copy is used, found to be parquet or images by looking, and the catalog's row
    of the ``name`` still gives columns and prompts. Without one, the name is a row, a generated world or a
    hub id. Fields set in ``spec`` win over the row's. ``spec.per_class`` is left to the caller, who knows
    the seed (:func:`clipdrift.data.splits.balanced`).

    Args:
        spec: The configured data set.
        image_size: Side of the pictures of a generated world, in pixels; photographs come as they are.
        train_per_class: Training images that a generated world draws of each class; ``None``: its own
            number. It must hold validation and probe set too. Other kinds give all they have.
        parts: What to open; a transfer set needs ``("test",)`` alone, and then no training split at all.
        labelled: Whether there must be labels. Without, a table need not have any, nor a test split if it has
            one split alone; ``classes`` are then empty.

    Raises:
        DataError: In one line: what is wrong, where, and what to do.
    """
    row = _row(spec.name)
    if spec.path is None and row is None and spec.name in WORLDS:
        return _open_world(spec, WORLDS[spec.name], image_size, train_per_class, parts)
    wanted = _splits(spec, row, parts)
    columns = ImageColumns(
        image=spec.image_column or (row.image_column if row else None),
        label=spec.label_column or (row.label_column if row else None),
    )
    opened = (
        _open_named(spec, wanted, columns, labelled)
        if spec.path is None
        else _open_local(spec, wanted, columns, labelled)
    )
    if not labelled and opened.names is None:
        opened_sets = opened.sets.get("train"), opened.sets.get("test")
        return Source(spec.name, opened.kind, (), (), *opened_sets, (), opened.notes, opened.passed)
    naming = class_names(opened.names, given=spec.classes, row=row, data=spec.name)
    for images in opened.sets.values():
        _check_labels(images, naming.names, spec.name)
    prompts = spec.prompts or (row.prompts if row else DEFAULT_PROMPTS)
    return Source(
        spec.name,
        opened.kind,
        naming.names,
        prompts,
        opened.sets.get("train"),
        opened.sets.get("test"),
        naming.own,
        (*opened.notes, *naming.notes),
        opened.passed,
    )


@dataclass(frozen=True, eq=False)
class _Opened:
    """Images by part and the data's own names, however they are kept."""

    kind: Literal["hub", "folder", "parquet", "webdataset", "saved"]
    names: tuple[str, ...] | None
    sets: Mapping[str, ImageSet]
    notes: tuple[str, ...] = ()
    passed: tuple[PassedOver, ...] = ()


def _open_named(spec: DataSet, wanted: dict[str, str], columns: ImageColumns, labelled: bool) -> _Opened:
    tables = load_hub(hub_id(spec.name), wanted, spec.name)
    return _Opened("hub", *read_tables(tables, wanted, columns, spec.name, labelled=labelled))


def _open_local(spec: DataSet, wanted: dict[str, str], columns: ImageColumns, labelled: bool) -> _Opened:
    root = _folder(spec)
    if is_saved(root):
        tables = load_saved(root, wanted, str(root))
        return _Opened("saved", *read_tables(tables, wanted, columns, spec.name, root, labelled))
    if (kept := _tables_in(root, labelled)) is not None:
        return _of_tables(*kept, spec, root, wanted, columns, labelled)
    named = spec.train_split is not None or spec.test_split is not None
    label, classes = spec.label_column, None if spec.classes is None else len(spec.classes)
    found = open_folder(root, tuple(wanted), wanted, named=named, label_column=label, classes=classes)
    return _Opened("folder", found.names, found.sets, found.notes, found.passed)


def _tables_in(root: Path, labelled: bool) -> tuple[_TableKind, Mapping[str, list[Path]]] | None:
    """How a folder keeps tables of images, and the files of each split; ``None``: it keeps none.

    Archives that name no split serve only where no labels and so no splits are needed.
    """
    if files := parquet_splits(root):
        return "parquet", files
    archives = archive_splits(root)
    usable = archives.keys() - {""} if labelled else archives
    return ("webdataset", archives) if usable and not read_tree(root).holds_images else None


def _of_tables(
    kind: _TableKind,
    files: Mapping[str, list[Path]],
    spec: DataSet,
    root: Path,
    wanted: dict[str, str],
    columns: ImageColumns,
    labelled: bool,
) -> _Opened:
    """Tables or archives of the wanted splits; what else lies below the folder is counted."""
    guessed: tuple[str, ...] = ()
    if not labelled and spec.test_split is None and wanted.get("test") not in files and len(files) == 1:
        wanted = dict.fromkeys(wanted, next(iter(files)))
        guessed = (f"{spec.name}: read from its only split, {wanted['test'] or 'which has no name'!r}",)
    tables = load_files(files, wanted, str(root), kind)
    names, sets, notes = read_tables(tables, wanted, columns, spec.name, root, labelled)
    both = {*_splits(spec, _row(spec.name), ("train", "test")).values(), *wanted.values()}
    known = {path for name in both for path in files.get(name, ())}
    stores = [images.store for images in sets.values()]
    linked = [store.linked() for store in stores if isinstance(store, TableRows)]
    passed = passed_over(read_tree(root), known.union(*linked))
    return _Opened(kind, names, sets, (*guessed, *notes, *passed_notes(spec.name, passed)), passed)


def holds_tables(root: Path) -> bool:
    """Whether a folder is read as tables or archives, and not as loose images."""
    return is_saved(root) or _tables_in(root, labelled=False) is not None


def fingerprint_path(path: str | Path) -> str:
    """32 hex digits over the relative names and sizes of all files below a folder (or of one file).

    Cheap enough to be taken at every start. It notices any file added, removed, renamed or resized, but not
    one overwritten by another of equal size. Hidden files do not count; the folder's own place neither.

    Raises:
        DataError: No such folder.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise DataError(f"{root}: no such folder")
    listed = [(root.name, root.stat().st_size)] if root.is_file() else []
    if root.is_dir():
        listed = sorted((file.relative_to(root).as_posix(), _size(file)) for file in walk(root))
    digest = hashlib.sha256()
    for name, size in listed:
        digest.update(f"{len(name)}:{name}:{size};".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else -1  # a dangling link counts as a file of no size


def _row(name: str) -> CatalogRow | None:
    """Find a catalog row by name, or by hub id: ``uoft-cs/cifar100`` means the same data."""
    return CATALOG.get(name) or next((row for row in CATALOG.values() if row.hub == name), None)


def hub_id(name: str) -> str:
    """The hub's id of a data set: that of its catalog row, or the name itself.

    Raises:
        DataError: Neither a row nor in the form of an id.
    """
    if (row := _row(name)) is not None:
        return row.hub
    here = f"; for the folder of that name write ./{name}" if Path(name).is_dir() else ""
    if name.count("/") == 1 and not name.startswith("/") and not name.endswith("/"):
        if here:
            raise DataError(f"{name}: both a folder here and a hub id in form{here}")
        return name
    near = difflib.get_close_matches(name.lower(), [*CATALOG, *WORLDS], n=3, cutoff=0.5)
    hint = f"; near: {', '.join(near)}" if near else ""
    raise DataError(
        f"no data set is called {name!r}{hint}{here}; `clipdrift ls datasets` lists them, a hub id has the "
        "form owner/name, a local copy is given by `path`"
    )


def _folder(spec: DataSet) -> Path:
    root = Path(spec.path or "").expanduser()
    if not root.exists():
        raise DataError(f"{root}: no such folder (data set {spec.name!r}); check `path`")
    if not root.is_dir():
        raise DataError(f"{root}: a file (data set {spec.name!r}); set `path` to the folder that holds it")
    return root


def _splits(spec: DataSet, row: CatalogRow | None, parts: tuple[SplitName, ...]) -> dict[str, str]:
    names = {
        "train": spec.train_split or (row.train_split if row else "train"),
        "test": spec.test_split or (row.test_split if row else "test"),
    }
    if names["train"] == names["test"]:
        raise DataError(f"{spec.name}: train and test split are both {names['test']!r}; they must differ")
    return {part: names[part] for part in parts}


def _check_labels(images: ImageSet, names: tuple[str, ...], data: str) -> None:
    if len(images) == 0:
        raise DataError(f"{data}: a split without images")
    outside = np.flatnonzero((images.labels < 0) | (images.labels >= len(names)))
    if len(outside):
        first = int(outside[0])
        label = int(images.labels[first])
        unlabelled = " (a hidden test split has -1 throughout: choose another)" if label == -1 else ""
        raise DataError(
            f"{images.where(first)}: label {label} is outside 0..{len(names) - 1}, "
            f"the {len(names)} classes{unlabelled}"
        )


def _open_world(
    spec: DataSet, world: World, image_size: int, train_per_class: int | None, parts: tuple[SplitName, ...]
) -> Source:
    useless = [
        key
        for key in ("image_column", "label_column", "caption_column", "train_split", "test_split")
        if getattr(spec, key) is not None
    ]
    if useless:
        raise DataError(f"{spec.name}: `{useless[0]}` has no meaning for a generated world; leave it out")
    sets: dict[SplitName, ImageSet] = {}
    for part in parts:
        per_class = {"train": train_per_class or world.train, "test": world.test}[part]
        labels = np.arange(per_class * len(world.classes), dtype=np.int64) % len(world.classes)
        # Picture i is the same however many are drawn, so their number is no part of the recipe.
        recipe: dict[str, int | str] = {
            "world": world.name,
            "split": part,
            "size": image_size,
            "seed": 0,
            "version": VERSION,
        }
        draw = partial(_draw, world, part, per_class, image_size, labels)
        sets[part] = image_set(labels, DrawnImages(draw, recipe, f"{world.name} {part}"))
    naming = class_names(world.classes, given=spec.classes, row=None, data=spec.name)
    prompts = spec.prompts or world.templates
    sides = sets.get("train"), sets.get("test")
    return Source(spec.name, "world", naming.names, prompts, *sides, naming.own, naming.notes)


def _draw(world: World, part: SplitName, per_class: int, size: int, labels: LabelArray) -> Picture:
    images, drawn = generate(world, part, per_class, size)
    if not np.array_equal(drawn, labels):
        raise RuntimeError(f"{world.name}: labels no longer go round the classes, as `generate` promises")
    return images
