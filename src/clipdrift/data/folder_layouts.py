"""Levels of a data folder: which folders are splits, which are classes, and which could be either."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from clipdrift.data.class_folders import FolderClasses, classes_in, mostly_alike
from clipdrift.data.errors import DataError
from clipdrift.data.folder_words import (
    are_no_classes,
    class_like,
    exact_split_of,
    is_helper,
    is_mask,
    is_split,
    split_of,
)
from clipdrift.data.images import shown
from clipdrift.data.masks import images_of
from clipdrift.data.tree import Folder


def descended(tree: Folder, notes: list[str], named: Mapping[str, str]) -> Folder:
    """Go into folders that hold all the rest, as archives unpacked into a folder of their own do."""
    base = tree
    while not base.images:
        holding = [child for child in base.folders.values() if child.holds_images]
        if len(holding) > 1:  # images beside annotations: helpers that hold no classes are no obstacle
            holding = [
                child
                for child in holding
                if not is_helper(child.name) or (_holds_folders(child) and not is_mask(child.name))
            ]
            helpers = [
                child for child in base.folders.values() if child.holds_images and is_helper(child.name)
            ]
            if len(holding) != 1 or not is_helper(holding[0].name) or len(helpers) < 2:
                break
        if len(holding) != 1 or is_split(holding[0].name) or holding[0].name in named.values():
            break
        inner = _holds_folders(holding[0]) if is_helper(holding[0].name) else bool(classes_in(holding[0]))
        if holding[0].images or not inner:
            break
        base = holding[0]
    if base is not tree:
        notes.append(f"{shown(tree.path)}: read in {shown(base.path.relative_to(tree.path))}")
    return base


def _holds_folders(folder: Folder) -> bool:
    return any(child.holds_images for child in folder.folders.values())


def split_folders(
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
        alone = next((f for part, f in found.items() if part == "train" and holds_classes(f)), None)
        hint = f", or give {shown(alone.path)} alone, of which a fifth is then held out" if alone else ""
        raise DataError(
            f"{shown(base.path)}: no split {missing!r}; it has {_listed(map(shown, base.folders))}; "
            f"set `train_split` and `test_split`{hint}"
        )
    return {part: _unwrapped(folder, notes) for part, folder in found.items()}


def _unwrapped(split: Folder, notes: list[str]) -> Folder:
    """Go into the one folder of a split that is named as a split or a helper, as ``seg_train/seg_train``."""
    holding = [child for child in split.folders.values() if child.holds_images]
    if split.images or len(holding) != 1 or not (is_split(holding[0].name) or is_helper(holding[0].name)):
        return split
    if holding[0].images or not _holds_folders(holding[0]):
        return split
    notes.append(f"{shown(split.path)}: read in {shown(holding[0].name)}")
    return holding[0]


def holds_classes(split: Folder) -> bool:
    """Whether any folder in it can be a class."""
    return bool(class_like(name for name, child in split.folders.items() if child.holds_images))


def no_classes(base: Folder) -> str | None:
    """Why the folders in ``base`` are no classes; ``None`` where they may be."""
    holding = [name for name, child in base.folders.items() if child.holds_images]
    if not holding:
        return (
            f"{shown(base.path)}: {len(base.images)} images without class folders, and no table of their "
            "labels; put them in <class>/ or add metadata.csv with the columns file_name,label"
        )
    if are_no_classes(holding):
        return (
            f"{shown(base.path)}: {_listed(map(shown, holding))} are names of splits or helpers and no "
            "classes, and no table of labels was found; put images in <split>/<class>/ or <class>/, or add "
            "metadata.csv with the columns file_name,label"
        )
    return None


def only_folder(base: Folder) -> Folder | None:
    """The folder that holds all the images, where one alone does: hardly a class."""
    holding = [child for child in base.folders.values() if child.holds_images]
    return holding[0] if len(holding) == 1 else None


def splits_inside(base: Folder, notes: list[str]) -> dict[str, FolderClasses] | None:
    """Classes that are divided into splits themselves (``cat/train``, ``cat/test``), by part."""
    classes = [child for child in base.folders.values() if child.holds_images]
    inside = [
        {split_of(name) for name, part in child.folders.items() if part.holds_images} for child in classes
    ]
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
    for part in ("train", "test"):
        folders = {
            child.name: [
                path for name, f in child.folders.items() if split_of(name) == part for path in images_of(f)
            ]
            for child in classes
        }
        found[part] = FolderClasses(base.path, folders)
    return found


def refuse_two_levels(base: Folder, classes: int | None) -> None:
    """Refuse two levels of folders of which either may name the classes, unless their number tells."""
    holding = [child for child in base.folders.values() if child.holds_images]
    if len(holding) < 2 or any(child.images for child in holding):
        return
    inner = [classes_in(child) for child in holding]
    shared = set.intersection(*(set(one) for one in inner))
    everywhere = set().union(*inner)
    if not mostly_alike(shared, everywhere) or (classes == len(holding) != len(everywhere)):
        return
    alone = next(iter(inner[0].values())).path.parent
    raise DataError(
        f"{shown(base.path)}: each of {_listed(shown(c.name) for c in holding)} holds "
        f"{_listed(map(shown, shared))}; which of the two levels names the classes is not clear: give "
        f"{shown(alone)} alone if they are the classes, else `classes` for the upper level; or name splits "
        "with `train_split` and `test_split`"
    )


def _listed(names: Iterable[str], most: int = 12) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "nothing") + more
