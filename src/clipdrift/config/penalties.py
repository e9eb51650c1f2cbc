"""Options of each penalty: frozen models told apart by ``name``."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from clipdrift.config.base import PenaltyOptions, name_of
from clipdrift.extensions import extensions

BLOCKS = Field(None, description="Blocks, from 1, that it is taken over; none: all.")


class _OverBlocks(PenaltyOptions):
    blocks: tuple[int, ...] | None = BLOCKS

    @model_validator(mode="after")
    def _from_one(self) -> Self:
        if self.blocks is not None and (not self.blocks or min(self.blocks) < 1):
            raise ValueError("blocks count from 1; leave the key out for all")
        if self.blocks is not None and len(set(self.blocks)) != len(self.blocks):
            raise ValueError("blocks names a block twice")
        return self


class Apr(_OverBlocks):
    """Attention preservation: KL of the current CLS-to-patch attention from the backbone's on the same
    images, mean over blocks, heads and images."""

    name: Literal["apr"]
    summary: ClassVar[str] = "KL of CLS-to-patch attention from the backbone's"
    reference: ClassVar[str] = "attention preservation"


class EntropyFloor(_OverBlocks):
    """Hinge on CLS-to-patch entropy below a share of the backbone's mean, summed over blocks."""

    name: Literal["entropy_floor"]
    summary: ClassVar[str] = "hinge on attention entropy below a share of the backbone's"
    ratio: float = Field(
        0.7, gt=0, description="The floor, relative to the backbone's mean on the probe set."
    )


class L2Sp(PenaltyOptions):
    """Squared distance of the image tower's effective weights from the backbone's; on captions, of the
    weights of each tower that is trained."""

    name: Literal["l2_sp"]
    summary: ClassVar[str] = "squared distance of the weights from the backbone's"
    reference: ClassVar[str] = "Li et al. 2018"


class Ldifs(_OverBlocks):
    """Squared distance of the CLS states after several blocks, and of the embedding, from the backbone's."""

    name: Literal["ldifs"]
    summary: ClassVar[str] = "squared distance of CLS states and embedding from the backbone's"
    reference: ClassVar[str] = "Mukhoti et al. 2023"


class ZeroShotKl(PenaltyOptions):
    """KL of the zero-shot distribution over the target's classes from the backbone's, on the batch."""

    name: Literal["zero_shot_kl"]
    summary: ClassVar[str] = "KL of the zero-shot distribution over the target's classes from the backbone's"
    reference: ClassVar[str] = "Li and Hoiem 2016"


BUILT_IN: tuple[type[PenaltyOptions], ...] = (Apr, EntropyFloor, L2Sp, Ldifs, ZeroShotKl)
"""Every penalty of this package, in the order of listings."""


EXTENSIONS = extensions("penalties", frozenset(name_of(options) for options in BUILT_IN))
"""Those of other packages."""

if TYPE_CHECKING:
    Penalty = PenaltyOptions
else:
    Penalty = Annotated[
        reduce(or_, (*BUILT_IN, *(found.spec.options for found in EXTENSIONS.usable.values()))),
        Field(discriminator="name"),
    ]
