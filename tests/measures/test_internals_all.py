"""Every measure of attention against loops over eager maps and hidden states, per image, block and head."""

from __future__ import annotations

import copy
import math
import statistics
from typing import Any

import numpy as np
import pytest
import torch
from measure_oracles import (
    Array,
    Eager,
    eager,
    loop_diversity,
    loop_erf,
    loop_gini,
    loop_nats,
    loop_sink,
    loop_unlike,
)
from torch import Tensor, nn
from transformers import SiglipModel

from clipdrift.data.deck import Prepared
from clipdrift.measures import ATTENTION, Internals, MeasureError, read_internals
from clipdrift.model.clip import Clip


def by_head(seen: Eager) -> dict[str, Array]:
    """(N, L, H) of each measure that heads have; L = 1 for a pooling head."""
    rows = seen.cls.transpose(1, 0, 2, 3)
    patches = rows.shape[-1]

    def each(work: Any) -> Array:
        return np.array([[[work(head) for head in block] for block in image] for image in rows])

    out = {
        "entropy": each(loop_nats),
        "normalised_entropy": each(lambda row: loop_nats(row) / math.log(patches)),
        "erf50": each(lambda row: loop_erf(row, 0.5)),
        "erf95": each(loop_erf),
        "gini": each(loop_gini),
        "head_diversity": np.array(
            [[[loop_unlike(b, h) for h in range(len(b))] for b in image] for image in rows]
        ),
        "sink_share": each(loop_sink),
    }
    if seen.reader is None:
        out["cls_self"] = seen.maps[:, :, :, 0, 0].transpose(1, 0, 2)
    return out


def long_patches(seen: Eager) -> Array:
    """(N, L) patches whose state is longer than three medians, counted one by one."""
    first = int(seen.reader is None)
    lengths = np.sqrt((seen.hidden[:, :, first:] ** 2).sum(-1))
    counts = [[sum(x > 3 * statistics.median(image) for x in image) for image in block] for block in lengths]
    return np.array(counts).T


def agree(found: Internals, seen: Eager, tolerance: float = 1e-5) -> None:
    """Image by image and block by block, head by head, and the means of both."""
    targets = by_head(seen)
    assert found.detail.keys() == found.heads.keys() == targets.keys()
    assert {*found.attention} - {*targets} >= {"sink_patches"}
    for name, values in targets.items():
        assert found.detail[name].shape == values.shape
        assert np.abs(found.detail[name] - values).max() < tolerance, name
        assert np.abs(found.heads[name] - values.mean(0)).max() < tolerance, name
        assert np.abs(found.attention[name] - values.mean(-1)).max() < tolerance, name
        assert np.abs(found.blocks(name) - values.mean((0, 2))).max() < tolerance, name
    pairs = np.array([[loop_diversity(block) for block in image] for image in seen.cls.transpose(1, 0, 2, 3)])
    assert np.abs(found.attention["head_diversity"] - pairs).max() < tolerance
    shares = seen.cls / seen.cls.sum(-1, keepdims=True)
    of_mean = np.array([loop_diversity(block) for block in shares.mean(1)])
    assert np.abs(found.blocks("head_diversity_of_mean") - of_mean).max() < tolerance
    assert np.array_equal(found.attention["sink_patches"], long_patches(seen))
    states = seen.hidden[:, :, 0] if seen.reader is None else seen.hidden.mean(2)
    for kept, state in zip(found.states, states, strict=True):
        assert np.abs(kept.numpy() - state).max() < 1e-5 * np.abs(state).max()
    assert np.abs(found.embedding.numpy() - seen.embedding).max() < 1e-5 * np.abs(seen.embedding).max()


MASSES = (0.5, 0.95)


@pytest.mark.parametrize("size", [1, 7, 250])
def test_tiny_clip(tiny_clip: Clip, probe: Prepared, size: int) -> None:
    """Everything, whatever the batches."""
    found = read_internals(tiny_clip.model, probe, size, detail=True, masses=MASSES)
    assert found.reader == "class token"
    assert found.attention["entropy"].shape == (15, 2)
    agree(found, eager(tiny_clip.model, probe.images))


