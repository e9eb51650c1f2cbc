"""Folder names that stand for splits or helpers and not for classes; files that systems leave behind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Literal


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


IMAGE_ENDINGS = _words(
    ".jpg .jpeg .jpe .jfif .jp2 .png .gif .bmp .tif .tiff .webp .avif .ppm .pgm .pbm .pnm .tga .ico"
)
"""File endings taken for images, in any case; what is inside decides how they are decoded."""

HEIF_ENDINGS = _words(".heic .heif .hif")
"""Read where pillow-heif is installed."""

_ADVICE = {
    ".jxl": "convert them to JPEG or PNG",
    ".psd": "convert them to JPEG or PNG",
    ".svg": "convert them to PNG",
    ".dcm": "DICOM; convert them to PNG",
    ".npy": "arrays; save them as PNG",
    ".npz": "arrays; save them as PNG",
    ".zip": "unpack them",
    ".tar": "unpack them",
    ".tgz": "unpack them",
    ".gz": "unpack them",
    ".rar": "unpack them",
    ".7z": "unpack them",
} | dict.fromkeys((".cr2", ".nef", ".arw", ".dng", ".raf", ".raw"), "camera raw; convert them to JPEG")
_ADVICE |= dict.fromkeys(HEIF_ENDINGS, "pip install pillow-heif, or convert them to JPEG")

_SYSTEM = _words(
    "__macosx thumbs.db ehthumbs.db desktop.ini @eadir .ds_store .ipynb_checkpoints .git .cache .trashes "
    ".appledouble .spotlight-v100 .fseventsd .thumbnails #recycle $recycle.bin lost+found __pycache__"
) | {"system volume information"}

_TRAIN = _words("train training trainset train_set trn tr")
_TEST = _words("test testing testset test_set tst te")
_OTHER_SPLITS = _words(
    "val valid validate validation valset val_set dev devel eval evaluation holdout held_out heldout query "
    "gallery probe unlabeled unlabelled extra"
)
_SHORT = {"tr", "te"}
_JOINED = (_TRAIN | _TEST | {"val", "valid", "validation", "dev", "eval"}) - _SHORT
_MASKS = _words(
    "mask masks label labels annotation annotations anno annos annot gt groundtruth ground_truth seg "
    "segmentation segmentations trimap trimaps"
)
_HELPERS = _MASKS | _words(
    "image images img imgs picture pictures pic pics photo photos jpeg jpegs jpegimages jpg png pngs bbox "
    "bboxes boxes xml json txt csv meta metadata caption captions data dataset raw processed original "
    "originals resized crop crops cropped thumb thumbs thumbnails sample samples"
)
_NUMBERED_HELPERS = _words(
    "image images img imgs picture pictures pic pics photo photos jpegimages data dataset"
)
_PIECES = ("part", "chunk", "shard", "batch", "piece")
_FOLDS = ("fold", "split", "partition", "subset", "set")
_PART = re.compile(rf"(.*[ _.-])?({'|'.join((*_PIECES, *_FOLDS))})[ _-]?(?:[0-9]+|[a-d])")
"""A part with its number, whatever stands before it: ``fold1``, ``HAM10000_images_part_2``."""
_NUMBER = re.compile(r"[ _-]?[0-9]+$")
_MASK = re.compile(rf"(.+)[ _.-](?:{'|'.join(sorted(_MASKS))})(?:[ _-]?[0-9]+)?", re.IGNORECASE)


def is_system(name: str) -> bool:
    """Whether an operating system, a viewer or an archiver made it, such as ``__MACOSX`` or ``Thumbs.db``."""
    return name.lower() in _SYSTEM or name.startswith("._")


Part = Literal["train", "test", "other"]


def split_of(name: str) -> Part | None:
    """Part of the data that a folder's name stands for; ``None`` where it stands for none.

    Words such as ``train``, ``Testing`` or ``val``, with a number or without (``train2017``), folds
    (``fold1``), and joined names: a split after anything (``seg_train``), or before a helper
    (``test-images``).
    """
    return exact_split_of(name) or _joined_split_of(name)


def exact_split_of(name: str) -> Part | None:
    """:func:`split_of` for names that are nothing else, so that ``bullet_train`` is none."""
    word = name.lower()
    stem = _NUMBER.sub("", word)
    kinds: tuple[tuple[Part, frozenset[str]], ...] = (
        ("train", _TRAIN),
        ("test", _TEST),
        ("other", _OTHER_SPLITS),
    )
    for part, words in kinds:
        if word in words or stem in words - _SHORT:
            return part
    return "other" if (match := _PART.fullmatch(word)) and not match[1] else None


def _joined_split_of(name: str) -> Part | None:
    pieces = [piece for piece in re.split(r"[ _.-]+", _NUMBER.sub("", name.lower())) if piece]
    if len(pieces) < 2:
        return None
    rest_is_helper = all(is_helper(piece) or piece.isdigit() for piece in pieces[1:])
    for piece in (pieces[-1], *(pieces[:1] if rest_is_helper else ())):
        if _NUMBER.sub("", piece) in _JOINED and (found := exact_split_of(piece)):
            return found
    return None


def words_of(stem: str) -> list[str]:
    """The words of a file's name, in lower case, without numbers and punctuation."""
    return re.findall("[a-z]+", stem.lower())


