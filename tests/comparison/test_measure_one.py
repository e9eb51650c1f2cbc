"""``measure``: one model on some images, as a table, by head, at any threshold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import outside
import pytest
import torch
from by_hand import attention, diversity, entropy, field, gini, look
from outside import Adapter, load_plain
from PIL import Image
from torch import Tensor

import clipdrift
from clipdrift.comparison.measuring import Measurement, measure
from clipdrift.comparison.models import PairError
from clipdrift.listing import MEASURES
from clipdrift.measures import MeasureError
from clipdrift.model.towers import UnsupportedModelError
from clipdrift.runs.store import RunFolder

TOLERANCE = 2e-5
HEADS = ("entropy", "normalised_entropy", "erf95", "gini", "head_diversity", "cls_self", "sink_share")


@pytest.fixture(scope="module")
def maps(tiny_clip_dir: Path, pixels: Tensor) -> tuple[Any, Any]:
    """Transformers' own maps and lengths of states on the seven images."""
    return look(load_plain(tiny_clip_dir), pixels)[:2]


@pytest.fixture(scope="module")
def found(tiny_clip_dir: Path, pixels: Tensor) -> Measurement:
    return measure(tiny_clip_dir, pixels, heads=True)


def test_the_public_name_is_this_one() -> None:
    """`clipdrift.measure` and `clipdrift.compare` are what the README calls."""
    assert clipdrift.measure is measure


def test_numbers_are_those_of_transformers_maps(found: Measurement, maps: tuple[Any, Any]) -> None:
    """Every measure, mean and by block."""
    expected = attention(*maps)
    assert set(found.measures) == set(expected)
    for name, values in expected.items():
        assert found.blocks(name) == pytest.approx(values, abs=TOLERANCE), name
        assert found.mean(name) == pytest.approx(values.mean(), abs=TOLERANCE), name


def test_the_frame(found: Measurement) -> None:
    """One row per measure and block, one for the mean; units of the listing; blocks from 1."""
    frame = found.to_frame()
    assert list(frame.columns) == ["measure", "unit", "block", "value"]
    assert str(frame["block"].dtype) == "Int64"
    assert list(dict.fromkeys(frame["measure"])) == list(found.measures)
    for name, rows in frame.groupby("measure"):
        assert set(rows["unit"]) == {MEASURES[str(name)].unit}
        mean, blocks = rows[rows["block"].isna()], rows[rows["block"].notna()]
        assert mean["value"].tolist() == [found.mean(str(name))]
        if str(name).startswith("rollout"):
            assert blocks.empty
        else:
            assert blocks["block"].tolist() == [1, 2]
            assert blocks["value"].tolist() == found.blocks(str(name)).tolist()
    assert len(frame) == 3 * 10 + 3


def test_every_head_on_every_image(found: Measurement, maps: tuple[Any, Any]) -> None:
    """One row per image, block and head, a column for each measure that heads have."""
    frame = found.to_frame(heads=True)
    assert list(frame.columns) == ["image", "block", "head", *HEADS]
    assert len(frame) == 7 * 2 * 2
    assert not frame.duplicated(["image", "block", "head"]).any()
    rows = maps[0][:, :, :, 0, 1:]
    values = {"entropy": entropy(rows), "erf95": field(rows, 0.95), "gini": gini(rows)}
    values["cls_self"] = maps[0][:, :, :, 0, 0]
    both = diversity(rows)  # of two heads each has the pair's
    values["head_diversity"] = np.stack([both, both], axis=-1)
    for row in frame.itertuples():
        for name, expected in values.items():
            assert getattr(row, name) == pytest.approx(
                expected[row.block - 1, row.image, row.head - 1], abs=TOLERANCE
            ), name
    for name in HEADS:  # the mean over images and heads is what the other table says
        mean = frame.groupby("block")[name].mean()
        assert mean.tolist() == pytest.approx(found.blocks(name).tolist(), abs=1e-9)


def test_heads_have_to_be_asked_for(tiny_clip_dir: Path, pixels: Tensor) -> None:
    """They take memory; the message names the option."""
    with pytest.raises(ValueError, match=r"measure with heads=True"):
        measure(tiny_clip_dir, pixels, flow=False).to_frame(heads=True)