@pytest.mark.parametrize("size", [1, 7, 250])
def test_tiny_siglip(siglip: SiglipModel, probe: Prepared, size: int) -> None:
    """One row, the pooling head's; of its blocks only what needs no reader."""
    found = read_internals(siglip, probe, size, detail=True, masses=MASSES)
    assert found.reader == "pooling head"
    assert "cls_self" not in found.measures
    assert found.attention["entropy"].shape == (15, 1)
    assert found.attention["sink_patches"].shape == (15, 2)
    assert found.heads["gini"].shape == (1, 2)
    assert len(found.states) == 2
    agree(found, eager(siglip, probe.images))


def test_real_geometry(b32: tuple[Internals, Eager]) -> None:
    """Twelve blocks of twelve heads on 49 patches, two images."""
    found, seen = b32
    assert found.attention["entropy"].shape == (2, 12)
    assert found.detail["entropy"].shape == (2, 12, 12)
    agree(found, seen)


def test_averages_of_other_kinds_are_other_numbers(b32: tuple[Internals, Eager]) -> None:
    """What the tests above could tell: the head mean's entropy, the diversity of means, unnormalised rows."""
    found, seen = b32
    of_head_mean = np.mean([[loop_nats(image.mean(0)) for image in block] for block in seen.cls], axis=1)
    assert (of_head_mean - found.blocks("entropy")).min() > 1e-3
    assert (found.blocks("head_diversity") - found.blocks("head_diversity_of_mean")).min() > 1e-3
    raw = seen.cls.max(-1).mean(-1).T
    assert np.abs(found.attention["sink_share"] - raw).max() > 1e-3


@pytest.mark.parametrize("size", [1, 4, 7])
def test_diversity_of_mean_is_of_all_images(tiny_clip: Clip, probe: Prepared, size: int) -> None:
    """Rows are averaged over all images before, not within batches."""
    whole = read_internals(tiny_clip.model, probe)
    parts = read_internals(tiny_clip.model, probe, size)
    name = "head_diversity_of_mean"
    assert parts.blocks(name) == pytest.approx(whole.blocks(name), abs=1e-7)
    single = [
        read_internals(tiny_clip.model, Prepared(probe.images[i : i + 1], probe.device)).blocks(name)
        for i in range(4)
    ]
    assert np.abs(np.mean(single, axis=0) - whole.blocks(name)).max() > 1e-3


# --- the detail frame


def test_frame_has_a_row_for_each_image_block_and_head(tiny_clip: Clip, probe: Prepared) -> None:
    """Images in the probe's order from 0, blocks and heads from 1; each cell is that head's loop."""
    found = read_internals(tiny_clip.model, probe, 7, detail=True)
    frame = found.to_frame()
    assert list(frame.columns) == ["image", "block", "head", *ATTENTION]
    rows = list(zip(frame["image"], frame["block"], frame["head"], strict=True))
    assert rows == [(i, b, h) for i in range(15) for b in (1, 2) for h in (1, 2)]
    targets = by_head(eager(tiny_clip.model, probe.images))
    for row in frame.sample(20, random_state=0).itertuples():
        for name in ATTENTION:
            expected = targets[name][row.image, row.block - 1, row.head - 1]
            assert getattr(row, name) == pytest.approx(expected, abs=1e-5), name
    means = frame.groupby("block")[list(ATTENTION)].mean()
    for name in ATTENTION:
        assert found.blocks(name) == pytest.approx(means[name].to_numpy(), abs=1e-12), name
        by_both = frame.groupby(["block", "head"])[name].mean().to_numpy()
        assert found.heads[name].ravel() == pytest.approx(by_both, abs=1e-12), name


def test_frame_of_siglip(siglip: SiglipModel, probe: Prepared) -> None:
    """The pooling head is its only block."""
    frame = read_internals(siglip, probe, detail=True).to_frame()
    assert len(frame) == 15 * 1 * 2
    assert set(frame["block"]) == {1}
    assert "cls_self" not in frame


def test_no_frame_without_detail(tiny_clip: Clip, probe: Prepared) -> None:
    """Single heads are not kept unless asked for; means over images are."""
    found = read_internals(tiny_clip.model, probe)
    assert found.detail == {}
    assert found.heads.keys() == set(ATTENTION)
    with pytest.raises(ValueError, match="detail=True"):
        found.to_frame()


