"""The kinds of model that can be loaded, whole and half, by config.json, and what sets them apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from transformers import (
    CLIPForImageClassification,
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    SiglipForImageClassification,
    SiglipModel,
    SiglipTextModel,
    SiglipVisionModel,
    VisionTextDualEncoderModel,
)

from clipdrift.model.texts import HuggingFaceTexts, SiglipTexts, TextEncoder


@dataclass(frozen=True)
class ModelFamily:
    """Facts about one kind of model that loading needs.

    Attributes:
        title: as people call it.
        model: transformers' class.
        texts: makes its text encoder from model and tokenizer.
        preprocessing: whose defaults count where its preprocessing does not say whose file it is.
        vocabulary: where its tokenizer's vocabulary is kept.
        pools_at_end: a text is pooled at its end token, so that config and tokenizer must agree on it.
    """

    title: str
    model: type[Any]
    texts: Callable[[Any, Any], TextEncoder]
    preprocessing: str
    vocabulary: str
    pools_at_end: bool


FAMILIES: dict[str, ModelFamily] = {
    "clip": ModelFamily(
        "CLIP",
        CLIPModel,
        HuggingFaceTexts,
        preprocessing="CLIPImageProcessor",
        vocabulary="tokenizer.json (or vocab.json and merges.txt)",
        pools_at_end=True,
    ),
    "siglip": ModelFamily(
        "SigLIP",
        SiglipModel,
        SiglipTexts,
        preprocessing="SiglipImageProcessor",
        vocabulary="tokenizer.json (or spiece.model)",
        pools_at_end=False,
    ),
}


@dataclass(frozen=True)
class HalfFamily:
    """Facts about one kind of file that holds half a model.

    Attributes:
        title: as people call it.
        model: transformers' class.
        family: key of ``FAMILIES``: the whole model that it is half of.
        side: ``image tower`` or ``text tower``.
        projection: the weight that leads into the joint space, which the file may lack; empty: there is none.
        left_out: what else the files hold that belongs to another joint space.
    """

    title: str
    model: type[Any]
    family: str
    side: Literal["image tower", "text tower"]
    projection: str = ""
    left_out: str = ""

    @property
    def article(self) -> str:
        """What it is, in words."""
        if self.title.endswith("classifier"):
            return f"a {self.title}"
        return f"{'an' if self.side == 'image tower' else 'a'} {self.side} alone ({self.title})"


HALF_FAMILIES: dict[str, HalfFamily] = {
    "clip_vision_model": HalfFamily(
        "CLIP image tower", CLIPVisionModelWithProjection, "clip", "image tower", "visual_projection.weight"
    ),
    "clip_text_model": HalfFamily(
        "CLIP text tower", CLIPTextModelWithProjection, "clip", "text tower", "text_projection.weight"
    ),
    "siglip_vision_model": HalfFamily("SigLIP image tower", SiglipVisionModel, "siglip", "image tower"),
    "siglip_text_model": HalfFamily("SigLIP text tower", SiglipTextModel, "siglip", "text tower"),
    "CLIPForImageClassification": HalfFamily(
        "CLIP image classifier", CLIPForImageClassification, "clip", "image tower"
    ),
    "SiglipForImageClassification": HalfFamily(
        "SigLIP image classifier", SiglipForImageClassification, "siglip", "image tower"
    ),
    "vision-text-dual-encoder": HalfFamily(
        "VisionTextDualEncoder",
        VisionTextDualEncoderModel,
        "clip",
        "image tower",
        left_out="text tower, projections and logit scale",
    ),
}
"""By ``model_type`` of config.json; classifiers, whose type is that of the whole, by ``architectures``."""

_NAFLEX = (
    "its images come as packed patches, in any number (NaFlex), which make no fixed grid; the SigLIP 2 "
    "models of one resolution do work, such as google/siglip2-base-patch16-224"
)


def _lacks(half: HalfFamily) -> str:
    whole = FAMILIES[half.family].title
    other = "text" if half.side == "image tower" else "image"
    return (
        f"its {other} tower is missing; load the whole {whole} whose {half.side} it is, or compare it with "
        "that as TUNED"
    )


REFUSED: dict[str, str] = {
    **{kind: _lacks(half) for kind, half in HALF_FAMILIES.items() if kind.endswith("_model")},
    "vision-text-dual-encoder": "its towers are of different kinds; its image tower can be compared, as "
    "TUNED, with the CLIP that it was made from",
    "siglip2": _NAFLEX,
    "siglip2_vision_model": _NAFLEX,
}
"""Why a kind that one might expect to work does not."""
