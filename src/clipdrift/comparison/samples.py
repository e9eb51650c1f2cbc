"""Values image by image from which the numbers of a comparison follow, for their sampling error."""

from __future__ import annotations

from dataclasses import dataclass, field

from clipdrift.comparison.abilities import TestSet, ZeroShot
from clipdrift.comparison.images import ProbeSet
from clipdrift.data.preprocess import Preprocess
from clipdrift.measures import Internals


@dataclass(frozen=True, eq=False)
class Samples:
    """Both models on the same images, before anything is averaged.

    Attributes:
        before, after: internals of both on the probe images.
        preprocess: how pictures were made into what both were read on; None for tensors.
        probe: the images.
        zero_shot: for each transfer set what was tested, BASE on it, TUNED on it.
    """

    before: Internals
    after: Internals
    preprocess: Preprocess | None
    probe: ProbeSet
    zero_shot: dict[str, tuple[TestSet, ZeroShot, ZeroShot]] = field(default_factory=dict)
