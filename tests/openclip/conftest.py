"""Small OpenCLIP models on the disk. OpenCLIP, which may not be there, is imported by what needs it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from openclip_models import CONFIG, PREPROCESSING, TEXT, VISION, build
from safetensors.torch import save_file


@pytest.fixture(scope="session")
def architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Architectures of one's own, as ``--model-config`` of OpenCLIP's training adds them."""
    folder = tmp_path_factory.mktemp("architectures")
    for name, config in {
        "tiny-arch": CONFIG | {"quick_gelu": False},
        "tiny-arch-quickgelu": CONFIG,
        "tiny-arch-custom": CONFIG | {"custom_text": True},
        "tiny-arch-24": CONFIG | {"vision_cfg": VISION | {"image_size": 24}},
        "tiny-arch-long": CONFIG | {"text_cfg": TEXT | {"context_length": 20}},
        "tiny-arch-words": CONFIG | {"text_cfg": TEXT | {"vocab_size": 100}},
        "tiny-resnet": CONFIG | {"vision_cfg": VISION | {"layers": [1, 1, 1, 1], "image_size": 32}},
        "tiny-timm": CONFIG | {"vision_cfg": {"timm_model_name": "vit_tiny_patch16_224"}},
        "tiny-coca": CONFIG | {"multimodal_cfg": {}, "custom_text": True},
        "tiny-mean": CONFIG | {"vision_cfg": VISION | {"pool_type": "avg"}},
        "tiny-odd": CONFIG | {"vision_cfg": VISION | {"no_such_option": 1}},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    importlib.import_module("open_clip").add_model_config(folder)


@pytest.fixture(scope="session")
def model() -> Any:
    return build()


@pytest.fixture
def weights(architectures: None, model: Any, tmp_path: Path) -> Path:
    """A state dict."""
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    """As OpenCLIP pushes it to the hub."""
    place = tmp_path / "saved"
    place.mkdir()
    content = {"model_cfg": CONFIG, "preprocess_cfg": PREPROCESSING}
    (place / "open_clip_config.json").write_text(json.dumps(content))
    save_file(model.state_dict(), place / "open_clip_model.safetensors")
    return place


@pytest.fixture
def tag(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tags of the small architectures whose weights are already there."""
    open_clip = importlib.import_module("open_clip")
    entry = {"mean": (0.1,) * 3, "std": (0.2,) * 3, "resize_mode": "squash", "url": "", "hf_hub": "lab/a/"}
    for name, quick_gelu in (("tiny-arch", False), ("tiny-arch-quickgelu", True), ("tiny-arch-24", False)):
        tags = {"some_tag": entry | {"quick_gelu": quick_gelu}, "other_tag": entry | {"quick_gelu": True}}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, tags)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda cfg: str(weights))
