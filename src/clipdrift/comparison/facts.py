"""The parts of a comparison: models, images, and one row of each of its tables."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clipdrift.config.base import Frozen
from clipdrift.outcomes.chance import accuracy_p, measurable


class Side(Frozen):
    """One of the two models."""

    name: str
    kind: str = Field(
        description="How it was given: model, adapter, run, in memory; or what half of a model it is: image "
        "tower, text tower, image classifier."
    )
    library: str = Field(description="Class that ran, such as transformers CLIPModel.")
    parameters: int = Field(
        description="Of image tower and projection, adapters merged in; of half a model what it brought."
    )
    fingerprint: str | None = Field(None, description="Content hash of its files, where it has files.")
    interpolated_from: int | None = Field(
        None, description="Image size that its positions were made for, where they were interpolated."
    )
    grafted: tuple[str, ...] = Field(
        (), description="Parts that are BASE's, since the model is half of one and lacks them."
    )


class Shape(Frozen):
    """Sizes of the image tower, the same on both sides."""

    blocks: int
    heads: int = Field(description="Whose attention was read; 0 where there is none.")
    width: int
    embedding_width: int
    image_size: int
    grid: tuple[int, int] = Field(description="Rows and columns of patches.")
    reader: Literal["class token", "pooling head", "none"] = Field(
        description="Whose attention over patches was read."
    )
    absent: dict[str, str] = Field(
        default_factory=dict, description="Measures, or families of them, that such a tower has not: why."
    )

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]


class ProbeImages(Frozen):
    """The images on which internals were read."""

    source: str
    count: int
    fingerprint: str | None = None
    classes: int | None = None
    bad: tuple[tuple[str, str], ...] = Field((), description="Left out as unreadable: where, why.")
    notes: tuple[str, ...] = Field((), description="What was guessed, left out or is doubtful.")
    passed: tuple[tuple[str, str, int], ...] = Field(
        (), description="Files of a folder that were not read: folder, ending, how many."
    )


class Compared(Frozen):
    """One measure on both sides.

    ``before`` and ``after`` are means over blocks; both are None for a measure that is a comparison already
    (CKA, embedding drift, weight drift), whose value is ``value``. Lists hold a value per block and are
    empty for a measure that has one value only. ``drift`` is in percent of the value before, or the change
    itself where ``absolute``.
    """

    family: str
    unit: str = ""
    before: float | None = None
    after: float | None = None
    before_blocks: tuple[float, ...] = ()
    after_blocks: tuple[float, ...] = ()
    drift: float | None = None
    drift_blocks: tuple[float, ...] = ()
    absolute: bool = False
    value: float | None = None
    value_blocks: tuple[float, ...] = ()


class HeadDrift(Frozen):
    """Change of one head's attention: mean over images of one measure."""

    measure: str
    block: int
    head: int
    before: float
    after: float


class SpectrumRow(Frozen):
    """The change of one matrix: effective rank, intruder dimensions, its largest singular values relative
    to the largest of the matrix before."""

    block: int
    kind: str
    effective_rank: float
    intruders: int
    largest: tuple[float, ...]
    layer: int | None = Field(
        None, description="Residual block within a stage, from 1; None where a block is one layer."
    )

    @property
    def label(self) -> str:
        """The matrix within its block: ``fc1``, or ``fc1 of 2`` in a stage."""
        return self.kind if self.layer is None else f"{self.kind} of {self.layer}"


class CrossedTowers(Frozen):
    """One ability with the image tower of one model and the text tower of the other: whose change costs what.

    In the unit of the ability: percent for zero-shot accuracy, a share for recall.
    """

    tuned_image: float = Field(description="TUNED's image tower with BASE's text tower.")
    tuned_text: float = Field(description="BASE's image tower with TUNED's text tower.")


class TransferRow(Frozen):
    """Zero-shot ability on one transfer set, before and after; accuracies and retention in percent."""

    images: int
    classes: int
    prompts: tuple[str, ...]
    before: float
    after: float
    retention: float | None = Field(None, description="None where BASE is not above chance.")
    agreement: float
    kl: float
    ensemble_before: float | None = Field(None, description="With all prompts of the set averaged.")
    ensemble_after: float | None = None
    crossed: CrossedTowers | None = Field(
        None, description="With one prompt; None where both sides were tested with the same texts."
    )
    notes: tuple[str, ...] = Field((), description="What was guessed, left out or is doubtful.")

    @property
    def measurable(self) -> bool:
        """Whether BASE is above chance, so that there was something to keep."""
        return measurable(accuracy_p(self.before, self.images, self.classes))

    @property
    def chance(self) -> float:
        return 100 / self.classes


class HeadRow(Frozen):
    """The head of an image classifier on a labelled set."""

    target: str
    images: int
    classes: int
    accuracy: float = Field(description="Percent of the images that the head classifies rightly.")
    fingerprint: str | None = Field(None, description="Of the content of the images.")
    notes: tuple[str, ...] = Field((), description="What was guessed, left out or is doubtful.")

    @property
    def chance(self) -> float:
        return 100 / self.classes


class JointSpace(Frozen):
    """Images and their captions in the space that they share, of one model."""

    modality_gap: float = Field(description="Distance between mean unit images and mean unit captions.")
    alignment: float = Field(description="Mean squared distance of an image and its captions, unit vectors.")
    uniformity_images: float = Field(description="log mean exp(-2 d^2) over pairs of images.")
    uniformity_captions: float
    logit_scale: float = Field(description="exp of the model's own parameter.")


class Retrieval(Frozen):
    """Image-text retrieval on the probe images and their captions; recall at k, in [0, 1]."""

    images: int
    captions: int
    image_to_text_before: dict[int, float]
    image_to_text_after: dict[int, float]
    text_to_image_before: dict[int, float]
    text_to_image_after: dict[int, float]
    image_to_text_crossed: dict[int, CrossedTowers] = Field(
        default_factory=dict, description="Empty where both sides were tested with the same texts."
    )
    text_to_image_crossed: dict[int, CrossedTowers] = Field(default_factory=dict)
    image_to_text_rank: tuple[float, float] | None = Field(
        None, description="Median rank of an image's first right caption, before and after; 1 is best."
    )
    text_to_image_rank: tuple[float, float] | None = None
    space_before: JointSpace | None = None
    space_after: JointSpace | None = None


class TextTowers(Frozen):
    """The text towers of both models and, where they differ, the texts on which they were read."""

    same: bool = Field(description="No weight differs, so nothing was measured.")
    source: str = Field("", description="Where the texts come from; empty where none were read.")
    count: int = Field(0, description="Texts that were read, no two of them alike.")
    short: int = Field(0, description="Of them of fewer than two words: left out of attention.")
    heads: tuple[HeadDrift, ...] = ()


class Sensitivity(Frozen):
    """Coefficient of variation of a measure over disjoint subsets of the images, on either side."""

    before: float | None
    after: float | None


class Subsets(Frozen):
    """The subsets of the sensitivity: how many, of how many images each."""

    count: int
    images: int
    measures: dict[str, Sensitivity]


class BesideRow(Frozen):
    """Another model made from BASE, beside TUNED: the angle between what both added to the image tower.

    The task vector of a model is what it added to BASE's weights (Ilharco et al. 2023). Cosines lie within
    [-1, 1]; they are None where one of the two did not move.
    """

    side: Side
    weight_drift: float = Field(description="How far this model moved, as TUNED's weight drift.")
    cosine: float | None = Field(description="Over the whole image tower and its projection.")
    cosine_blocks: tuple[float | None, ...]
