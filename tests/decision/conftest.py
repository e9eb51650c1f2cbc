"""Shared by the tests of checks: models at any distance from the tiny CLIP, images that it knows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import clipdrift
from clipdrift.comparison import Comparison
from clipdrift.comparison.compare import compare_in_detail, transfer_sets
from clipdrift.comparison.samples import Samples
from clipdrift.data.catalog import DEFAULT_PROMPTS
from clipdrift.data.deck import Deck
from clipdrift.measures import embed
from clipdrift.model.clip import Clip
from clipdrift.model.zero_shot import class_features, predict


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written to the user's caches, nor to the summary of whatever job runs the tests."""
    monkeypatch.setenv("CLIPDRIFT_CACHE", str(tmp_path_factory.getbasetemp() / "checking-cache"))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture(scope="session")
def moved(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """``moved(0.1)``: the tiny CLIP with noise of that size on its image tower, as a plain folder."""
    place = tmp_path_factory.mktemp("moved")

    @cache
    def make(amount: float) -> Path:
        folder = Path(shutil.copytree(tiny_clip_dir, place / str(amount)))
        file = folder / "model.safetensors"
        weights = load_file(file)
        generator = torch.Generator().manual_seed(1)
        for name, weight in weights.items():
            if name.startswith(("vision_model.", "visual_projection.")) and weight.is_floating_point():
                noise = torch.randn(weight.shape, generator=generator)
                weights[name] = weight + amount * weight.std(correction=0) * noise
        save_file(weights, file, {"format": "pt"})
        return folder

    return make


CLASSES = ("circle the", "striped circle", "striped three", "striped the")
"""Texts between which the tiny CLIP, whose images lie close together, does not always choose the same."""


@pytest.fixture(scope="session")
def known(tiny_clip_once: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 120 images, nine of ten under the class that the tiny CLIP takes them for."""
    root = tmp_path_factory.mktemp("known") / "colours"
    colours = np.random.default_rng(0).integers(0, 256, (120, 4, 4, 3))
    data = np.kron(colours, np.ones((1, 4, 4, 1))).astype(np.uint8)
    deck = Deck(data, np.arange(120), np.zeros(120, np.int64), tiny_clip_once.preprocess, torch.device("cpu"))
    features = class_features(tiny_clip_once, CLASSES, DEFAULT_PROMPTS[:1])
    labels = predict(embed(tiny_clip_once.model, deck), features).tolist()
    assert len(set(labels)) > 2
    for number, (picture, label) in enumerate(zip(data, labels, strict=True)):
        place = root / "test" / CLASSES[(label + (number % 10 == 0)) % len(CLASSES)]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"im{number:03}.png")
    return root


@pytest.fixture(scope="session")
def detailed(
    tiny_clip_dir: Path,
    moved: Callable[[float], Path],
    known: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[float], tuple[Comparison, Samples]]:
    """``detailed(0.1)``: the tiny CLIP against one that moved so far, with the values image by image."""
    place = tmp_path_factory.mktemp("detailed")

    @cache
    def make(amount: float) -> tuple[Comparison, Samples]:
        options: dict[str, Any] = {"limit": 80, "seed": 0, "batch_size": None, "flow": True, "spectrum": True}
        options |= {"shown": 0, "preprocess": None, "any_base": False, "cache": place, "device": "cpu"}
        sets = transfer_sets(f"colours={known}")
        return compare_in_detail(
            tiny_clip_dir,
            moved(amount),
            str(known),
            transfer=sets,
            skip_bad=False,
            reporter=None,
            **options,
        )

    return make


@pytest.fixture(scope="session")
def kept(tiny_clip_dir: Path, known: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline of the tiny CLIP on the images that it knows."""
    file = tmp_path_factory.mktemp("kept") / "base.safetensors"
    place = tmp_path_factory.mktemp("kept-cache")
    return clipdrift.baseline(
        file, tiny_clip_dir, str(known), transfer=f"colours={known}", cache=place, limit=80
    )
