"""Masks beside images: pictures drawn over others, which nothing is to be trained on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from clipdrift.data.folder_words import is_helper, is_mask, without_mask
from clipdrift.data.tree import Folder


def images_of(folder: Folder) -> list[Path]:
    """All images in a class folder and below that are no masks, in natural order."""
    masks = masks_in(folder, of_class=True)
    return [path for path in folder.below if path not in masks]


def masks_in(folder: Folder, *, of_class: bool = False) -> set[Path]:
    """Masks in a folder and below.

    These are files called after an image in the same folder (``x_mask.png`` beside ``x.png``), and images in
    folders such as ``masks`` beside images.

    Args:
        of_class: Whether the folder is a class, so that no folder in it can be one. Elsewhere ``masks``
            beside folders that may be classes may be one too.
    """
    found = set(_beside(folder.images))
    others = [name for name, child in folder.folders.items() if child.holds_images and not is_mask(name)]
    certain = of_class or all(map(is_helper, others))
    for name, child in folder.folders.items():
        if is_mask(name) and certain and (others or folder.images):
            found.update(child.below)
        else:
            found |= masks_in(child, of_class=of_class)
    return found


def _beside(images: Iterable[Path]) -> list[Path]:
    stems = {path.stem for path in images}
    return [path for path in images if without_mask(path.stem) in stems]
