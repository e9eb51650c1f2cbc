"""Folders of images: ``train/<class>/...`` and ``test/<class>/...``, or ``<class>/...`` alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from clipdrift.data.errors import DataError
from clipdrift.data.images import Files, ImageSet, image_set

EXTENSIONS = frozenset(
    (
        *(
            ".jpg",
            ".jpeg",
            ".jpe",
            ".jfif",
            ".jp2",
            ".png",
            ".gif",
            ".bmp",
            ".tif",
            ".tiff",
            ".webp",
            ".avif",
        ),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"),
    )
)
"""File endings taken for images, whatever their case; what is inside decides how they are decoded."""

_TEST_SHARE = 0.2
_TEST_SEED = 20_240_817  # fixed for good: another number would give every such folder another test set


def open_folder(
    root: Path, parts: Sequence[str], splits: Mapping[str, str], *, divisible: bool = True
) -> tuple[tuple[str, ...], dict[str, ImageSet]]:
    """Reads the layout of a folder; no image is opened.

    Files directly in a class folder count, hidden files and other endings do not. Classes are sorted as
    text, files in natural order (``b2`` before ``b10``). Links are followed.

    With split folders, only those asked for are looked at. A single level of class folders is divided
    here: of every class, a fifth (at least one image) becomes test, chosen once and for all by file name.

    Args:
        root: The folder.
        parts: Of ``train`` and ``test``, those wanted.
        splits: The folder name of each part.
        divisible: Whether a single level of class folders may be divided here; not if splits were named.

    Returns:
        Class folder names, and an image set for each part.

    Raises:
        DataError: No images, a split that is not there, or classes that are empty or in one split only.
    """
    children = _folders(root)
    if not divisible or any(_is_split(child) for child in children):
        missing = [name for name in (splits[part] for part in parts) if not (root / name).is_dir()]
        if missing:
            raise DataError(
                f"{root}: no split {missing[0]!r}; it has {_listed(child.name for child in children)}; "
                "set `train_split` and `test_split`"
            )
        found = {part: _classes(root / splits[part]) for part in parts}
    else:
        both = _divide(root, _classes(root))
        found = {part: both[part] for part in parts}
    names = tuple(sorted({name for classes in found.values() for name in classes}))
    sets = {}
    for part, classes in found.items():
        lacking = [name for name in names if name not in classes]
        if lacking:
            raise DataError(
                f"{root}: no class folder {lacking[0]!r} in {splits[part]!r}, though another split has it"
            )
        files = [(label, path) for label, name in enumerate(names) for path in classes[name]]
        sets[part] = image_set([label for label, _ in files], Files(tuple(path for _, path in files)))
    return names, sets


def all_images(root: Path) -> ImageSet:
    """Every image below a folder, without classes: all labels are 0. In natural order of their paths.

    Raises:
        DataError: No such folder, or no image in it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    paths = sorted((path for path in walk(root) if _is_image(path)), key=lambda path: natural(str(path)))
    if not paths:
        raise DataError(f"{root}: no images in it (looked for {_listed(EXTENSIONS)})")
    return image_set(np.zeros(len(paths)), Files(tuple(paths)))


def natural(text: str) -> tuple[tuple[int, str], ...]:
    """Sort key under which ``b2`` comes before ``b10``."""
    pieces = re.split(r"(\d+)", text)
    # The text itself comes last: "b02" and "b2" must not be left to the order in which a disk lists them.
    return (*((int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces), (-2, text))


def walk(root: Path) -> Iterator[Path]:
    """List all files below a folder except hidden ones. Links are followed, each folder once."""
    seen = set()
    for folder, children, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            children.clear()
            continue
        seen.add(real)
        children[:] = sorted(child for child in children if not child.startswith("."))
        yield from (Path(folder, file) for file in sorted(files) if not file.startswith("."))


def has_classes(root: Path) -> bool:
    """Whether any folder is in it that could be a class or a split."""
    return bool(_folders(root))


def _folders(root: Path) -> list[Path]:
    return sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))


def _is_image(path: Path) -> bool:
    # A dangling link is no directory and so stays: reading it fails with its name, instead of a silent gap.
    return not path.name.startswith(".") and path.suffix.lower() in EXTENSIONS and not path.is_dir()


def _images(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if _is_image(path)), key=lambda path: natural(path.name))


def _is_split(folder: Path) -> bool:
    """Tell a split, which holds class folders, from a class, which holds images: "train" may well be a
    class of vehicles."""
    return bool(_folders(folder)) and not _images(folder)


def _classes(folder: Path) -> dict[str, list[Path]]:
    classes = {child.name: _images(child) for child in _folders(folder)}
    if not classes:
        raise DataError(f"{folder}: no class folders in it; images belong in {folder.name}/<class>/")
    for name, images in classes.items():
        if not images:
            raise DataError(f"{folder / name}: no images in this class folder; fill it or remove it")
    return classes


def _divide(root: Path, classes: dict[str, list[Path]]) -> dict[str, dict[str, list[Path]]]:
    both: dict[str, dict[str, list[Path]]] = {"train": {}, "test": {}}
    for name, images in classes.items():
        if len(images) < 2:
            raise DataError(
                f"{root / name}: one image only; at least two are needed to hold one out for testing"
            )
        # Seeded by the class alone and not by its position: one more class leaves the others' test images.
        order = np.random.default_rng([_TEST_SEED, *name.encode()]).permutation(len(images))
        held_out = set(order[: max(1, round(_TEST_SHARE * len(images)))].tolist())
        both["test"][name] = [image for i, image in enumerate(images) if i in held_out]
        both["train"][name] = [image for i, image in enumerate(images) if i not in held_out]
    return both


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
