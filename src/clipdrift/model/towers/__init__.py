"""The towers that can be read, those of images in one file per library, and how one is recognised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clipdrift.model.towers.base import Geometry, Tower, UnsupportedModelError
from clipdrift.model.towers.huggingface import HuggingFaceClip
from clipdrift.model.towers.openclip import NOT_READ, OpenClip
from clipdrift.model.towers.openclip_text import OpenClipTextTower
from clipdrift.model.towers.resnet import OpenClipResNet
from clipdrift.model.towers.siglip import Siglip
from clipdrift.model.towers.text import ClipTexts, SiglipTextTower, TextTower
from clipdrift.model.towers.timm_trunks import timm_tower

__all__ = [
    "Geometry",
    "TextTower",
    "Tower",
    "UnsupportedModelError",
    "is_known",
    "text_tower_of",
    "tower_of",
    "unwrapped",
]


def _of_half(model: Any) -> Tower:
    return Siglip.of(model) if model.kind == "siglip" else HuggingFaceClip.of_half(model)


_OPEN_CLIP: dict[str, Callable[[Any], Tower]] = {
    "ModifiedResNet": OpenClipResNet.of,
    "TimmModel": timm_tower,
}
"""By the class of an OpenCLIP model's image tower; any other is taken for a transformer, and checked."""


def _of_open_clip(model: Any) -> Tower:
    visual = type(model.visual)
    ours = visual.__module__.partition(".")[0] == "open_clip"
    return _OPEN_CLIP.get(visual.__name__ if ours else "", OpenClip.of)(model)


_TOWERS: dict[tuple[str, str], Callable[[Any], Tower]] = {
    ("transformers", "CLIPModel"): HuggingFaceClip.of,
    ("transformers", "CLIPVisionModelWithProjection"): HuggingFaceClip.of_vision,
    ("transformers", "SiglipModel"): Siglip.of,
    ("clipdrift", "ImageHalf"): _of_half,
    ("open_clip", "CLIP"): _of_open_clip,
    ("open_clip", "CustomTextCLIP"): _of_open_clip,
}
"""By package and class, so that none of the packages need be there."""


def _text_of_half(model: Any) -> TextTower:
    return SiglipTextTower(model) if model.kind == "siglip" else ClipTexts(model)


_TEXT_TOWERS: dict[tuple[str, str], Callable[[Any], TextTower]] = {
    ("clipdrift", "TextHalf"): _text_of_half,
    ("transformers", "CLIPModel"): ClipTexts,
    ("transformers", "SiglipModel"): SiglipTextTower,
    ("open_clip", "CLIP"): OpenClipTextTower.of,
    ("open_clip", "CustomTextCLIP"): OpenClipTextTower.of,
}

_WRAPPERS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("peft", "PeftModel"): lambda model: model.get_base_model(),
    ("torch", "DataParallel"): lambda model: model.module,
    ("torch", "DistributedDataParallel"): lambda model: model.module,
    ("torch", "OptimizedModule"): lambda model: model._orig_mod,
    ("torch", "AveragedModel"): lambda model: model.module,
    ("deepspeed", "DeepSpeedEngine"): lambda model: model.module,
}

_NAFLEX = (
    "its images come as packed patches, in any number (NaFlex), which make no fixed grid; the SigLIP 2 "
    "models of one resolution are SiglipModels and do work"
)
_VISION_ONLY = "its modules lie elsewhere in older releases; load the same weights as SiglipModel"
_CLASSIFIER = "it classifies by the mean of its patches; load the whole model that it was made from"
_TOWER_ALONE = "it is an image tower alone; give the whole model that it is a part of"
_CLASSIFIER_ALONE = "it is a classifier alone, with no texts beside it; give the whole CLIP it is a part of"

_REFUSED: dict[tuple[str, str], str] = {
    ("transformers", "CLIPVisionModel"): "it has no projection into the joint space; load the same weights "
    "as CLIPModel or CLIPVisionModelWithProjection",
    ("transformers", "CLIPForImageClassification"): _CLASSIFIER,
    ("transformers", "SiglipVisionModel"): _VISION_ONLY,
    ("transformers", "SiglipForImageClassification"): _CLASSIFIER,
    ("transformers", "Siglip2Model"): _NAFLEX,
    ("transformers", "Siglip2VisionModel"): _NAFLEX,
    ("open_clip", "CoCa"): NOT_READ["CoCa"],
    ("open_clip", "VisionTransformer"): _TOWER_ALONE,
    ("open_clip", "ModifiedResNet"): _TOWER_ALONE,
    ("open_clip", "TimmModel"): _TOWER_ALONE,
    ("timm", "ResNet"): _CLASSIFIER_ALONE,
    ("timm", "ConvNeXt"): _CLASSIFIER_ALONE,
    ("torchvision", "ResNet"): _CLASSIFIER_ALONE,
    ("torch", "ScriptModule"): "TorchScript lets nothing in it be read; load the model without jit",
}
"""Why a class that one might expect to work does not."""


def unwrapped(model: Any) -> Any:
    """The model inside the wrappers of peft, torch.compile, data parallel training and averaged weights."""
    while (found := _find(model, _WRAPPERS)) is not None:
        model = found(model)
    return model


def is_known(model: Any) -> bool:
    """Whether a model, without any wrapper, is of a class that can be read."""
    return _find(model, _TOWERS) is not None


def tower_of(model: Any) -> Tower:
    """The view through which a model's image tower is read.

    Args:
        model: transformers' CLIPModel, CLIPVisionModelWithProjection or SiglipModel, or an OpenCLIP model
            with a VisionTransformer, a ModifiedResNet or a trunk of timm's, in any wrapper of peft or torch.

    Raises:
        UnsupportedModelError: any other model, by name.
    """
    inner = unwrapped(model)
    make = _find(inner, _TOWERS)
    if make is None:
        kind = type(inner)
        why = _find(inner, _REFUSED) or (
            "its image tower cannot be read; supported are transformers' CLIPModel, "
            "CLIPVisionModelWithProjection and SiglipModel, and OpenCLIP's CLIP and CustomTextCLIP"
        )
        raise UnsupportedModelError(f"{kind.__module__}.{kind.__name__} is not supported: {why}")
    return make(inner)


def text_tower_of(model: Any) -> TextTower:
    """The view through which a model's text tower is read.

    Args:
        model: transformers' CLIPModel or SiglipModel, or an OpenCLIP model whose texts are pooled at their
            end token under a causal mask, in any wrapper of peft or torch.

    Raises:
        UnsupportedModelError: any other model; OpenCLIP's text towers can be built, masked and pooled in
            several ways.
    """
    inner = unwrapped(model)
    make = _find(inner, _TEXT_TOWERS)
    if make is None:
        kind = type(inner)
        raise UnsupportedModelError(
            f"the text tower of {kind.__module__}.{kind.__name__} cannot be read; supported are those of "
            "transformers' CLIPModel and SiglipModel, and OpenCLIP's causal ones"
        )
    return make(inner)


def _find(model: Any, table: dict[tuple[str, str], Any]) -> Any:
    for kind in type(model).__mro__:
        key = (kind.__module__.partition(".")[0], kind.__name__)
        if key in table:
            return table[key]
    return None
