"""An opened data set of pictures with captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clipdrift.data.caption_store import CaptionSource
from clipdrift.data.images import ImageSet
from clipdrift.data.tree import PassedOver

PairKind = Literal["folder", "parquet", "webdataset", "saved", "hub", "table"]


@dataclass(frozen=True, eq=False)
class PairSource:
    """Pictures with captions, not decoded yet.

    Attributes:
        name: As in the configuration.
        kind: How they are kept.
        images: Every image that has a caption; all labels are 0.
        captions: Of each image, in the order of ``images``.
        part: int8 ``(n,)``, the part of the data that each image belongs to: ``TRAIN``, ``VALIDATION``,
            ``TEST`` or ``ANY`` of :mod:`clipdrift.data.parts`.
        notes: One line each: what was guessed, and what was left out.
        passed: Files below a local copy that were not read, counted.
    """

    name: str
    kind: PairKind
    images: ImageSet
    captions: CaptionSource
    part: NDArray[np.int8]
    notes: tuple[str, ...] = ()
    passed: tuple[PassedOver, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.captions) == len(self.part):
            raise ValueError(
                f"{len(self.images)} images, captions of {len(self.captions)} and parts of {len(self.part)}"
            )

    def __len__(self) -> int:
        return len(self.images)
