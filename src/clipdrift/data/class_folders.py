"""Class folders: their images and names, and dividing them where nothing divides them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from clipdrift.data.errors import DataError
from clipdrift.data.folder_words import (
    are_no_classes,
    exact_split_of,
    is_helper,
    is_numbered_part,
    is_split,
    split_of,
)
from clipdrift.data.images import shown
from clipdrift.data.masks import images_of
from clipdrift.data.tree import Folder

_DATE = re.compile(r"(19|20)\d\d([-_.]?\d\d){0,2}")
_TEST_SHARE = 0.2
_TEST_SEED = 20_240_817  # fixed for good: another number would give every such folder another test set


@dataclass(frozen=True, eq=False)
class FolderClasses:
    """Images by class.

    Attributes:
        root: How errors name the place.
        images: By the class's own name.
    """

    root: Path
    images: Mapping[str, Sequence[Path]]

    @classmethod
    def of(cls, root: Path, labelled: Sequence[tuple[Path, str]]) -> FolderClasses:
        """Images that a table labels."""
        images: dict[str, list[Path]] = {}
        for path, name in labelled:
            images.setdefault(unicodedata.normalize("NFC", name), []).append(path)
        return cls(root, images)


def class_folders(folder: Folder, notes: list[str]) -> FolderClasses:
    """The classes in a folder: its sub-folders, with all images below each.

    Raises:
        DataError: No class folders, one without images, two of equal name, or names that are no classes.
    """
    holding = {
        name: child for name, child in folder.folders.items() if child.holds_images or not is_helper(name)
    }
    if not holding:
        hint = ""
        if split_of(folder.name) == "test":
            hint = (
                "; without labels to test on, give the folder of the training split alone: it is then divided"
            )
        raise DataError(
            f"{shown(folder.path)}: no class folders in it; images belong in {folder.name}/<class>/{hint}"
        )
    if are_no_classes(holding):
        raise DataError(
            f"{shown(folder.path)}: {', '.join(map(shown, holding))} are names of helpers or splits and no "
            f"classes; images belong in {folder.name}/<class>/"
        )
    images: dict[str, Sequence[Path]] = {}
    for name, child in _uncopied(folder, holding, notes).items():
        if not child.holds_images:
            raise DataError(f"{shown(child.path)}: no images in this class folder; fill it or remove it")
        if shown(name) != name:
            raise DataError(
                f"{shown(child.path)}: the folder's name is not UTF-8; rename it, as it names a class"
            )
        own = unicodedata.normalize("NFC", name)
        if own in images:
            raise DataError(
                f"{shown(folder.path)}: two class folders are both called {own!r}, in different Unicode "
                "forms; put their images in one"
            )
        images[own] = images_of(child)
        if is_helper(name) or exact_split_of(name) or is_numbered_part(name):
            notes.append(
                f"{shown(folder.path)}: {name!r} is taken for a class, though it may mean something else"
            )
    return FolderClasses(folder.path, images)


def classes_in(folder: Folder) -> dict[str, Folder]:
    """Folders in it that could be classes; those in a helper or a split are looked for inside that."""
    found: dict[str, Folder] = {}
    for name, child in folder.folders.items():
        if is_helper(name) or is_split(name):
            found |= classes_in(child)
        elif child.holds_images and not _DATE.fullmatch(name):
            found[name] = child
    return found


def mostly_alike(shared: set[str], everywhere: set[str]) -> bool:
    """Whether folders hold the same classes, though one of them may lack some."""
    return len(shared) >= 2 and 2 * len(shared) >= len(everywhere)


def _uncopied(folder: Folder, holding: Mapping[str, Folder], notes: list[str]) -> dict[str, Folder]:
    """Class folders without a second set of them among them, as an archive unpacked twice leaves it."""
    kept = {}
    for name, child in holding.items():
        beside = holding.keys() - {name}
        if mostly_alike(classes_in(child).keys() & beside, beside):
            notes.append(
                f"{shown(folder.path)}: {shown(name)} holds folders of the same names as beside it and is "
                f"passed over as a copy: {len(child.below)} images"
            )
        else:
            kept[name] = child
    return kept


def divide_classes(root: Path, classes: FolderClasses) -> dict[str, FolderClasses]:
    """Hold out a fifth of every class for testing.

    Raises:
        DataError: A class of one image.
    """
    train: dict[str, Sequence[Path]] = {}
    test: dict[str, Sequence[Path]] = {}
    for name, images in classes.images.items():
        if len(images) < 2:
            raise DataError(
                f"{shown(root / name)}: one image only; at least two are needed to hold one out for testing"
            )
        # Seeded by the class alone and not by its position: one more class leaves the others' test images.
        order = np.random.default_rng([_TEST_SEED, *name.encode()]).permutation(len(images))
        held_out = set(order[: max(1, round(_TEST_SHARE * len(images)))].tolist())
        test[name] = [image for i, image in enumerate(images) if i in held_out]
        train[name] = [image for i, image in enumerate(images) if i not in held_out]
    return {"train": FolderClasses(root, train), "test": FolderClasses(root, test)}


def by_label(
    root: Path, splits: Mapping[str, str], found: Mapping[str, FolderClasses]
) -> tuple[tuple[str, ...], dict[str, list[tuple[int, Path]]]]:
    """Class names in label order, and for each part label and file of every image.

    Raises:
        DataError: A class that one split lacks.
    """
    names = in_label_order({name for classes in found.values() for name in classes.images}, shown(root))
    pairs = {}
    for part, classes in found.items():
        lacking = [name for name in names if name not in classes.images]
        if lacking:
            raise DataError(
                f"{shown(root)}: no class folder {lacking[0]!r} in {splits[part]!r}, though another split "
                "has it"
            )
        pairs[part] = [(label, path) for label, name in enumerate(names) for path in classes.images[name]]
    return names, pairs


def in_label_order(names: set[str], data: str) -> tuple[str, ...]:
    """Names sorted as text, or by number where all are whole numbers.

    Raises:
        DataError: Two numbers that are equal, as ``1`` and ``01``.
    """
    if not all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names))
    ordered = sorted(names, key=lambda name: (int(name), name))
    for one, other in pairwise(ordered):
        if int(one) == int(other):
            raise DataError(f"{data}: classes {one!r} and {other!r} are the same number; rename one")
    return tuple(ordered)
