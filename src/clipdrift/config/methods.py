"""Options of each method: frozen models told apart by ``name``."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from clipdrift.config.base import MethodOptions, name_of
from clipdrift.extensions import extensions

FROZEN_BLOCKS = Field(0, ge=0, description="Blocks from the first on that are not trained.")
FREEZE_EMBEDDINGS = Field(
    False,
    description="Leave patch, position and class embeddings and the first layer norm as they are; with "
    "frozen_blocks, their output is then computed once per image and kept.",
)


class FullFineTuning(MethodOptions):
    """Image tower, visual projection and head are trained."""

    name: Literal["full_ft"]
    summary: ClassVar[str] = "train image tower, projection and head"
    reference: ClassVar[str] = "Radford et al. 2021"
    frozen_blocks: int = FROZEN_BLOCKS
    freeze_embeddings: bool = FREEZE_EMBEDDINGS


Target = Literal["q", "k", "v", "out", "mlp"]


class LoraOptions(MethodOptions):
    """Options shared by all variants of LoRA."""

    rank: int = Field(8, ge=1, description="Rank r of the adapters.")
    alpha: float | None = Field(
        None, gt=0, description="Scale numerator (the update is alpha/r B A); none: 2 x rank."
    )
    dropout: float = Field(0.05, ge=0, lt=1, description="Dropout on the adapters' input.")
    targets: tuple[Target, ...] = Field(("q", "v"), min_length=1, description="Matrices that get an adapter.")
    train_projection: bool = Field(True, description="Train the visual projection in full.")
    frozen_blocks: int = Field(0, ge=0, description="Blocks from the first on that get no adapter.")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.targets)) != len(self.targets):
            raise ValueError(f"targets names a matrix twice: {', '.join(self.targets)}")
        return self


class Lora(LoraOptions):
    """Low-rank adapters (peft) in the image tower; its own weights stay as they are."""

    name: Literal["lora"]
    summary: ClassVar[str] = "train low-rank adapters in the image tower, projection and head"
    reference: ClassVar[str] = "Hu et al. 2022"


class RsLora(LoraOptions):
    """LoRA whose update is scaled by alpha/sqrt(r), so that a larger rank does not learn more slowly."""

    name: Literal["rslora"]
    summary: ClassVar[str] = "lora scaled by alpha/sqrt(rank)"
    reference: ClassVar[str] = "Kalajdzievski 2023"


class Dora(LoraOptions):
    """LoRA that trains the length of each weight column apart from its direction."""

    name: Literal["dora"]
    summary: ClassVar[str] = "lora with the length of each weight vector trained apart"
    reference: ClassVar[str] = "Liu et al. 2024"


class LoraPlus(LoraOptions):
    """LoRA with a higher learning rate for B than for A."""

    name: Literal["lora_plus"]
    summary: ClassVar[str] = "lora with a higher learning rate for B"
    reference: ClassVar[str] = "Hayou et al. 2024"
    rate_ratio: float = Field(16.0, gt=0, description="Learning rate of B over that of A and all else.")


class LinearProbe(MethodOptions):
    """Only the head is trained."""

    name: Literal["linear_probe"]
    summary: ClassVar[str] = "train the head alone"
    reference: ClassVar[str] = "Radford et al. 2021"


class Projections(MethodOptions):
    """The visual projection and the head are trained; on captions, the projection of each tower."""

    name: Literal["projections"]
    summary: ClassVar[str] = "train the projection and head; both towers stay as they are"


class LastBlocks(MethodOptions):
    """The last blocks, the final layer norm, visual projection and head are trained."""

    name: Literal["last_blocks"]
    summary: ClassVar[str] = "train the last blocks, projection and head"
    reference: ClassVar[str] = "Howard and Ruder 2018"
    blocks: int = Field(1, ge=1, description="How many blocks, from the last back.")


class BiasOnly(MethodOptions):
    """Only the biases of the image tower (those of layer norms among them) and the head are trained."""

    name: Literal["bias_only"]
    summary: ClassVar[str] = "train the image tower's biases and the head"
    reference: ClassVar[str] = "Ben Zaken et al. 2022"
    frozen_blocks: int = FROZEN_BLOCKS
    freeze_embeddings: bool = FREEZE_EMBEDDINGS


class NormOnly(MethodOptions):
    """Only the layer norms of the image tower and the head are trained."""

    name: Literal["norm_only"]
    summary: ClassVar[str] = "train the image tower's layer norms and the head"
    reference: ClassVar[str] = "Frankle et al. 2021"
    frozen_blocks: int = FROZEN_BLOCKS
    freeze_embeddings: bool = FREEZE_EMBEDDINGS


class LpFt(MethodOptions):
    """First the head alone, then as full_ft from there."""

    name: Literal["lp_ft"]
    summary: ClassVar[str] = "the head alone first, then as full_ft"
    reference: ClassVar[str] = "Kumar et al. 2022"
    probe_epochs: int = Field(5, ge=1, description="Epochs of the head alone, before optim.epochs of all.")
    probe_learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate of the head alone.")
    frozen_blocks: int = FROZEN_BLOCKS
    freeze_embeddings: bool = FREEZE_EMBEDDINGS


class Flyp(MethodOptions):
    """Fine-tune like you pretrain: the contrastive loss of images against the texts of their classes.

    The head is the class texts themselves, so validation and test are zero-shot accuracy on the target.
    """

    name: Literal["flyp"]
    summary: ClassVar[str] = "contrastive loss against the texts of the classes"
    reference: ClassVar[str] = "Goyal et al. 2023"
    train_texts: bool = Field(True, description="Train the text tower too; else its class texts stay fixed.")
    loss: Literal["softmax", "sigmoid"] = Field(
        "softmax",
        description="softmax: CLIP's. sigmoid: SigLIP's, for models that have its bias (logit_bias).",
    )
    frozen_blocks: int = FROZEN_BLOCKS
    freeze_embeddings: bool = FREEZE_EMBEDDINGS


class LogitScale(MethodOptions):
    """Only the scale that multiplies cosines is trained, on captions; both towers stay as they are."""

    name: Literal["logit_scale"]
    summary: ClassVar[str] = "train the logit scale alone, on captions"
    reference: ClassVar[str] = "Radford et al. 2021"


BUILT_IN: tuple[type[MethodOptions], ...] = (
    FullFineTuning,
    Lora,
    RsLora,
    Dora,
    LoraPlus,
    LinearProbe,
    Projections,
    LastBlocks,
    BiasOnly,
    NormOnly,
    LpFt,
    Flyp,
    LogitScale,
)
"""Every method of this package, in the order of listings."""


EXTENSIONS = extensions("methods", frozenset(name_of(options) for options in BUILT_IN))
"""Those of other packages."""

if TYPE_CHECKING:
    Method = MethodOptions
else:
    Method = Annotated[
        reduce(or_, (*BUILT_IN, *(found.spec.options for found in EXTENSIONS.usable.values()))),
        Field(discriminator="name"),
    ]
