"""Parts that data of pictures with captions name: training, validation, test, or none."""

from __future__ import annotations

import re
from functools import lru_cache

from clipdrift.data.folder_words import split_of

TRAIN, VALIDATION, TEST, ANY = 0, 1, 2, 3
PART_NAMES = ("training", "validation", "test", "no split")

_VALIDATION = {"val", "valid", "validate", "validation", "valset", "dev", "devel"} | {
    "eval",
    "evaluation",
    "holdout",
    "heldout",
}


@lru_cache(maxsize=1000)
def part_of(name: str) -> int | None:
    """Part that the name of a split, a folder or a file stands for; ``None`` where it stands for none.

    A number behind it does not count (``val2017``), and ``restval``, as Karpathy calls what is left of COCO's
    validation images, is training.
    """
    word = re.sub(r"[ _-]?\d+$", "", name.strip().lower())
    if word == "restval":
        return TRAIN
    found = split_of(word)
    if found == "other":
        return VALIDATION if _VALIDATION & {word.replace("_", ""), *re.split(r"[ _.-]+", word)} else None
    return None if found is None else {"train": TRAIN, "test": TEST}[found]
