"""Open a folder of images: find out which of its sub-folders are splits and which are classes.

The order in which layouts are tried is that of docs/your-data.md. No image is decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipdrift.data.class_folders import FolderClasses, by_label, class_folders, divide_classes
from clipdrift.data.errors import DataError
from clipdrift.data.folder_labels import Labelled, find_labels, unused_tables
from clipdrift.data.folder_layouts import (
    descended,
    holds_classes,
    no_classes,
    only_folder,
    refuse_two_levels,
    split_folders,
    splits_inside,
)
from clipdrift.data.folder_words import is_helper, is_split, split_of
from clipdrift.data.images import Files, ImageSet, image_set, shown
from clipdrift.data.masks import images_of, masks_in
from clipdrift.data.split_lists import listed_split
from clipdrift.data.tree import Folder, PassedOver, passed_notes, passed_over, passed_text, read_tree


@dataclass(frozen=True, eq=False)
class OpenedFolder:
    """A folder's images by part.

    Attributes:
        names: The data's own class names in label order; ``None`` where labels are bare numbers in a table.
        sets: Images of ``train`` and ``test``, as far as they were asked for.
        notes: One line each: what was guessed, and what was not read.
        passed: Files that were not read, counted.
    """

    names: tuple[str, ...] | None
    sets: dict[str, ImageSet]
    notes: tuple[str, ...]
    passed: tuple[PassedOver, ...]


def open_folder(
    root: Path,
    parts: Sequence[str],
    splits: Mapping[str, str],
    *,
    named: bool = False,
    label_column: str | None = None,
    classes: int | None = None,
) -> OpenedFolder:
    """Reads the layout of a folder; no image is opened.

    Images count at any depth below a class folder. Classes are sorted as text, or by number where all are
    whole numbers; files in natural order (``b2`` before ``b10``). Links are followed. A single level of
    class folders is divided here: of every class, a fifth (at least one image) becomes test, chosen once and
    for all by file name.

    Args:
        root: The folder.
        parts: Of ``train`` and ``test``, those wanted.
        splits: The folder name of each part.
        named: Whether those names were given by the user; then nothing else is a split, and nothing is
            divided here.
        label_column: Column of a table beside the images, if one was named; tables then go before folders.
        classes: How many classes there are, if that is known: tells which of two levels names them.

    Raises:
        DataError: No images, a split that is not there, classes that are empty or in one split only, or a
            layout that can mean several things.
    """
    tree = read_tree(root)
    if not tree.holds_images:
        raise DataError(_nothing(tree))
    notes: list[str] = []
    base = descended(tree, notes, splits if named else {})
    if label_column is not None:
        if labelled := find_labels(tree, base, label_column):
            return _from_tables(tree, labelled, parts, splits, named, notes)
        tables = unused_tables(tree, base) or "; there is no table in it"
        raise DataError(f"{shown(root)}: no table with a column {label_column!r} of labels{tables}")
    folders = split_folders(base, parts, splits, named, notes)
    if folders is not None:
        if not all(map(holds_classes, folders.values())) and (labelled := find_labels(tree, base, None)):
            return _from_tables(tree, labelled, parts, splits, named, notes)
        found = {part: class_folders(folder, notes) for part, folder in folders.items()}
        others = [f for name, f in base.folders.items() if split_of(name) in {"train", "test"} - set(parts)]
        known = (path for f in others for child in f.folders.values() for path in images_of(child))
        return _joined(tree, splits, found, notes, known)
    if (doubt := no_classes(base)) is not None:
        if labelled := find_labels(tree, base, None):
            return _from_tables(tree, labelled, parts, splits, named, notes)
        raise DataError(doubt + unused_tables(tree, base))
    if (alone := only_folder(base)) is not None:
        if labelled := find_labels(tree, base, None):
            return _from_tables(tree, labelled, parts, splits, named, notes)
        if tables := unused_tables(tree, base):
            raise DataError(f"{shown(root)}: {shown(alone.name)} is its only folder of images{tables}")
    refuse_two_levels(base, classes)
    if (swapped := splits_inside(base, notes)) is not None:
        return _joined(tree, splits, {part: swapped[part] for part in parts}, notes, _all(swapped))
    one = class_folders(base, notes)
    if base.images:
        notes.append(
            f"{shown(root)}: {len(base.images)} images beside the class folders have no class, left out"
        )
    both, lists = listed_split(tree, base, one, notes) or (divide_classes(base.path, one), ())
    return _joined(tree, splits, {part: both[part] for part in parts}, notes, (*_all(both), *lists))


def all_images(tree: Folder) -> ImageSet:
    """Every image below a folder but masks, without classes (all labels are 0), in natural order of paths.

    Raises:
        DataError: No image in it.
    """
    masks = masks_in(tree)
    paths = tuple(path for path in tree.below if path not in masks)
    if not paths:
        raise DataError(_nothing(tree))
    return image_set(np.zeros(len(paths)), Files(paths))


def class_level(root: Path, paths: Sequence[Path]) -> list[str]:
    """The class folder of each image below ``root``, empty where there is none: the first folder on its path
    that names neither a split nor what kind of files it holds."""
    found = []
    for path in paths:
        folders = path.relative_to(root).parts[:-1]
        found.append(next((name for name in folders if not (is_helper(name) or is_split(name))), ""))
    return found


def _nothing(tree: Folder) -> str:
    passed = passed_over(tree, frozenset())
    told = passed_text(passed) if passed else "it is empty"
    return f"{shown(tree.path)}: neither parquet files nor images in it ({told}); see docs/your-data.md"


def _joined(
    tree: Folder,
    splits: Mapping[str, str],
    found: Mapping[str, FolderClasses],
    notes: Iterable[str],
    known: Iterable[Path],
) -> OpenedFolder:
    """The parts with their labels; ``known``: files that are of use, if to parts that were not asked for."""
    names, pairs = by_label(tree.path, splits, found)
    sets = {
        part: image_set([label for label, _ in labelled], Files(tuple(path for _, path in labelled)))
        for part, labelled in pairs.items()
    }
    passed = passed_over(tree, {*known, *_all(found)})
    return OpenedFolder(names, sets, (*notes, *passed_notes(shown(tree.path), passed)), passed)


def _all(found: Mapping[str, FolderClasses]) -> set[Path]:
    return {path for classes in found.values() for images in classes.images.values() for path in images}


def _from_tables(
    tree: Folder,
    labelled: Labelled,
    parts: Sequence[str],
    splits: Mapping[str, str],
    named: bool,
    notes: list[str],
) -> OpenedFolder:
    """Images with labels from tables, by the splits that tables or folders name, or divided here."""
    notes += labelled.notes
    if named:
        groups = {
            part: tuple(
                p for own in labelled.parts.values() for p in own if _below(tree.path / splits[part], p[0])
            )
            for part in parts
        }
    elif labelled.parts.get("train") and labelled.parts.get("test"):
        groups = {part: labelled.parts[part] for part in parts}
    else:
        groups = {}
    if groups:
        for part, own in groups.items():
            if not own:
                raise DataError(f"{shown(tree.path)}: no labelled images in split {splits[part]!r}")
        found = {part: FolderClasses.of(tree.path, own) for part, own in groups.items()}
    else:
        everything = [pair for part in ("all", "train", "test") for pair in labelled.parts.get(part, ())]
        if not everything:
            raise DataError(
                f"{shown(tree.path)}: no labelled images for training and test; set `train_split`"
            )
        both = divide_classes(tree.path, FolderClasses.of(tree.path, everything))
        found = {part: both[part] for part in parts}
        notes.append(f"{shown(tree.path)}: labels tell no test split; a fifth of each class is held out here")
    used = {"train", "test"} if groups else {"all", "train", "test"}
    labelled_ones = [path for part in used for path, _ in labelled.parts.get(part, ())]
    if groups and not named and (left := labelled.parts.get("all")):
        notes.append(f"{shown(tree.path)}: {len(left)} labelled images tell no split, beside those that do")
    opened = _joined(tree, splits, found, notes, (*labelled.tables, *labelled_ones))
    return _bare(opened) if all(name.isdigit() for name in opened.names or ()) else opened


def _bare(opened: OpenedFolder) -> OpenedFolder:
    """Labels that are whole numbers in a table are labels, not names."""
    assert opened.names is not None
    numbers = np.array([int(name) for name in opened.names])
    sets = {part: ImageSet(numbers[s.labels], s.rows, s.store) for part, s in opened.sets.items()}
    return OpenedFolder(None, sets, opened.notes, opened.passed)


def _below(folder: Path, path: Path) -> bool:
    return folder in path.parents
