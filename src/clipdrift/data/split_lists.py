"""Lists of training and test images beside class folders, as CUB-200-2011 has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clipdrift.data.class_folders import FolderClasses
from clipdrift.data.folder_words import exact_split_of, words_of
from clipdrift.data.images import shown
from clipdrift.data.tree import Folder

_NAMES, _SPLIT = "images.txt", "train_test_split.txt"


def listed_split(
    tree: Folder, base: Folder, classes: FolderClasses, notes: list[str]
) -> tuple[dict[str, FolderClasses], tuple[Path, ...]] | None:
    """Classes divided as ``train_test_split.txt`` says, and the lists; ``None`` where there is none of use.

    Lists of other forms are said not to be used.
    """
    for place in (base.path.parent, base.path):
        files = (place / _NAMES, place / _SPLIT)
        if place.is_relative_to(tree.path) and all(file.is_file() for file in files):
            divided = _divided(base, classes, *files)
            if divided is not None:
                notes.append(f"{shown(tree.path)}: divided as {_SPLIT} says")
                return divided, files
            notes.append(f"{shown(tree.path)}: {_SPLIT} does not name all images once, each in two columns")
    if lists := sorted(_lists(tree, base)):
        more = f" and {len(lists) - 2} more" if len(lists) > 2 else ""
        said = ", ".join(shown(path.relative_to(tree.path)) for path in lists[:2])
        notes.append(
            f"{shown(tree.path)}: lists of splits ({said}{more}) are not used; a fifth of each class is held "
            "out"
        )
    return None


def _divided(
    base: Folder, classes: FolderClasses, names: Path, split: Path
) -> dict[str, FolderClasses] | None:
    """Each part's images, in the classes' order; ``None`` unless every image is in the lists."""
    paths, is_train = _pairs(names), _pairs(split)
    if paths is None or is_train is None or paths.keys() != is_train.keys():
        return None
    train = {base.path / path: is_train[key] for key, path in paths.items()}
    every = [path for images in classes.images.values() for path in images]
    if len(train) != len(paths) or not train.keys() >= set(every) or not {"0", "1"} >= set(train.values()):
        return None
    return {
        part: FolderClasses(
            classes.root,
            {
                name: [path for path in images if train[path] == flag]
                for name, images in classes.images.items()
            },
        )
        for part, flag in (("train", "1"), ("test", "0"))
    }


def _pairs(file: Path) -> dict[str, str] | None:
    """What stands after the first word of each line, by that word."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    if any(len(line) != 2 for line in lines) or len({line[0] for line in lines}) != len(lines):
        return None
    return {key: value.strip() for key, value in lines}


def _lists(tree: Folder, base: Folder) -> Iterator[Path]:
    """Text files outside the class folders that are called after the test split."""
    children = list(tree.folders.values())
    for folder in (tree, *children, *(f for child in children for f in child.folders.values())):
        if folder.path == base.path or base.path not in folder.path.parents:
            for path in folder.others:
                if path.suffix.lower() in (".txt", ".lst", ".json") and "test" in {
                    exact_split_of(word) for word in words_of(path.stem)
                }:
                    yield path
