"""Extra loss terms that keep the image tower near the backbone, as frozen models told apart by ``name``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from clipdrift.config.base import Frozen

WEIGHT = Field(0.1, gt=0, description="What the term is multiplied by.")
BLOCKS = Field(None, description="Blocks, from 1, that it is taken over; none: all.")


class _OverBlocks(Frozen):
    weight: float = WEIGHT
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


class EntropyFloor(_OverBlocks):
    """Hinge on CLS-to-patch entropy below a share of the backbone's mean, summed over blocks."""

    name: Literal["entropy_floor"]
    ratio: float = Field(
        0.7, gt=0, description="The floor, relative to the backbone's mean on the probe set."
    )


class L2Sp(Frozen):
    """Squared distance of the image tower's effective weights from the backbone's."""

    name: Literal["l2_sp"]
    weight: float = WEIGHT


class Ldifs(_OverBlocks):
    """Squared distance of the CLS states after several blocks, and of the embedding, from the backbone's."""

    name: Literal["ldifs"]


class ZeroShotKl(Frozen):
    """KL of the zero-shot distribution over the target's classes from the backbone's, on the batch."""

    name: Literal["zero_shot_kl"]
    weight: float = WEIGHT


Penalty = Annotated[Apr | EntropyFloor | L2Sp | Ldifs | ZeroShotKl, Field(discriminator="name")]
