"""A tiny random SigLIP as a real folder on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

from clipdrift.model.clip import Clip, load
from clipdrift.model.tokens import train_tokenizer

CAPTIONS = ["two small red circles on a striped ground", "a photo of three big blue hexagons"]
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def randomise(model: nn.Module) -> None:
    """Weights large enough that attention is uneven and every token counts, as in a trained model."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 1.5 * parameter[0].numel() ** -0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)


@pytest.fixture(scope="session")
def tiny_siglip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``save_pretrained`` leaves it: random SigLIP, 2 blocks, 2 heads, width 32, 16 px, patch 4."""
    tokenizer = train_tokenizer(CAPTIONS, merges=120, context=32)
    end = tokenizer.eos_token_id
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": end, "pad_token_id": end}
    text = {**TOWER, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 32}
    torch.manual_seed(0)
    model = SiglipModel(
        SiglipConfig(text_config=text, vision_config={**TOWER, "image_size": 16, "patch_size": 4})
    )
    randomise(model)
    folder = tmp_path_factory.mktemp("models") / "tiny-siglip"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture
def siglip(tiny_siglip_dir: Path) -> Clip:
    """The tiny SigLIP, loaded anew, so that a test may change it."""
    return load(tiny_siglip_dir)
