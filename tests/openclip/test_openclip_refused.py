"""OpenCLIP models whose attention cannot be read are refused by name, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from openclip_models import REASON, TEXT, blocks_of, build, pixels
from peft import LoraConfig, get_peft_model
from torch import nn

from clipdrift.model.towers import UnsupportedModelError, tower_of
from clipdrift.model.trace import trace

open_clip = pytest.importorskip("open_clip", reason=REASON)


def timm_tower() -> Any:
    """A real one, of timm's smallest."""
    vision = {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": "", "timm_proj": "linear"}
    return open_clip.CLIP(24, vision, dict(TEXT))


def coca() -> Any:
    multimodal = {"width": 32, "context_length": 16, "layers": 1, "heads": 2, "attn_pooler_heads": 2}
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 4, "image_size": 16}
    text = TEXT | {"embed_cls": True, "output_tokens": True}
    return open_clip.CoCa(24, multimodal, text, vision | {"output_tokens": True})


def with_attention(attention: nn.Module) -> Callable[[], Any]:
    def make() -> Any:
        model = build()
        blocks_of(model)[1].attn = attention
        return model

    return make


def with_idle_adapter() -> Any:
    """LoRA on out_proj alone, which peft takes and torch never calls."""
    return get_peft_model(build(), LoraConfig(r=2, target_modules=r"visual\..*out_proj"))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "resnet": (
        lambda: build(layers=(1, 1, 1, 1), image_size=32),
        r"^open_clip\.model\.CLIP is not supported: its image tower is a ResNet \(ModifiedResNet\)",
    ),
    "timm": (timm_tower, r"its image tower is one of timm's \(TimmModel\)"),
    "coca": (coca, r"^open_clip\.coca_model\.CoCa is not supported: CoCa pools images by attention"),
    "attentional pool": (
        lambda: build(attentional_pool=True, attn_pooler_queries=4, attn_pooler_heads=2),
        r"pooled by attention with many queries \(attentional_pool\)",
    ),
    "mean pool": (lambda: build(pool_type="avg"), "pool_type is 'avg', not 'tok'"),
    "no pool": (lambda: build(pool_type="none"), "pool_type is 'none', not 'tok'"),
    "oblong images": (lambda: build(image_size=(16, 24)), r"its images are not square \(16\*24\)"),
    "qk_norm": (lambda: build(qk_norm=True), r"normalises queries and keys \(qk_norm\)"),
    "cosine": (
        lambda: build(scaled_cosine_attn=True),
        r"takes the cosine of queries and keys \(scaled_cosine_attn\)",
    ),
    "scale_heads": (lambda: build(scale_heads=True), r"weights its heads after the softmax \(scale_heads\)"),
    "other attention": (with_attention(nn.Identity()), "the attention of its blocks is torch's Identity"),
    "image tower alone": (lambda: build().visual, "it is an image tower alone; give the whole model"),
    "torchscript": (
        lambda: torch.jit.script(nn.Identity()),
        "TorchScript lets nothing in it be read; load the model without jit",
    ),
    "idle adapter": (with_idle_adapter, r"an adapter on attn\.out_proj does nothing.*target_modules 'attn'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_name(kind: str) -> None:
    """The message names the class and says why."""
    make, message = REFUSED[kind]
    model = make()
    with pytest.raises(UnsupportedModelError, match=message):
        tower_of(model)


def test_a_tower_of_another_class() -> None:
    """As it stands after peft was given the image tower alone, or one of one's own was put in."""
    model = build()
    model.visual = get_peft_model(model.visual, LoraConfig(r=2, target_modules=["c_fc"]))
    with pytest.raises(UnsupportedModelError, match="its image tower is peft's PeftModel, not OpenCLIP's"):
        trace(model, pixels(1))


def test_the_idle_adapter_does_nothing() -> None:
    """Why it is refused: its weights move, the model does not."""
    model, images = with_idle_adapter(), pixels(2)
    before = model.encode_image(images)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    assert torch.equal(model.encode_image(images), before)
