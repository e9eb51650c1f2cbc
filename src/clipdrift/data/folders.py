"""Open a folder of images: find out which of its sub-folders are splits and which are classes.

The order in which layouts are tried is that of docs/your-data.md. No image is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipdrift.data.class_folders import FolderClasses, by_label, class_folders, divide_classes
from clipdrift.data.errors import DataError
from clipdrift.data.folder_labels import Labelled, find_labels
from clipdrift.data.folder_words import exact_split_of, is_helper, is_split, split_of
from clipdrift.data.images import Files, ImageSet, image_set, shown
from clipdrift.data.tree import Folder, PassedOver, passed_over, passed_over_note, read_tree

_DATE = re.compile(r"(19|20)\d\d([-_.]?\d\d){0,2}")


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
    if not tree.below:
        raise DataError(_nothing(tree))
    notes: list[str] = []
    if label_column is not None and (labelled := find_labels(tree, label_column)):
        return _from_tables(tree, labelled, parts, splits, named, notes)
    base = _descended(tree, notes, splits if named else {})
    folders = _split_folders(base, parts, splits, named, notes)
    if folders is not None:
        if not all(map(_holds_classes, folders.values())) and (labelled := find_labels(tree, label_column)):
            return _from_tables(tree, labelled, parts, splits, named, notes)
        found = {part: class_folders(folder, notes) for part, folder in folders.items()}
        return _joined(
            tree, splits, found, notes, {f.name for f in folders.values()} if base is tree else set()
        )
    if (doubt := _no_classes(base)) is not None:
        if labelled := find_labels(tree, label_column):
            return _from_tables(tree, labelled, parts, splits, named, notes)
        raise DataError(doubt)
    if (swapped := _splits_inside(base, parts, notes)) is not None:
        return _joined(tree, splits, swapped, notes, set())
    _refuse_two_levels(base, classes)
    one = class_folders(base, notes)
    if base.images:
        notes.append(
            f"{shown(root)}: {len(base.images)} images beside the class folders have no class, left out"
        )
    both = divide_classes(base.path, one)
    return _joined(tree, splits, {part: both[part] for part in parts}, notes, set())


def all_images(root: Path) -> tuple[ImageSet, tuple[PassedOver, ...]]:
    """Every image below a folder, without classes (all labels are 0), and what was passed over.

    In natural order of their paths.

    Raises:
        DataError: No such folder, or no image in it.
    """
    if not root.is_dir():
        raise DataError(f"{shown(root)}: no such folder")
    tree = read_tree(root)
    if not tree.below:
        raise DataError(_nothing(tree))
    return image_set(np.zeros(len(tree.below)), Files(tree.below)), passed_over(tree, frozenset(tree.below))


def class_level(root: Path, paths: Sequence[Path]) -> list[str]:
    """The class folder of each image below ``root``, empty where there is none: the first folder on its path
    that names neither a split nor what kind of files it holds."""
    found = []
    for path in paths:
        folders = path.relative_to(root).parts[:-1]
        found.append(next((name for name in folders if not (is_helper(name) or is_split(name))), ""))
    return found


def _nothing(tree: Folder) -> str:
    passed = passed_over_note("", passed_over(tree, frozenset()))
    told = passed.removeprefix(": ") if passed else "it is empty"
    return f"{shown(tree.path)}: neither parquet files nor images in it ({told}); see docs/your-data.md"


def _descended(tree: Folder, notes: list[str], named: Mapping[str, str]) -> Folder:
    """Go into folders that hold all the rest, as archives unpacked into a folder of their own do."""
    base = tree
    while not base.images:
        holding = [child for child in base.folders.values() if child.below]
        if len(holding) > 1:  # images beside annotations: helpers that hold no classes are no obstacle
            holding = [child for child in holding if not is_helper(child.name) or _holds_folders(child)]
            helpers = [child for child in base.folders.values() if child.below and is_helper(child.name)]
            if len(holding) != 1 or not is_helper(holding[0].name) or len(helpers) < 2:
                break
        if len(holding) != 1 or is_split(holding[0].name) or holding[0].name in named.values():
            break
        inner = [name for name, child in holding[0].folders.items() if child.below]
        if (
            holding[0].images
            or not inner
            or (not is_helper(holding[0].name) and all(map(_says_nothing, inner)))
        ):
            break
        base = holding[0]
    if base is not tree:
        notes.append(f"{shown(tree.path)}: read in {shown(base.path.relative_to(tree.path))}")
    return base


def _holds_folders(folder: Folder) -> bool:
    return any(child.below for child in folder.folders.values())


def _split_folders(
    base: Folder, parts: Sequence[str], splits: Mapping[str, str], named: bool, notes: list[str]
) -> dict[str, Folder] | None:
    """The folder of each part; ``None`` where no folders are splits that hold class folders."""
    candidates = {
        name: child for name, child in base.folders.items() if _holds_folders(child) and not child.images
    }
    if not named:
        exact = [name for name in candidates if exact_split_of(name)]
        joined = {split_of(name) for name in candidates}
        if not exact and not {"train", "test"} <= joined:
            return None
    found, missing = {}, None
    for part in parts:
        name = splits[part]
        if name in base.folders:
            found[part] = base.folders[name]
            continue
        like = [child for key, child in candidates.items() if split_of(key) == part]
        if named or len(like) != 1:
            missing = missing or name
            continue
        found[part] = like[0]
        notes.append(f"{shown(base.path)}: {shown(like[0].name)!r} is taken for the {part} split")
    if missing:
        raise DataError(
            f"{shown(base.path)}: no split {missing!r}; it has {_listed(map(shown, base.folders))}; "
            "set `train_split` and `test_split`"
        )
    return {part: _unwrapped(folder, notes) for part, folder in found.items()}


def _unwrapped(split: Folder, notes: list[str]) -> Folder:
    """Go into the one folder of a split that is named as a split or a helper, as ``seg_train/seg_train``."""
    holding = [child for child in split.folders.values() if child.below]
    if split.images or len(holding) != 1 or not (is_split(holding[0].name) or is_helper(holding[0].name)):
        return split
    if holding[0].images or not _holds_folders(holding[0]):
        return split
    notes.append(f"{shown(split.path)}: read in {shown(holding[0].name)}")
    return holding[0]


def _holds_classes(split: Folder) -> bool:
    """Whether any folder in it can be a class."""
    return any(
        child.below and not is_helper(name) and not is_split(name) for name, child in split.folders.items()
    )


def _no_classes(base: Folder) -> str | None:
    """Why the folders in ``base`` are no classes; ``None`` where they may be."""
    holding = [name for name, child in base.folders.items() if child.below]
    if not holding:
        return (
            f"{shown(base.path)}: {len(base.images)} images without class folders, and no table of their "
            "labels; put them in <class>/ or add metadata.csv with the columns file_name,label"
        )
    exact = {exact_split_of(name) for name in holding} - {None}
    # "train" may well be a class of vehicles; "test" and "masks" beside one other folder hardly are classes.
    odd = [name for name in holding if exact_split_of(name) in ("test", "other") or is_helper(name)]
    unlike = [name for name in holding if not is_split(name) and not is_helper(name)]
    if not unlike or {"train", "test"} <= exact or (odd and len(unlike) < 2):
        return (
            f"{shown(base.path)}: {_listed(map(shown, holding))} are names of splits or helpers and no "
            "classes, and no table of labels was found; put images in <split>/<class>/ or <class>/, or add "
            "metadata.csv with the columns file_name,label"
        )
    return None


def _splits_inside(base: Folder, parts: Sequence[str], notes: list[str]) -> dict[str, FolderClasses] | None:
    """Classes that are divided into splits themselves (``cat/train``, ``cat/test``), by part."""
    classes = [child for child in base.folders.values() if child.below]
    inside = [{split_of(name) for name, part in child.folders.items() if part.below} for child in classes]
    if not any("train" in one or "test" in one for one in inside):
        return None
    if any(
        child.images or None in one or not {"train", "test"} <= one
        for child, one in zip(classes, inside, strict=True)
    ):
        raise DataError(
            f"{shown(base.path)}: some class folders are divided into splits and others not, or not alike; "
            "put images in train/<class>/ and test/<class>/"
        )
    notes.append(f"{shown(base.path)}: splits are read inside the class folders")
    found = {}
    for part in parts:
        folders = {
            child.name: [
                path for name, f in child.folders.items() if split_of(name) == part for path in f.below
            ]
            for child in classes
        }
        found[part] = FolderClasses(base.path, folders)
    return found


def _refuse_two_levels(base: Folder, classes: int | None) -> None:
    """Refuse two levels of folders of which either may name the classes, unless their number tells."""
    holding = [child for child in base.folders.values() if child.below]
    inner = [
        {name for name, folder in child.folders.items() if folder.below and not _says_nothing(name)}
        for child in holding
    ]
    if len(holding) < 2 or any(child.images for child in holding) or len(inner[0]) < 2:
        return
    if any(one != inner[0] for one in inner) or (classes == len(holding) != len(inner[0])):
        return
    raise DataError(
        f"{shown(base.path)}: each of {_listed(shown(c.name) for c in holding)} holds "
        f"{_listed(map(shown, inner[0]))}; which of the two levels names the classes is not clear: give "
        "`classes` for the upper level, name splits with `train_split` and `test_split`, or leave one level"
    )


def _says_nothing(name: str) -> bool:
    """Whether a folder's name is a year or a date, or what kind of files it holds."""
    return _DATE.fullmatch(name) is not None or is_helper(name)


