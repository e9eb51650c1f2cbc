"""Runs and adapters to export, each made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import CLIPModel, SiglipConfig, SiglipImageProcessorPil, SiglipModel

from clipdrift.model.tokens import train_tokenizer
from clipdrift.runs.store import RunFolder
from commands import Say, runner
from small_runs import Lab

BOTH = r"(vision|text)_model\.encoder\.layers\.\d+\.self_attn\.(q_proj|v_proj)"


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs a command in this process: ``say("export", ...)``."""
    return runner(capsys)


@pytest.fixture(scope="session")
def runs(lab: Lab) -> Callable[[str], RunFolder]:
    """``runs("lora")``: a finished run with a head of three classes, made once for each method and head."""
    made: dict[tuple[str, str], RunFolder] = {}

    def make(method: str, head: str = "linear") -> RunFolder:
        if (method, head) not in made:
            optim: dict[str, Any] = {"epochs": 1, "learning_rate": 0.02 if method == "lora" else 1e-3}
            made[method, head] = lab.run(lab.config(method, optim=optim, head=head))[1]
        return made[method, head]

    return make


@pytest.fixture(scope="session")
def adapter(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter on both towers with every part random, as plain peft saves it."""
    torch.manual_seed(3)
    model = get_peft_model(
        CLIPModel.from_pretrained(tiny_clip_dir), LoraConfig(r=4, lora_alpha=8, target_modules=BOTH)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.3)
    folder = tmp_path_factory.mktemp("adapters") / "both"
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def siglip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SigLIP of 16 pixels with texts of 12 tokens."""
    tokenizer = train_tokenizer(
        ["a photo of three big blue hexagons", "a striped ground"], merges=120, context=12
    )
    end = tokenizer.eos_token_id
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": end, "pad_token_id": end}
    text = {**tower, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 12}
    torch.manual_seed(0)
    vision = {**tower, "image_size": 16, "patch_size": 4}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:  # large enough that every token counts
                parameter.normal_(0, 1.5 * parameter[0].numel() ** -0.5)
    folder = tmp_path_factory.mktemp("siglip") / "siglip"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder
