"""Texts that a penalty compares images with, in place of the target's classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipdrift.config import DataSet, Penalty, ZeroShotKl
from clipdrift.data.caption_store import CaptionSource
from clipdrift.data.catalog import CATALOG, DEFAULT_PROMPTS
from clipdrift.data.errors import DataError
from clipdrift.data.pairs import open_pairs
from clipdrift.data.parts import TEST, VALIDATION
from clipdrift.data.sources import open_source

LEAST = 2
"""Over one text every distribution is the same."""


def compared_texts(penalties: Sequence[Penalty], image_size: int) -> tuple[str, ...] | None:
    """Texts of the set that a penalty is to be taken over; None: of the target itself.

    Raises:
        DataError: a set that cannot be read, or too few texts.
    """
    for penalty in penalties:
        if isinstance(penalty, ZeroShotKl) and penalty.over is not None:
            spec = penalty.over
            texts = _captions(spec, penalty.captions) if spec.retrieval else _classes(spec, image_size)
            if len(texts) < LEAST:
                raise DataError(f"{spec.name}: penalty {penalty.name} needs {LEAST} texts to compare over")
            return texts
    return None


def some_captions(captions: CaptionSource, most: int) -> tuple[str, ...]:
    """The first caption of evenly spaced images, each text once."""
    count = len(captions)
    chosen = np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))
    return tuple(dict.fromkeys(captions.text(int(image), 0) for image in chosen))


def _captions(spec: DataSet, most: int) -> tuple[str, ...]:
    """Captions of a set; where it names its parts, not those of validation and test images."""
    source = open_pairs(spec)
    apart = np.isin(source.part, (VALIDATION, TEST))
    return some_captions(source.captions.subset(np.flatnonzero(~apart | apart.all())), most)


def _classes(spec: DataSet, image_size: int) -> tuple[str, ...]:
    """Each class in a set's first prompt; no image is looked for where the classes are known without."""
    row = CATALOG.get(spec.name)
    classes = spec.classes or (row.classes if row and spec.path is None else None)
    prompts = spec.prompts or (row.prompts if row else DEFAULT_PROMPTS)
    if classes is None:
        source = open_source(spec, image_size=image_size, parts=("test",))
        classes, prompts = source.classes, source.prompts
    return tuple(dict.fromkeys(prompts[0].format(name) for name in classes))
