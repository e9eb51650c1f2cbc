"""The published shapes, without weights: every layer that methods look for is there, by its name.

Models are built on torch's meta device, so that not one weight is stored.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from clipdrift.model.towers import text_tower_of, tower_of
from clipdrift.model.towers.layout import parameters_in

REASON = "needs OpenCLIP: make test-open-clip"
TARGETS = ("q", "k", "v", "out", "mlp")
L14 = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
H14 = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16}
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
TEXT_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TEXT_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}


def clip(vision: dict[str, int], text: dict[str, int], side: int, width: int) -> CLIPModel:
    ids = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407, "vocab_size": 49408}
    return CLIPModel(
        CLIPConfig(
            text_config={**text, **ids},
            vision_config={**vision, "image_size": side, "patch_size": 14},
            projection_dim=width,
        )
    )


def siglip() -> SiglipModel:
    ids = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 1, "vocab_size": 32000}
    vision = {**SO400M, "image_size": 384, "patch_size": 14}
    return SiglipModel(SiglipConfig(text_config={**SO400M, **ids}, vision_config=vision))


def named(name: str) -> Any:
    open_clip = pytest.importorskip("open_clip", reason=REASON, exc_type=ImportError)
    return open_clip.CLIP(**open_clip.get_model_config(name))


SHAPES: dict[str, tuple[Any, int, int, int]] = {
    "ViT-L/14": (lambda: clip(L14, TEXT_L, 224, 768), 24, 12, 16),
    "ViT-L/14-336": (lambda: clip(L14, TEXT_L, 336, 768), 24, 12, 24),
    "ViT-H/14": (lambda: clip(H14, TEXT_H, 224, 1024), 32, 24, 16),
    "SigLIP so400m/14-384": (siglip, 27, 27, 27),
    "open_clip ViT-L-14": (lambda: named("ViT-L-14"), 24, 12, 16),
    "open_clip ViT-L-14-336": (lambda: named("ViT-L-14-336"), 24, 12, 24),
    "open_clip ViT-H-14": (lambda: named("ViT-H-14"), 32, 24, 16),
}
"""What builds it, blocks of the image tower and of the text tower, patches on a side."""


@pytest.mark.parametrize("name", SHAPES)
def test_every_layer_that_methods_look_for_is_there(name: str) -> None:
    """Each place of either tower holds parameters, and each block the six matrices for adapters."""
    make, blocks, text_blocks, grid = SHAPES[name]
    with torch.device("meta"):
        model = make()
    image, text = tower_of(model), text_tower_of(model)
    assert image.geometry.grid == (grid, grid)
    assert image.geometry.blocks == blocks
    for tower, count in ((image, blocks), (text, text_blocks)):
        tower.make_adaptable()
        layout = tower.layout()
        assert len(layout.blocks) == count
        places = [(place,) for place in (*layout.whole, *layout.stem, *layout.blocks, *layout.projection)]
        assert all(list(parameters_in(model, place)) for place in places)
        matrices = "|".join(layout.matrices_of(TARGETS, 0))
        found = [path for path, _ in model.named_modules() if re.fullmatch(matrices, path)]
        assert len(found) == 6 * count
        modules = {path for path, _ in model.named_modules()}
        assert set(layout.projection_modules or layout.projection) <= modules
