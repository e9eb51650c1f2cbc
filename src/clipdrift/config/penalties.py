"""Options of each penalty: frozen models told apart by ``name``."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from clipdrift.config.base import PenaltyOptions, Towers, name_of
from clipdrift.config.named import DataSet
from clipdrift.extensions import extensions

REFERENCE_CAPTIONS = 256
"""That stand for classes where a penalty does not say how many."""
BLOCKS = Field(None, description="Blocks, from 1, that it is taken over; none: all.")


class _OnTowers(PenaltyOptions):
    towers: Literal["auto", "image", "text", "both"] = Field(
        "auto",
        description="What it holds, where captions train both. auto: the image tower where it is "
        "trained, else the text tower.",
    )


class _OfBlocks(PenaltyOptions):
    blocks: tuple[int, ...] | None = BLOCKS

    @model_validator(mode="after")
    def _from_one(self) -> Self:
        if self.blocks is not None and (not self.blocks or min(self.blocks) < 1):
            raise ValueError("blocks count from 1; leave the key out for all")
        if self.blocks is not None and len(set(self.blocks)) != len(self.blocks):
            raise ValueError("blocks names a block twice")
        return self


class _OverBlocks(_OfBlocks, _OnTowers):
    pass


class Apr(_OverBlocks):
    """Attention preservation: KL of the current CLS-to-patch attention from the backbone's on the same
    images, mean over blocks, heads and images. In a text tower, of the pooled token's attention over the
    words of the batch's captions."""

    name: Literal["apr"]
    summary: ClassVar[str] = "KL of CLS-to-patch attention from the backbone's"
    reference: ClassVar[str] = "attention preservation"


class EntropyFloor(_OverBlocks):
    """Hinge on CLS-to-patch entropy below a share of the backbone's mean, summed over blocks. In a text
    tower, on the entropy over a caption's n words, below that share of the backbone's mean normalised entropy
    times ln n, as captions differ in length."""

    name: Literal["entropy_floor"]
    summary: ClassVar[str] = "hinge on attention entropy below a share of the backbone's"
    ratio: float = Field(
        0.7, gt=0, description="The floor, relative to the backbone's mean on the probe set."
    )


class EntropyPull(_OfBlocks):
    """Squared distance of CLS-to-patch entropy, mean over heads, from `ratio` times the backbone's on the
    same image, both as shares of ln P; mean over images, summed over blocks. It moves attention, or with
    ratio 1 keeps how wide it is. More than ln P, uniform attention, is not asked for: the aim ends there, and
    the record says in which blocks. It knows the image tower alone."""

    name: Literal["entropy_pull"]
    summary: ClassVar[str] = "squared distance of attention entropy from a share of the backbone's"
    ratio: float = Field(
        0.8,
        gt=0,
        description="The aim, relative to the backbone's: below 1 narrower, above 1 wider attention.",
    )


class L2Sp(_OnTowers):
    """Squared distance of the image tower's effective weights from the backbone's; on captions, of the
    weights of each tower that is trained."""

    name: Literal["l2_sp"]
    towers: Literal["auto", "image", "text", "both"] = Field(
        "auto", description="What it holds, where captions train several towers. auto: each trained one."
    )
    summary: ClassVar[str] = "squared distance of the weights from the backbone's"
    reference: ClassVar[str] = "Li et al. 2018"


class Ldifs(_OverBlocks):
    """Squared distance of the CLS states after several blocks, and of the embedding, from the backbone's; in
    a text tower, of the pooled token's states and the text embedding of the batch's captions."""

    name: Literal["ldifs"]
    summary: ClassVar[str] = "squared distance of CLS states and embedding from the backbone's"
    reference: ClassVar[str] = "Mukhoti et al. 2023"


class ZeroShotKl(_OnTowers):
    """KL of the zero-shot distribution over the target's classes from the backbone's, on the batch. A text
    tower that it holds embeds the texts of the classes anew at each step; a tower that it does not hold is
    the backbone's in both distributions."""

    name: Literal["zero_shot_kl"]
    over: DataSet | None = Field(
        None,
        description="A set whose classes are taken instead; with retrieval = true, its captions. `classes` "
        "and `prompts` in it are a list of your own. none: the target's classes, or its training captions.",
    )
    captions: int = Field(
        REFERENCE_CAPTIONS, ge=2, description="So many captions, of evenly spaced images, stand for classes."
    )

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if self.over is None or not self.over.retrieval:
            if self.over is not None and self.captions != REFERENCE_CAPTIONS:
                raise ValueError("captions are counted where over.retrieval = true; classes are all taken")
        elif self.over.classes or self.over.prompts:
            raise ValueError("over.retrieval = true takes captions; leave out over.classes and over.prompts")
        return self

    summary: ClassVar[str] = "KL of the zero-shot distribution over the target's classes from the backbone's"
    reference: ClassVar[str] = "Li and Hoiem 2016"


def holds_alone(options: PenaltyOptions) -> bool:
    """Whether a penalty is least at the backbone itself, so that alone it moves nothing.

    What another package's does is not known: it is taken for one that moves.
    """
    if isinstance(options, EntropyPull):
        return options.ratio == 1
    return isinstance(options, Apr | L2Sp | Ldifs | ZeroShotKl)


def held(options: PenaltyOptions, trained: Towers) -> Towers:
    """The towers that a penalty holds, of those that are trained; whether it may is for the run to say."""
    asked = dict(options).get("towers", "image")  # another package's penalty knows the image tower alone
    if asked == "both":
        return ("image", "text")
    if asked != "auto":
        return (asked,)
    return trained if isinstance(options, L2Sp) or len(trained) == 1 else ("image",)


def why_not_held(options: PenaltyOptions, trained: Towers, where: str) -> str | None:
    """Say why a run cannot have a penalty; None: it can.

    Args:
        trained: the towers that the run trains.
        where: what trains no other, in words.
    """
    still = [tower for tower in held(options, trained) if tower not in trained]
    if not still:
        return None
    return f"penalty {options.name} with {where}: it would hold the {still[0]} tower, which does not move"


BUILT_IN: tuple[type[PenaltyOptions], ...] = (Apr, EntropyFloor, EntropyPull, L2Sp, Ldifs, ZeroShotKl)
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