def test_other_thresholds_of_the_receptive_field(
    tiny_clip_dir: Path, pixels: Tensor, maps: tuple[Any, Any]
) -> None:
    """erf50 and erf90 in the place of erf95, with its unit."""
    found = measure(tiny_clip_dir, pixels, masses=(0.5, 0.9), heads=True)
    assert "erf95" not in found.measures
    rows = maps[0][:, :, :, 0, 1:]
    for name, mass in (("erf50", 0.5), ("erf90", 0.9)):
        assert found.blocks(name) == pytest.approx(field(rows, mass).mean((1, 2)), abs=TOLERANCE)
        assert name in found.to_frame(heads=True).columns
    frame = found.to_frame()
    assert set(frame[frame["measure"] == "erf50"]["unit"]) == {MEASURES["erf95"].unit}
    assert found.mean("erf50") < found.mean("erf90")
    with pytest.raises(MeasureError, match=r"erf0 of block 1: mass = 0"):
        measure(tiny_clip_dir, pixels, masses=(0.0,))


def test_what_it_says_of_model_and_images(found: Measurement, tiny_clip_dir: Path) -> None:
    """Names, sizes, and what was read."""
    assert found.name == str(tiny_clip_dir)
    assert (found.shape.blocks, found.shape.heads, found.shape.reader) == (2, 2, "class token")
    assert (found.images.source, found.images.count) == ("tensors in memory", 7)
    assert found.internals.states[0].shape == (7, 32)
    assert found.internals.embedding.shape == (7, 24)


@pytest.mark.parametrize("size", [1, 7, None])
def test_the_batch_size_does_not_matter(
    tiny_clip_dir: Path, pixels: Tensor, found: Measurement, size: int | None
) -> None:
    """Image by image."""
    other = measure(tiny_clip_dir, pixels, batch_size=size)
    for name, values in found.internals.attention.items():
        assert np.abs(other.internals.attention[name] - values).max() < 1e-6, name
    assert other.blocks("head_diversity_of_mean") == pytest.approx(
        found.blocks("head_diversity_of_mean"), abs=1e-6
    )


def test_what_may_be_measured(
    tiny_clip_dir: Path,
    siglip_dir: Path,
    tuned_dir: Path,
    adapters: Callable[[str], Adapter],
    runs: Callable[[str], RunFolder],
    pixels: Tensor,
) -> None:
    """Alone, an adapter is put on the model that it names; a run, SigLIP and models in memory are as ever."""
    merged = measure(load_plain(adapters("whole").merged), pixels, flow=False)
    alone = measure(adapters("whole").folder, pixels, flow=False)
    in_memory = measure(outside.peft_model(tiny_clip_dir), pixels, flow=False)
    for one in (alone, in_memory):
        assert one.internals.attention["entropy"] == pytest.approx(
            merged.internals.attention["entropy"], abs=1e-5
        )
    run = runs("full_ft").path
    assert measure(run, pixels, flow=False).mean("gini") == measure(run / "model", pixels, flow=False).mean(
        "gini"
    )
    siglip = measure(siglip_dir, pixels)
    assert siglip.shape.reader == "pooling head"
    assert siglip.blocks("entropy").shape == (1,)
    assert siglip.blocks("patch_entropy").shape == (2,)
    assert "cls_self" not in siglip.measures
    with pytest.raises(UnsupportedModelError, match=r"Linear is not supported"):
        measure(torch.nn.Linear(2, 2), pixels)
    with pytest.raises(PairError, match=r"a file; give the folder"):
        measure(tuned_dir / "config.json", pixels)


def test_a_limit_chooses_the_same_images_for_every_model(
    tiny_clip_dir: Path, tuned_dir: Path, photos: list[Image.Image], pictures: Path
) -> None:
    """So that measurements of several models can be laid side by side."""
    found = [measure(folder, pictures, limit=9, seed=4, flow=False) for folder in (tiny_clip_dir, tuned_dir)]
    assert found[0].images == found[1].images
    assert (
        found[0].images.fingerprint
        != measure(tiny_clip_dir, pictures, limit=9, flow=False).images.fingerprint
    )
    assert measure(tuned_dir, photos, limit=9, flow=False).images.count == 9
