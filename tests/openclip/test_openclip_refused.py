"""OpenCLIP models whose attention cannot be read are refused by name, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from openclip_models import REASON, TEXT, blocks_of, build, pixels, resnet
from peft import LoraConfig, get_peft_model
from torch import nn

from clipdrift.model.towers import UnsupportedModelError, tower_of
from clipdrift.model.trace import trace

open_clip = pytest.importorskip("open_clip", reason=REASON)


def timm_tower(name: str, pool: str, size: int = 32, proj: str | None = "linear") -> Any:
    """A real one."""
    vision = {"timm_model_name": name, "image_size": size, "timm_pool": pool, "timm_proj": proj}
    return open_clip.CLIP(24, vision, dict(TEXT))


def with_an_adapter_in_its_head() -> Any:
    """LoRA on a layer whose weight torch takes and never calls."""
    config = LoraConfig(r=2, target_modules=r"visual\.attnpool\.q_proj")
    return get_peft_model(resnet(), config)


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
    "idle adapter of a resnet": (with_an_adapter_in_its_head, r"an adapter in its pooling head \(attnpool\)"),
    "other trunk": (
        lambda: timm_tower("test_efficientnet", ""),
        r"^open_clip\.model\.CLIP is not supported: its image tower is timm's EfficientNet; of timm's "
        r"\(TimmModel\) these are read: ConvNeXt, FastVit,",
    ),
    "class token that is averaged": (
        lambda: timm_tower("test_vit", "avg", 160),
        r"with 1 token\(s\) before the patches, pooled by 'avg'; read are",
    ),
    "pooling head of timm's": (lambda: timm_tower("test_vit3", "map", 160), "with a pooling head"),
    "pooling of timm's own": (
        lambda: timm_tower("test_convnext", "rot_attn", 64, ""),
        "its images are pooled by timm's RotAttentionPool2d",
    ),
    "register tokens": (
        lambda: timm_tower("vit_small_patch16_dinov3", "token", 256),
        r"timm's Eva with 5 token\(s\) before the patches, pooled by 'token'; read are",
    ),
    "pooling head of Eva": (
        lambda: timm_tower("vit_pe_core_tiny_patch16_384", "map", 384),
        r"timm's Eva with a pooling head \(global_pool 'map'\)$",
    ),
    "relative positions": (
        lambda: timm_tower("vit_relpos_small_patch16_224", "avg", 224),
        "timm's VisionTransformerRelPos, which adds a bias by relative position",
    ),
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
    "trunk alone": (lambda: timm_tower("test_convnext", "").visual, "it is an image tower alone"),
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
