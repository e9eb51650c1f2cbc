"""Shared by the tests of monitors: a tiny CLIP in memory and pictures for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPModel

from clipdrift.model.clip import Clip, load
from small_runs import picture


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written to the user's cache."""
    monkeypatch.setenv("CLIPDRIFT_CACHE", str(tmp_path_factory.getbasetemp() / "monitoring-cache"))


@pytest.fixture(scope="session")
def photos() -> list[Image.Image]:
    """Twelve pictures of three kinds, of the tiny model's own size."""
    return [picture(i % 3, i) for i in range(12)]


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    """(12, 3, 16, 16) floats, as the tiny model takes them."""
    return torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def tiny(tiny_clip_dir: Path) -> Callable[[], Any]:
    """Makes the tiny CLIP as transformers loads it, in training mode, the same each time."""

    def make() -> Any:
        return CLIPModel.from_pretrained(tiny_clip_dir).float().train()

    return make


@pytest.fixture
def tiny_whole(tiny_clip_dir: Path) -> Clip:
    """The tiny CLIP with its texts and preprocessing."""
    return load(tiny_clip_dir)
