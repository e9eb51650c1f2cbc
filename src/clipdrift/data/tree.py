"""Files below a folder, listed once: images by folder, and a count of all that is passed over."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from clipdrift.data.decode import heif_installed, open_image
from clipdrift.data.folder_words import HEIF_ENDINGS, IMAGE_ENDINGS, advice, is_mask, is_system, without_mask
from clipdrift.data.images import shown

NO_ENDING = "without ending"
_HIDDEN = "hidden"


@dataclass(frozen=True)
class PassedOver:
    """Files that were not read.

    Attributes:
        place: The folder, relative to the data set's, at most two levels deep; ``.`` for itself.
        ending: In lower case, with its dot; or ``without ending``, ``hidden``, or what else they have in
            common, in words.
        count: How many.
    """

    place: str
    ending: str
    count: int


@dataclass(frozen=True, eq=False)
class Folder:
    """One folder with what is in it.

    Attributes:
        path: Where it is.
        images: Directly in it, in natural order of their names (``b2`` before ``b10``).
        folders: By name, sorted as text; empty ones too.
        others: Files directly in it that are no images.
    """

    path: Path
    images: tuple[Path, ...]
    folders: Mapping[str, Folder]
    others: tuple[Path, ...]

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def holds_images(self) -> bool:
        """Whether any image is in it or below."""
        return bool(self.images) or any(folder.holds_images for folder in self.folders.values())

    @cached_property
    def below(self) -> tuple[Path, ...]:
        """All images in it and below, in natural order of their paths relative to it."""
        deep = [path for folder in self.folders.values() for path in folder.below]
        if not deep:
            return self.images
        return tuple(
            sorted((*self.images, *deep), key=lambda p: natural(p.relative_to(self.path).as_posix()))
        )

    def walk(self) -> Iterator[Folder]:
        """Itself and every folder below."""
        yield self
        for folder in self.folders.values():
            yield from folder.walk()


def read_tree(root: Path) -> Folder:
    """List everything below a folder. Links are followed, except to a folder that holds them.

    Files without an ending are taken for images if Pillow knows what is inside. What operating systems
    leave behind (``__MACOSX``, ``.DS_Store``) is left out as if it were not there.
    """
    return _read(root, frozenset())


def _read(root: Path, above: frozenset[str]) -> Folder:
    real = os.path.realpath(root)
    images, others, folders = [], [], {}
    with os.scandir(root) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        path = root / entry.name
        if is_system(entry.name):
            continue
        if entry.is_dir():
            if entry.name.startswith("."):
                others.append(path)
            elif os.path.realpath(path) not in above | {real}:
                folders[entry.name] = _read(path, above | {real})
        elif is_image(path):
            images.append(path)
        else:
            others.append(path)
    images.sort(key=lambda path: natural(path.name))
    return Folder(root, tuple(images), folders, tuple(others))


def is_image(path: Path) -> bool:
    """Whether a file is taken for a picture: by its ending, or without one by what is inside."""
    # A dangling link has an ending too: reading it fails with its name, instead of a silent gap.
    if path.name.startswith("."):
        return False
    ending = ending_of(path)
    if ending == NO_ENDING:
        return holds_image(path)
    return ending in IMAGE_ENDINGS or (ending in HEIF_ENDINGS and heif_installed())


def holds_image(path: Path) -> bool:
    """Whether Pillow recognises a file's content."""
    try:
        with open_image(path):
            return True
    except Exception:  # whatever Pillow's readers stumble over is no picture
        return False


def ending_of(path: Path) -> str:
    """A file's ending in lower case; numbers are none (``frame.0001``)."""
    ending = path.suffix.lower()
    return NO_ENDING if ending in ("", ".") or ending[1:].isdigit() else ending


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


def passed_over(root: Folder, read: frozenset[Path] | set[Path]) -> tuple[PassedOver, ...]:
    """Count everything below ``root`` that is not in ``read``.

    Args:
        root: The data set's folder.
        read: Images and tables that were read, or would be for a part that was not asked for.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for folder in root.walk():
        parts = folder.path.relative_to(root.path).parts
        place = "/".join(parts[:2]) or "."
        for path in folder.images:
            if path not in read:
                kind = "masks" if any(map(is_mask, parts)) or without_mask(path.stem) else "images"
                counts[place, f"{ending_of(path)} ({kind})"] += 1
        for path in folder.others:
            if path not in read:
                counts[place, _HIDDEN if path.name.startswith(".") else ending_of(path)] += 1
    return tuple(PassedOver(shown(place), shown(ending), n) for (place, ending), n in sorted(counts.items()))


def passed_notes(data: str, passed: tuple[PassedOver, ...]) -> tuple[str, ...]:
    """The note of what was passed over, if anything was."""
    return (f"{data}: {passed_text(passed)}",) if passed else ()


def passed_text(passed: tuple[PassedOver, ...]) -> str:
    """How many files were passed over, by ending and by place, and what to do to have them read."""
    total = sum(one.count for one in passed)
    kinds: Counter[str] = Counter()
    for one in passed:
        kinds[one.ending] += one.count
    said = []
    for ending, count in kinds.most_common(8):
        places = [one.place for one in passed if one.ending == ending]
        where = ", ".join(places[:3]) + (f" and {len(places) - 3} more folders" if len(places) > 3 else "")
        todo = advice(ending)
        said.append(f"{count} {ending} in {where}" + (f" ({todo})" if todo else ""))
    rest = sum(count for _, count in kinds.most_common()[8:])
    more = f"; {rest} of other kinds" if rest else ""
    return f"{total} {'file was' if total == 1 else 'files were'} not read: {'; '.join(said)}{more}"