def _joined(
    tree: Folder,
    splits: Mapping[str, str],
    found: Mapping[str, FolderClasses],
    notes: list[str],
    used: set[str],
) -> OpenedFolder:
    names, pairs = by_label(tree.path, splits, found)
    sets: dict[str, ImageSet] = {}
    read: set[Path] = set()
    for part, labelled in pairs.items():
        paths = tuple(path for _, path in labelled)
        read.update(paths)
        sets[part] = image_set([label for label, _ in labelled], Files(paths))
    return _opened(tree, names, sets, read, notes, _unasked(tree, found, used))


def _unasked(tree: Folder, found: Mapping[str, object], used: set[str]) -> dict[str, str]:
    """Split folders whose part was not asked for: the training images of a set that is tested only."""
    if not used:
        return {}
    kinds = {name: split_of(name) for name in tree.folders if name not in used}
    return {name: part for name, part in kinds.items() if part in ("train", "test") and part not in found}


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
    opened = _joined(tree, splits, found, [], set())
    read = {path for images in opened.sets.values() for path in _paths(images)} | set(labelled.tables)
    names = opened.names
    if names and all(name.isdigit() for name in names):
        names, opened = _bare(opened)
    return _opened(tree, names, opened.sets, read, notes, {})


def _bare(opened: OpenedFolder) -> tuple[None, OpenedFolder]:
    """Labels that are whole numbers in a table are labels, not names."""
    assert opened.names is not None
    numbers = np.array([int(name) for name in opened.names])
    sets = {part: ImageSet(numbers[s.labels], s.rows, s.store) for part, s in opened.sets.items()}
    return None, OpenedFolder(None, sets, opened.notes, opened.passed)


def _paths(images: ImageSet) -> tuple[Path, ...]:
    assert isinstance(images.store, Files)
    return images.store.paths


def _below(folder: Path, path: Path) -> bool:
    return folder in path.parents


def _opened(
    tree: Folder,
    names: tuple[str, ...] | None,
    sets: dict[str, ImageSet],
    read: set[Path],
    notes: Iterable[str],
    unasked: Mapping[str, str],
) -> OpenedFolder:
    passed = passed_over(tree, read, unasked)
    said = passed_over_note(shown(tree.path), passed)
    return OpenedFolder(names, sets, (*notes, *([said] if said else ())), passed)


def _listed(names: Iterable[str], most: int = 12) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "nothing") + more
