"""Models with random weights in the shapes that people fine-tune, and their work in matrix products."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel

from clipdrift.data.deck import Deck
from clipdrift.data.preprocess import Preprocess
from clipdrift.model.clip import MINI, Clip, load

CLASSES = ("cat", "dog", "elk", "fox", "cow", "bee", "owl", "pig", "hen", "ape")


@dataclass(frozen=True)
class VisionShape:
    """Sizes of an image tower."""

    name: str
    width: int
    blocks: int
    heads: int
    patch: int
    image: int
    joint: int

    @property
    def tokens(self) -> int:
        return (self.image // self.patch) ** 2 + 1

    def forward_work(self) -> float:
        """Multiplications and additions of one image's forward pass through the blocks' matrices."""
        block = 24 * self.width**2 + 4 * self.tokens * self.width
        return float(self.blocks * self.tokens * block)


BASE = VisionShape("ViT-B/32", 768, 12, 12, 32, 224, 512)
LARGE = VisionShape("ViT-L/14", 1024, 24, 16, 14, 224, 768)
TINY = VisionShape("tiny", 64, 2, 2, 8, 32, 32)


def model_of(shape: VisionShape, attention: str = "sdpa") -> CLIPModel:
    """A CLIPModel of that shape; its text tower is the shipped model's."""
    text = cast(Any, load(MINI).model.config).text_config.to_dict()
    vision = {
        "hidden_size": shape.width,
        "intermediate_size": 4 * shape.width,
        "num_hidden_layers": shape.blocks,
        "num_attention_heads": shape.heads,
        "patch_size": shape.patch,
        "image_size": shape.image,
        "hidden_act": "quick_gelu",
    }
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=shape.joint, attn_implementation=attention
    )
    return CLIPModel(config).eval()


def clip_of(shape: VisionShape, device: torch.device) -> Clip:
    """The same as a Clip, with the shipped model's tokenizer."""
    mini, model = load(MINI), model_of(shape).to(device)
    texts = replace(cast(Any, mini.texts), model=model)
    preprocess = Preprocess(size=shape.image, crop=(shape.image, shape.image))
    return replace(mini, name=shape.name, model=model, preprocess=preprocess, texts=texts)


def pixels_of(shape: VisionShape, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Random bytes (count, S, S, 3)."""
    return np.random.default_rng(1).integers(0, 256, (count, shape.image, shape.image, 3), dtype=np.uint8)


def deck_of(clip: Clip, shape: VisionShape, count: int, device: torch.device) -> Deck:
    """Random pictures with labels that go round the classes."""
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    return Deck(pixels_of(shape, count), np.arange(count), labels, clip.preprocess, device)
