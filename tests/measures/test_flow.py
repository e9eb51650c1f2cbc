"""Rollout and patch-to-patch entropy against loops over eager maps, however they are streamed."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from measure_oracles import Eager, eager, loop_bits, loop_erf, loop_gini, loop_patch_bits, loop_rollout
from torch import Tensor, nn
from transformers import SiglipModel

import clipdrift.measures.flow as flowing
from clipdrift.data.deck import Prepared
from clipdrift.measures import FLOW, Internals, MeasureError, read_internals
from clipdrift.measures.flow import Flow
from clipdrift.model.clip import Clip
from clipdrift.model.trace import attention_maps, trace


def expected(seen: Eager) -> dict[str, np.ndarray]:
    """Image by image: rollout's three (N, 1), patch entropy (N, L)."""
    token = seen.reader is None
    images = range(seen.maps.shape[1])
    rolled = [loop_rollout(seen.maps[:, i], None if token else seen.reader[i]) for i in images]
    return {
        "rollout_entropy": np.array([[loop_bits(row)] for row in rolled]),
        "rollout_erf95": np.array([[loop_erf(row)] for row in rolled]),
        "rollout_gini": np.array([[loop_gini(row)] for row in rolled]),
        "patch_entropy": np.array(
            [[loop_patch_bits(block, token) for block in seen.maps[:, i]] for i in images]
        ),
    }


