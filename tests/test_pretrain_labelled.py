"""Pretraining on labelled images, from a folder to a model, and the patches that are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clipdrift.config import ConfigError, PretrainConfig, parse_config
from clipdrift.data.errors import DataError
from clipdrift.data.labelled import open_labelled
from clipdrift.data.preprocess import Preprocess
from clipdrift.model.build import new_clip
from clipdrift.model.tokens import train_tokenizer
from clipdrift.pretrain import STATE, pretrain
from clipdrift.pretrain.learning import patches_dropped
from clipdrift.training.checkpoint import CheckpointError, load_state

COLOURS = {"red thing": (200, 30, 30), "green thing": (30, 200, 30), "blue thing": (30, 30, 200)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three colours with some noise."""
    root = tmp_path_factory.mktemp("data") / "colours"
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for k in range(30):
            pixels = np.clip(np.array(colour) + rng.normal(0, 30, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{k}.png")
    return root


def tiny(folder: Path, **changes: Any) -> PretrainConfig:
    shape = {"width": 16, "text_width": 16, "projection": 16, "blocks": 1, "text_blocks": 1, "heads": 2}
    course = {"images": 96, "batch_size": 16, "held_out_per_class": 4, "patch_dropout": 0.5, "whole": 0.4}
    given = {**shape, **course, "image_size": 16, "patch_size": 4, "data": str(folder), **changes}
    return parse_config(given, PretrainConfig)


def test_it_learns_to_tell_the_colours(folder: Path, tmp_path: Path) -> None:
    """From a folder to zero-shot accuracy far above chance (33 %) on images that were held out."""
    config = tiny(folder, images=3200, parts=1, learning_rate=3e-3, optimizer="adamw", patch_dropout=0.25)
    scores = pretrain(config, tmp_path / "out", workers=1, cache=tmp_path, save_every=1000)
    assert set(scores) == {"all"}
    assert scores["all"] > 80
    made = json.loads((tmp_path / "out" / "pretrain.json").read_text())
    assert made["config"]["data"]["name"] == "colours"
    assert str(folder) not in json.dumps(made)  # the place of the images is nobody else's business


def test_it_learns_from_no_more_of_a_class_than_asked_for(folder: Path, tmp_path: Path) -> None:
    """Of 24 training images of each class 10 are taken, 4 of them to be tested on; too few are refused."""
    few = tiny(folder, data={"name": "colours", "path": str(folder), "per_class": 10})
    corpus = open_labelled(few, Preprocess(size=16, crop=(16, 16)), tmp_path)
    assert len(corpus.held_out().labels) == 3 * 4
    assert len(corpus.left_out) == 3 * 14
    seen = np.concatenate([corpus._drawn(start, 9) for start in range(0, 36, 9)])
    assert len(np.unique(seen)) == 3 * 6
    assert not np.isin(seen, np.concatenate([corpus.held, corpus.left_out])).any()
    many = tiny(folder, data={"name": "colours", "path": str(folder), "per_class": 31})
    with pytest.raises(DataError, match="has 24 images, 31 are asked for"):
        open_labelled(many, Preprocess(size=16, crop=(16, 16)), tmp_path)


def test_interrupted_and_moved_it_ends_at_the_same_weights(folder: Path, tmp_path: Path) -> None:
    """Bit for bit; half of the way it has another folder of the same name, and other processes."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    pretrain(tiny(folder), tmp_path / "one", workers=1, cache=tmp_path)
    moved = tmp_path / "elsewhere" / "colours"
    moved.parent.mkdir()
    moved.symlink_to(folder)
    for stop, data in ((2, folder), (None, moved)):
        pretrain(tiny(data), tmp_path / "two", workers=1, cache=tmp_path, stop_after=stop)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(CheckpointError, match="other settings"):
        pretrain(tiny(folder, crop=0.9), tmp_path / "two", workers=1, cache=tmp_path)


def test_two_workers_agree_with_one(folder: Path, tmp_path: Path) -> None:
    """The number of processes is a matter of speed: parts are the same, gradients are averaged."""
    found = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        pretrain(tiny(folder, parts=2), out, workers=workers, cache=tmp_path, stop_after=3)
        found.append(load_state(out / STATE))
    one, two = found
    assert one is not None
    assert two is not None
    for name, weight in one["model"].items():
        assert torch.allclose(weight, two["model"][name], atol=1e-5, rtol=1e-5), name


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.99])
def test_patches_are_left_out_with_their_positions(share: float) -> None:
    """What reaches the blocks is the class token and, of the rest, so many as asked, in order, unchanged."""
    tokenizer = train_tokenizer(["a red circle"], merges=5)
    config = tiny(Path("unused"))
    model = new_clip(config, tokenizer, "eager").eval()
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    embed = model.vision_model.embeddings
    with torch.no_grad():
        whole = embed(images)
        with patches_dropped(model, share, np.random.default_rng(1)):
            part = embed(images)
        assert torch.equal(embed(images), whole)  # outside nothing is left of it
    assert part.shape == (3, 1 + max(1, round(16 * (1 - share))), 16)
    places = []
    for kept, everything in zip(part, whole, strict=True):
        found = [int((everything == token).all(1).nonzero()) for token in kept]
        assert found[0] == 0
        assert found == sorted(set(found))
        places.append(tuple(found))
    assert (len(set(places)) > 1) == (share > 0)


@pytest.mark.parametrize(("key", "value"), [("crop", 0), ("colour", 1), ("patch_dropout", 1), ("whole", 2)])
def test_values_out_of_range_are_named(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        parse_config({key: value}, PretrainConfig)