def is_split(name: str) -> bool:
    """Whether a folder's name stands for a split."""
    return split_of(name) is not None


def is_helper(name: str) -> bool:
    """Whether a folder's name says what kind of files it holds (``images``, ``masks``), and no class."""
    word = name.lower()
    return word in _HELPERS or _NUMBER.sub("", word) in _NUMBERED_HELPERS


def is_mask(name: str) -> bool:
    """Whether a folder's name says that its images are drawn over others: masks, segmentations."""
    return name.lower() in _MASKS


def without_mask(stem: str) -> str | None:
    """The file that a mask is of, by names as ``x_mask`` or ``x_mask_1``; ``None`` for other names."""
    match = _MASK.fullmatch(stem)
    return match[1] if match else None


def is_piece(name: str) -> bool:
    """Whether a folder is a numbered part of a larger one, made to keep files small (``images_part_1``)."""
    match = _PART.fullmatch(name.lower())
    return match is not None and match[2] in _PIECES


def is_numbered_part(name: str) -> bool:
    """Whether it is a split or part with its number (``train2017``, ``x_part_1``): hardly a class."""
    return _PART.fullmatch(name.lower()) is not None or (name[-1:].isdigit() and bool(exact_split_of(name)))


def class_like(names: Iterable[str]) -> list[str]:
    """Names that can be classes: of no split, of no helper, and no two that differ in a part's number."""
    listed = list(names)
    series = Counter(_series(name) for name in listed)
    return [
        name
        for name in listed
        if not (is_helper(name) or is_split(name) or (_series(name) and series[_series(name)] > 1))
    ]


def are_no_classes(names: Iterable[str]) -> bool:
    """Whether folders side by side are splits, parts or helpers, though one of them could be a class.

    "train" may well be a class of vehicles; "test", "masks", "train2017" or a part with its number beside
    one other folder hardly are classes.
    """
    listed = list(names)
    like = class_like(listed)
    exact = {name: exact_split_of(name) for name in listed}
    odd = any(exact[n] in ("test", "other") or is_helper(n) or is_numbered_part(n) for n in listed)
    return not like or {"train", "test"} <= set(exact.values()) or (odd and len(like) < 2)


def _series(name: str) -> tuple[str, str] | None:
    """What a part's name is without its number."""
    match = _PART.fullmatch(name.lower())
    return (match[1] or "", match[2]) if match else None


def advice(ending: str) -> str | None:
    """What to do about files of this ending to have them read; ``None`` where they hold no pictures."""
    return _ADVICE.get(ending)