def agree(found: Internals, targets: dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
    assert targets.keys() == set(FLOW)
    for name, values in targets.items():
        assert found.attention[name].shape == values.shape, name
        assert np.abs(found.attention[name] - values).max() < tolerance, name


# --- the numbers


@pytest.mark.parametrize("size", [1, 7, 250])
def test_tiny_clip(tiny_clip: Clip, probe: Prepared, size: int) -> None:
    """Per image and block, in bits, whatever the batches; uneven attention, so that an order would show."""
    targets = expected(eager(tiny_clip.model, probe.images))
    assert targets["patch_entropy"].max() < 3.9  # of 4 bits
    assert np.ptp(targets["rollout_entropy"]) > 0.02
    agree(read_internals(tiny_clip.model, probe, size, flow=True), targets)


@pytest.mark.parametrize("size", [1, 7, 250])
def test_tiny_siglip(siglip: SiglipModel, probe: Prepared, size: int) -> None:
    """Token 0 is a patch like any other; the rollout is what the pooling query sees through the blocks."""
    targets = expected(eager(siglip, probe.images))
    assert np.ptp(targets["rollout_entropy"]) > 0.02
    agree(read_internals(siglip, probe, size, flow=True), targets)


@pytest.mark.slow
def test_real_geometry(b32: tuple[Internals, Eager]) -> None:
    """Twelve blocks of twelve heads on 49 patches."""
    found, seen = b32
    assert seen.cls.std(-1).mean() > 0.1 / 50  # uneven
    agree(found, expected(seen))


def test_the_order_of_blocks_matters(tiny_clip: Clip, probe: Prepared) -> None:
    """The test above could tell a product with the later blocks on the right."""
    seen = eager(tiny_clip.model, probe.images)
    turned = Eager(seen.maps[::-1], seen.hidden, seen.embedding)
    rows, others = expected(seen)["rollout_entropy"], expected(turned)["rollout_entropy"]
    assert np.abs(rows - others).min() > 1e-4


def test_flow_is_asked_for(tiny_clip: Clip, probe: Prepared) -> None:
    """It costs whole maps; the other measures are the same with it and without."""
    bare, full = (read_internals(tiny_clip.model, probe, flow=flow) for flow in (False, True))
    assert set(full.measures) - set(bare.measures) == set(FLOW)
    for name in bare.measures:
        assert np.array_equal(bare.blocks(name), full.blocks(name)), name


# --- how they are streamed


class Maps:
    """Stands in for ``attention_maps``: what was built, and whether another of them was still alive."""

    def __init__(self) -> None:
        self.built: list[tuple[int, ...]] = []
        self.alive: list[weakref.ref[Tensor]] = []
        self.most = 0

    def __call__(self, queries: Tensor, keys: Tensor, heads: int) -> Tensor:
        maps = attention_maps(queries, keys, heads)
        self.built.append(tuple(maps.shape))
        self.alive = [kept for kept in self.alive if kept() is not None] + [weakref.ref(maps)]
        self.most = max(self.most, len(self.alive))
        return maps


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> Maps:
    made = Maps()
    monkeypatch.setattr(flowing, "attention_maps", made)
    return made


ONE = 2 * 17 * 17
"""Entries of the tiny CLIP's maps of one image in one block."""


@pytest.mark.parametrize(
    ("chunk", "pieces"), [(1, [1] * 15), (ONE, [1] * 15), (4 * ONE + 1, [4, 4, 4, 3]), (99 * ONE, [15])]
)
def test_chunks_change_nothing(
    tiny_clip: Clip,
    probe: Prepared,
    maps: Maps,
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
    pieces: list[int],
) -> None:
    """Pieces of a batch, the last one short, an image at least; each block in the same pieces."""
    targets = expected(eager(tiny_clip.model, probe.images))
    monkeypatch.setattr(flowing, "_CHUNK", chunk)
    agree(read_internals(tiny_clip.model, probe, flow=True), targets)
    assert [shape[0] for shape in maps.built] == 2 * pieces
    assert all(shape[1:] == (2, 17, 17) for shape in maps.built)


def test_chunks_of_siglip(siglip: SiglipModel, probe: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader's rows stay with their images."""
    targets = expected(eager(siglip, probe.images))
    monkeypatch.setattr(flowing, "_CHUNK", 4 * 2 * 16 * 16)
    agree(read_internals(siglip, probe, 7, flow=True), targets)


def test_one_chunk_of_maps_is_alive(
    tiny_clip: Clip, probe: Prepared, maps: Maps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those of the piece before nor those of another block."""
    monkeypatch.setattr(flowing, "_CHUNK", 2 * ONE)
    read_internals(tiny_clip.model, probe, 7, flow=True)
    assert len(maps.built) == 2 * (4 + 4 + 1)
    assert maps.most == 1
    assert not [kept for kept in maps.alive if kept() is not None]


def test_between_blocks_one_matrix_for_each_image_is_kept(
    tiny_clip: Clip, probe: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one for each head, nor for each block."""
    monkeypatch.setattr(flowing, "_CHUNK", 2 * ONE)
    flow, held = Flow(class_token=True), []

    def see(*seen: Any) -> None:
        flow.see(*seen)
        tensors = [value for value in vars(flow).values() if isinstance(value, Tensor)]
        held.append([tuple(tensor.shape) for tensor in tensors])

    with torch.no_grad():
        trace(tiny_clip.model, probe.images, on_maps=see)
    assert held == 2 * [[(15, 17, 17)]]


# --- what is refused


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_block_is_named(tiny_clip: Clip, probe: Prepared, block: int, value: float) -> None:
    """As an error of measuring that says where, also though maps are read before rows are checked."""
    with torch.no_grad():
        tiny_clip.model.vision_model.encoder.layers[block].self_attn.q_proj.weight[0, 0] = value
    with pytest.raises(MeasureError, match=f"patch_entropy of block {block + 1}: .*nan or inf"):
        read_internals(tiny_clip.model, probe, flow=True)


def all_to_one_token(model: Any, block: int, token: int) -> None:
    attention = model.vision_model.encoder.layers[block].self_attn

    def keys(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        made = torch.zeros_like(output)
        made[:, token] = 1e3
        return made

    attention.k_proj.register_forward_hook(keys)
    with torch.no_grad():
        attention.q_proj.weight.zero_()
        attention.q_proj.bias.fill_(1.0)


def test_patches_that_see_no_patch_are_an_error(tiny_clip: Clip, probe: Prepared) -> None:
    """All attention on the class token: renormalised over patches it is 0/0."""
    all_to_one_token(tiny_clip.model, 1, 0)
    with pytest.raises(MeasureError, match=r"patch_entropy of block 2: .* of a row sum to zero"):
        read_internals(tiny_clip.model, probe, flow=True)


def test_all_attention_on_one_patch_is_no_information(tiny_clip: Clip, probe: Prepared) -> None:
    """Positive control: the rollout ends on the patch that every block looks at."""
    for block in range(2):
        all_to_one_token(tiny_clip.model, block, 5)
    found = read_internals(tiny_clip.model, probe, flow=True)
    landmarks = {
        "rollout_entropy": 0,
        "rollout_erf95": 1 / 16,
        "rollout_gini": 15 / 16,
        "patch_entropy": 0,
    }
    for name, value in landmarks.items():
        assert found.attention[name] == pytest.approx(value, abs=1e-6), name
