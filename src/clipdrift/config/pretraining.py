"""Configuration of a pretraining."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from clipdrift.config.base import Frozen
from clipdrift.config.named import DataSet


class PretrainConfig(Frozen):
    """How a small CLIP is made from nothing. The defaults made `clipdrift/mini`."""

    data: DataSet = Field(
        DataSet(name="objects"),
        description="`objects`, the captioned world, drawn anew each time; or labelled images, whose "
        "training part is learnt from: a name of the catalog, a folder of class folders, parquet files.",
    )
    held_out_per_class: int = Field(
        10, ge=1, description="Training images of each class kept apart to see zero-shot accuracy on."
    )
    crop: float = Field(
        0.4, gt=0, le=1, description="Smallest share of a labelled image that a random crop keeps; 1: all."
    )
    flip: bool = Field(True, description="Mirror half of the labelled images at random.")
    colour: float = Field(
        0.2, ge=0, lt=1, description="Largest change of a labelled image's brightness, contrast, saturation."
    )
    patch_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the patches left out of each training image, which saves that share of the "
        "time (Li et al. 2023, FLIP).",
    )
    whole: float = Field(
        0.2, ge=0, le=1, description="Last share of the steps that sees all patches, if any are left out."
    )
    images: int = Field(500_000, ge=1, description="Images seen in all.")
    batch_size: int = Field(256, ge=2, description="Images per step.")
    parts: int = Field(2, ge=1, description="Parts of a batch, each contrasted within itself.")
    learning_rate: float = Field(5e-3, gt=0, description="Peak rate; linear warm-up, then cosine to zero.")
    optimizer: Literal["muon", "adamw"] = Field(
        "muon", description="muon: Muon for the blocks' matrices, AdamW else."
    )
    weight_decay: float = Field(0.1, ge=0)
    warmup: float = Field(0.03, ge=0, lt=1)
    seed: int = Field(0, ge=0)
    width: int = Field(128, ge=8)
    blocks: int = Field(6, ge=1)
    heads: int = Field(4, ge=1)
    text_width: int = Field(128, ge=8)
    text_blocks: int = Field(4, ge=1)
    projection: int = Field(128, ge=8)
    image_size: int = Field(56, ge=8)
    patch_size: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.data.name == "objects" and self.data.path is None and self.data.per_class is not None:
            raise ValueError(
                "data.per_class: the world objects is drawn anew for each batch and has no classes; leave it "
                "out, or take objects-100"
            )
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        if self.width % self.heads or self.text_width % self.heads:
            raise ValueError(
                f"width {self.width} and text_width {self.text_width} must be multiples of heads {self.heads}"
            )
        if self.batch_size % self.parts or self.batch_size // self.parts < 2:
            raise ValueError(
                f"batch_size {self.batch_size} is not parts {self.parts} times two or more images"
            )
        return self

    @property
    def steps(self) -> int:
        """Updates in all."""
        return max(1, self.images // self.batch_size)