def test_progress_is_told_after_each_batch(tiny_clip: Clip, probe: Prepared) -> None:
    """In images."""
    told: list[tuple[int, int]] = []
    read_internals(tiny_clip.model, probe, 7, progress=lambda *done: told.append(done))
    assert told == [(7, 15), (14, 15), (15, 15)]


# --- thresholds


def test_masses(tiny_clip: Clip, probe: Prepared) -> None:
    """Each asked for and no other, in place of erf95; more mass needs more patches, all of it all of them."""
    found = read_internals(tiny_clip.model, probe, masses=(0.5, 0.95, 0.999, 1.0))
    assert {name for name in found.measures if name.startswith("erf")} == {
        "erf50",
        "erf95",
        "erf99.9",
        "erf100",
    }
    half, most, nearly, whole = (found.attention[f"erf{m}"] for m in ("50", "95", "99.9", "100"))
    assert (half < most).all()
    assert (most <= nearly).all()
    assert (nearly <= whole).all()
    assert (whole == 1).all()  # softmax leaves no patch with nothing
    bare = read_internals(tiny_clip.model, probe, masses=(0.5,))
    assert [n for n in bare.measures if n.startswith("erf")] == ["erf50"]
    assert np.array_equal(bare.attention["erf50"], half)
    names = list(read_internals(tiny_clip.model, probe).measures)
    assert list(found.measures)[: names.index("erf95")] == names[: names.index("erf95")]
    assert list(found.measures)[-5:] == names[-5:]


@pytest.mark.parametrize("mass", [0.0, 1.01, -1.0, math.nan])
def test_a_threshold_that_is_none(tiny_clip: Clip, probe: Prepared, mass: float) -> None:
    """No mean over images is made of it."""
    with pytest.raises(MeasureError, match=r"of block 1: mass = .*: must lie in \(0, 1\]"):
        read_internals(tiny_clip.model, probe, masses=(mass,))


# --- sinks


def plant(model: Any, block: int, image: int, patch: int, times: float) -> None:
    """Make one patch of one image so many medians long after a block."""

    def hook(_module: nn.Module, _inputs: object, output: Any) -> Any:
        tokens = output[0] if isinstance(output, tuple) else output
        made = tokens.clone()
        made[image, 1 + patch] *= 1e3
        median = made[image, 1:].norm(dim=-1).quantile(0.5)
        made[image, 1 + patch] *= times * median / made[image, 1 + patch].norm()
        return (made, *output[1:]) if isinstance(output, tuple) else made

    model.vision_model.encoder.layers[block].register_forward_hook(hook)


@pytest.mark.parametrize(("times", "counted"), [(2.95, 0), (3.05, 1), (1e3, 1)])
def test_a_planted_sink_is_counted(tiny_clip: Clip, probe: Prepared, times: float, counted: int) -> None:
    """Once, in its image and after its block; three medians are the threshold."""
    without = read_internals(tiny_clip.model, probe).attention["sink_patches"]
    assert not without.any()
    plant(tiny_clip.model, block=1, image=4, patch=15, times=times)
    found = read_internals(tiny_clip.model, probe).attention["sink_patches"]
    expected = np.zeros((15, 2))
    expected[4, 1] = counted
    assert np.array_equal(found, expected)


def test_a_sink_stays_in_the_residual_stream(tiny_clip: Clip, probe: Prepared) -> None:
    """Planted after the first block, it is there after the second, too; the mean is over images."""
    plant(tiny_clip.model, block=0, image=2, patch=0, times=1e3)
    found = read_internals(tiny_clip.model, probe)
    assert found.attention["sink_patches"][2].tolist() == [1, 1]
    assert found.blocks("sink_patches") == pytest.approx([1 / 15, 1 / 15])


def test_the_class_token_is_no_sink(tiny_clip: Clip, probe: Prepared) -> None:
    """However long it is."""
    plant(tiny_clip.model, block=1, image=0, patch=-1, times=1e3)
    assert not read_internals(tiny_clip.model, probe).attention["sink_patches"].any()


# --- what is not finite


def spoil(module: nn.Module, token: int, value: float) -> None:
    """In one token of the third image."""

    def hook(_module: nn.Module, _inputs: object, output: Any) -> Any:
        tokens = output[0] if isinstance(output, tuple) else output
        made = tokens.clone()
        made[2, token] = value
        return (made, *output[1:]) if isinstance(output, tuple) else made

    module.register_forward_hook(hook)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("block", [0, 1])
