"""How a backbone is adapted, as frozen models: one class for each method, told apart by ``name``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from clipdrift.config.base import Frozen

FROZEN_BLOCKS = Field(0, ge=0, description="Blocks from the first on that are not trained.")
FREEZE_EMBEDDINGS = Field(
    False,
    description="Leave patch, position and class embeddings and the first layer norm as they are; with "
    "frozen_blocks, their output is then computed once per image and kept.",
)


class FullFineTuning(Frozen):
    """Image tower, visual projection and head are trained."""

    name: Literal["full_ft"]
    frozen_blocks: int = FROZEN_BLOCKS
    freeze_embeddings: bool = FREEZE_EMBEDDINGS


Target = Literal["q", "k", "v", "out", "mlp"]


class LoraOptions(Frozen):
    """What all variants of LoRA share."""

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


class RsLora(LoraOptions):
    """LoRA whose update is scaled by alpha/sqrt(r), so that a larger rank does not learn more slowly."""

    name: Literal["rslora"]


class Dora(LoraOptions):
    """LoRA that trains the length of each weight column apart from its direction."""

    name: Literal["dora"]


class LoraPlus(LoraOptions):
    """LoRA with a higher learning rate for B than for A."""

    name: Literal["lora_plus"]
    rate_ratio: float = Field(16.0, gt=0, description="Learning rate of B over that of A and all else.")


class LinearProbe(Frozen):
    """Only the head is trained."""

    name: Literal["linear_probe"]


class LastBlocks(Frozen):
    """The last blocks, the final layer norm, visual projection and head are trained."""

    name: Literal["last_blocks"]
    blocks: int = Field(1, ge=1, description="How many blocks, from the last back.")


class BiasOnly(Frozen):
    """Only the biases of the image tower (those of layer norms among them) and the head are trained."""

    name: Literal["bias_only"]
    frozen_blocks: int = FROZEN_BLOCKS
    freeze_embeddings: bool = FREEZE_EMBEDDINGS


class NormOnly(Frozen):
    """Only the layer norms of the image tower and the head are trained."""

    name: Literal["norm_only"]
    frozen_blocks: int = FROZEN_BLOCKS
    freeze_embeddings: bool = FREEZE_EMBEDDINGS


class LpFt(Frozen):
    """First the head alone, then as full_ft from there."""

    name: Literal["lp_ft"]
    probe_epochs: int = Field(5, ge=1, description="Epochs of the head alone, before optim.epochs of all.")
    probe_learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate of the head alone.")
    frozen_blocks: int = FROZEN_BLOCKS
    freeze_embeddings: bool = FREEZE_EMBEDDINGS


class Flyp(Frozen):
    """Fine-tune like you pretrain: the contrastive loss of images against the texts of their classes.

    The head is the class texts themselves, so validation and test are zero-shot accuracy on the target.
    """

    name: Literal["flyp"]
    train_texts: bool = Field(True, description="Train the text tower too; else its class texts stay fixed.")
    frozen_blocks: int = FROZEN_BLOCKS
    freeze_embeddings: bool = FREEZE_EMBEDDINGS


Method = Annotated[
    FullFineTuning
    | Lora
    | RsLora
    | Dora
    | LoraPlus
    | LinearProbe
    | LastBlocks
    | BiasOnly
    | NormOnly
    | LpFt
    | Flyp,
    Field(discriminator="name"),
]
