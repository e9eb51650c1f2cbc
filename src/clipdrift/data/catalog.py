"""Catalog of data sets: where each one is, its columns, its classes and its prompts.

To add a data set, add one row. Nothing heavy is imported here, so that listing the rows is immediate.
Generated worlds have their own table, :data:`clipdrift.data.worlds.WORLDS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from clipdrift.data.class_names import (
    CIFAR10,
    CIFAR100,
    CIFAR100_BROADER,
    EUROSAT,
    EUROSAT_FOLDERS,
    FLOWERS102,
    PETS,
)


@dataclass(frozen=True)
class CatalogRow:
    """One data set.

    Attributes:
        name: What a configuration calls it.
        hub: Its id on the Hugging Face hub.
        image_column, label_column: The columns that are read.
        train_split, test_split: The splits that are read.
        classes: Readable class names in the hub's label order; ``None``: whatever names the data carry.
        prompts: Templates with one ``{}`` for the class name. The first is the default, all of them make
            the ensemble.
        note: What a user should know before relying on it.
        reference: Who made it.
        labels: The names that the data themselves use, aligned with ``classes``, where those names are not
            readable (``"77"``, ``"SeaLake"``). Data are matched to ``classes`` by these names, never by
            position, so that a copy in another order is still named correctly.
        broader: A broader term for each class that has one, as in ``{"oak tree": "tree"}``, for captions.
    """

    name: str
    hub: str
    image_column: str
    label_column: str
    train_split: str
    test_split: str
    classes: tuple[str, ...] | None
    prompts: tuple[str, ...]
    note: str
    reference: str
    labels: tuple[str, ...] | None = None
    broader: Mapping[str, str] = field(default_factory=dict)


DEFAULT_PROMPTS = ("a photo of a {}",)
"""For data that bring no templates of their own."""

# The published transfer sets are tested with this very string, without a full stop.
_PHOTO = DEFAULT_PROMPTS[0]
_SMALL_PHOTOS = (
    _PHOTO,
    "a blurry photo of a {}",
    "a low contrast photo of a {}",
    "a bad photo of a {}",
    "a good photo of a {}",
    "a photo of a small {}",
    "a photo of a big {}",
    "a photo of the {}",
)

# The hub copy has the flowers' numbers as text and sorts that text: "1", "10", "100", "101", "102", "11" ...
_FLOWER_NUMBERS = tuple(sorted(str(number) for number in range(1, 103)))

_ROWS = (
    CatalogRow(
        name="eurosat",
        hub="tanganke/eurosat",
        image_column="image",
        label_column="label",
        train_split="train",
        test_split="test",
        classes=EUROSAT,
        labels=EUROSAT_FOLDERS,
        prompts=(
            "a centered satellite photo of {}.",
            "a centered satellite photo of a {}.",
            "a centered satellite photo of the {}.",
            "a satellite photo of {}.",
            "an aerial view of {}.",
        ),
        note="Sentinel-2, 64x64 pixels, 10 kinds of land use; 21,600 train and 2,700 test images.",
        reference="Helber et al. 2019, EuroSAT, IEEE JSTARS 12(7)",
    ),
    CatalogRow(
        name="pets",
        hub="timm/oxford-iiit-pet",
        image_column="image",
        label_column="label",
        train_split="train",
        test_split="test",
        classes=PETS,
        prompts=(
            "a photo of a {}, a type of pet.",
            "a photo of a {}.",
            "a close-up photo of a {}.",
            "a photo of the {}, a type of pet.",
            "a good photo of a {}, a type of pet.",
        ),
        note="37 breeds of cats and dogs; 3,680 train and 3,669 test images.",
        reference="Parkhi et al. 2012, Cats and Dogs, CVPR",
    ),
    CatalogRow(
        name="cifar100",
        hub="uoft-cs/cifar100",
        image_column="img",
        label_column="fine_label",
        train_split="train",
        test_split="test",
        classes=CIFAR100,
        broader=CIFAR100_BROADER,
        prompts=_SMALL_PHOTOS,
        note="32x32 pixels, 100 classes; 50,000 train and 10,000 test images. Default prompt as published.",
        reference="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    ),
    CatalogRow(
        name="cifar10",
        hub="uoft-cs/cifar10",
        image_column="img",
        label_column="label",
        train_split="train",
        test_split="test",
        classes=CIFAR10,
        prompts=_SMALL_PHOTOS,
        note="32x32 pixels, 10 classes; 50,000 train and 10,000 test images. Default prompt as published.",
        reference="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    ),
    CatalogRow(
        name="flowers102",
        hub="nelorth/oxford-flowers",
        image_column="image",
        label_column="label",
        train_split="train",
        test_split="test",
        classes=tuple(FLOWERS102[int(number) - 1] for number in _FLOWER_NUMBERS),
        labels=_FLOWER_NUMBERS,
        prompts=(
            _PHOTO,
            "a photo of a {}, a type of flower.",
            "a close-up photo of a {}, a type of flower.",
            "a photo of the {}, a type of flower.",
        ),
        note="102 flowers; 7,169 train and 1,020 test images. The hub copy names its classes '1'..'102' "
        "(Oxford's numbers) and orders them as text: label 1 is number 10, globe thistle, not number 2.",
        reference="Nilsback and Zisserman 2008, Automated Flower Classification, ICVGIP",
    ),
)

CATALOG: dict[str, CatalogRow] = {row.name: row for row in _ROWS}


def readable(name: str) -> str:
    """A class name as a prompt needs it.

    Underscores become spaces and runs of spaces one space. A single word in CamelCase is split and put in
    lower case (``AnnualCrop`` -> ``annual crop``); any other name keeps its letters (``Abyssinian``,
    ``great_white_Shark`` -> ``great white Shark``), since capitals mean nothing to CLIP's tokenizer.
    Hyphens stay. Names that this spoils (``McLaren``) are set with ``classes`` in the configuration.
    """
    spaced = " ".join(name.replace("_", " ").split())
    if re.fullmatch(r"(?:[A-Z][a-z]+){2,}", spaced):
        return " ".join(re.findall(r"[A-Z][a-z]+", spaced)).lower()
    return spaced