def test_a_broken_patch_is_named(tiny_clip: Clip, probe: Prepared, block: int, value: float) -> None:
    """Though neither the class token nor the embedding shows it yet; or its length overflows."""
    spoil(tiny_clip.model.vision_model.encoder.layers[block], 7, value)
    message = f"norms of the patch states after block {block + 1} contain nan or inf"
    with pytest.raises(MeasureError, match=f"^{message}$"):
        read_internals(tiny_clip.model, probe, 7)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("vision_model.encoder.layers.0", "mean patch state after block 1 contains nan or inf"),
        ("vision_model.encoder.layers.1", "mean patch state after block 2 contains nan or inf"),
        ("vision_model.post_layernorm", "attention of the pooling head contains nan or inf"),
        ("vision_model.head.mlp", "the image embedding contains nan or inf"),
    ],
)
def test_siglip_names_its_parts(siglip: SiglipModel, probe: Prepared, place: str, message: str) -> None:
    """It has no class token and its reader has no block."""
    spoil(siglip.get_submodule(place), 0, math.nan)
    with pytest.raises(MeasureError, match=f"^{message}$"):
        read_internals(siglip, probe)


def test_siglip_names_its_reader_in_a_measure(siglip: SiglipModel, probe: Prepared) -> None:
    """Head diversity of a single head is undefined."""
    siglip.vision_model.head.attention.num_heads = 1
    siglip.config.vision_config.num_attention_heads = 1
    for block in siglip.vision_model.encoder.layers:
        block.self_attn.num_heads, block.self_attn.head_dim = 1, 32
    with pytest.raises(MeasureError, match=r"^head_diversity of the pooling head: .*at least two heads$"):
        read_internals(siglip, probe)


# --- half precision


def compared(model: Any, probe: Prepared, half: torch.dtype) -> None:
    """Half weights give what the same rounded weights give in float32."""
    low = copy.deepcopy(model).to(half)
    exact = copy.deepcopy(low).float()
    found, target = (read_internals(m, probe, 7, flow=True, detail=True) for m in (low, exact))
    other = read_internals(model, probe, flow=True)
    assert found.measures == target.measures
    for name in target.attention:
        assert np.isfinite(found.attention[name]).all(), name
        assert found.attention[name] == pytest.approx(target.attention[name], rel=1e-4, abs=1e-9), name
    assert np.abs(found.blocks("entropy") - other.blocks("entropy")).max() > 1e-6  # it was rounded
    assert torch.allclose(found.embedding, target.embedding, rtol=1e-4)
    assert found.embedding.dtype == torch.float32
    for a, b in zip(found.states, target.states, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    assert {p.dtype for p in low.parameters()} == {half}


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision(tiny_clip: Clip, siglip: SiglipModel, probe: Prepared, half: torch.dtype) -> None:
    """No nan, no loss beyond the weights' own rounding; flow and single heads, too."""
    compared(tiny_clip.model, probe, half)
    compared(siglip, probe, half)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_sharp_attention_in_half_precision(tiny_clip: Clip, probe: Prepared, half: torch.dtype) -> None:
    """Weights below what half precision can hold, where an epsilon within it gave nan."""
    for block in tiny_clip.model.vision_model.encoder.layers:
        with torch.no_grad():
            block.self_attn.q_proj.weight.mul_(6)
    seen = eager(copy.deepcopy(tiny_clip.model).to(half).float(), probe.images)
    assert seen.cls.min() < torch.finfo(torch.float16).smallest_normal / 100
    found = read_internals(tiny_clip.model.to(half), probe, detail=True, masses=MASSES)
    agree(found, seen, 1e-4)


def test_images_in_half_precision(tiny_clip: Clip, images: Tensor) -> None:
    """They are raised, too."""
    device = torch.device("cpu")
    found = read_internals(tiny_clip.model.half(), Prepared(images.half(), device))
    target = read_internals(tiny_clip.model, Prepared(images.half().float(), device))
    assert found.blocks("gini") == pytest.approx(target.blocks("gini"), abs=1e-12)
