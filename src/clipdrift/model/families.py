"""The kinds of model that can be loaded, by the ``model_type`` of config.json, and what sets them apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import CLIPModel, SiglipModel

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

_NAFLEX = (
    "its images come as packed patches, in any number (NaFlex), which make no fixed grid; the SigLIP 2 "
    "models of one resolution do work, such as google/siglip2-base-patch16-224"
)

REFUSED: dict[str, str] = {
    "clip_vision_model": "its text tower is missing; load the whole CLIP whose image tower it is",
    "clip_text_model": "its image tower is missing; load the whole CLIP whose text tower it is",
    "siglip_vision_model": "its text tower is missing; load the whole SigLIP whose image tower it is",
    "siglip_text_model": "its image tower is missing; load the whole SigLIP whose text tower it is",
    "siglip2": _NAFLEX,
    "siglip2_vision_model": _NAFLEX,
}
"""Why a kind that one might expect to work does not."""
