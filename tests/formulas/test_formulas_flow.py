"""Whole attention maps: patch to patch, and rollout through all blocks."""

from __future__ import annotations

import math
from inspect import unwrap

import numpy as np
import pytest
import scipy.stats
import torch
from formula_oracles import attention, loop_rollout

from clipdrift.formulas import NATS_PER_BIT, bits, entropy, patch_entropy, rollout, rollout_step

T = 17


def test_bits() -> None:
    """An even choice between two is one bit."""
    assert bits(torch.tensor(math.log(2))).item() == pytest.approx(1)
    assert bits(torch.tensor([0.0, 8 * NATS_PER_BIT])).tolist() == pytest.approx([0, 8])


# --- patch entropy


@pytest.mark.parametrize("class_token", [True, False])
def test_patch_entropy_is_scipys(class_token: bool) -> None:
    """SciPy renormalises each row and takes the base; the class token's row and column are out."""
    maps = attention(3, 4, T, T)
    first = int(class_token)
    rows = scipy.stats.entropy(maps.numpy()[..., first:, first:], base=2, axis=-1)
    assert np.allclose(patch_entropy(maps, class_token).numpy(), rows.mean(-1), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_patch_entropy_extremes(dtype: torch.dtype) -> None:
    """log2 P where attention is even, 0 where each patch looks at one."""
    even = torch.full((2, 1 + 16, 1 + 16), 1 / 17).to(dtype)
    assert patch_entropy(even).tolist() == pytest.approx([4, 4], abs=1e-5)
    assert patch_entropy(torch.eye(T).to(dtype)).item() == 0
    assert patch_entropy(torch.eye(T).to(dtype), class_token=False).item() == 0


def test_patch_entropy_ignores_the_class_token() -> None:
    """Neither what it attends to nor what patches leave on it counts, up to the last bit that they leave."""
    maps = attention(2, T, T)
    value = patch_entropy(maps)
    maps[:, 0] = attention(2, T, seed=1)
    maps[:, 1:] *= 1e-3
    maps[:, 1:, 0] = 1 - maps[:, 1:, 1:].sum(-1)
    assert torch.allclose(patch_entropy(maps), value, atol=1e-12)
    assert (patch_entropy(maps, class_token=False) < value - 0.5).all()


def test_patch_entropy_of_large_maps_in_float32() -> None:
    """Maps larger than a piece, in float32, with weights that underflowed."""
    maps = attention(1, 2, 500, 500, sharp=8.0).float()
    maps[maps < 1e-9] = 0
    patches = maps.double()[..., 1:, 1:]
    expected = bits(entropy(patches).mean(-1))
    found = patch_entropy(maps)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, atol=1e-5)
    assert torch.allclose(patch_entropy(maps.bfloat16()).double(), expected, atol=1e-2)
    order = torch.randperm(499, generator=torch.Generator().manual_seed(0))
    moved = maps[..., 1:, 1:][..., order][..., order, :]
    assert torch.allclose(patch_entropy(moved, class_token=False), found, atol=1e-5)


def test_patch_entropy_sees_sharper_attention() -> None:
    """Positive control."""
    values = [patch_entropy(attention(8, T, T, sharp=sharp)).mean() for sharp in (0.5, 1.0, 2.0, 4.0)]
    assert values == sorted(values, reverse=True)


def test_patch_entropy_refuses_bad_maps() -> None:
    """One bad weight among the patches; a bad class row is not read."""
    for value, message in ((math.nan, "nan or inf"), (math.inf, "nan or inf"), (-0.1, "negative")):
        maps = attention(2, 3, T, T)
        maps[:, :, 0] = value
        assert torch.isfinite(patch_entropy(maps)).all()
        maps[1, 2, 5, 7] = value
        with pytest.raises(ValueError, match=message):
            patch_entropy(maps)
    maps = attention(2, 3, T, T)
    maps[1, 2, 5, 1:] = 0
    with pytest.raises(ValueError, match="sum to zero"):
        patch_entropy(maps)
    assert torch.isfinite(patch_entropy(maps, class_token=False)).all()
    with pytest.raises(ValueError, match="no patches"):
        patch_entropy(torch.ones(3, 1, 1))
    with pytest.raises(ValueError, match="not square"):
        unwrap(patch_entropy)(maps[..., 1:])


def test_patch_entropy_has_a_right_gradient() -> None:
    """Numerically, and finite behind a softmax that underflowed."""
    assert torch.autograd.gradcheck(patch_entropy, (attention(2, 4, 4, sharp=1.0).requires_grad_(),))
    scores = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    scores[2, 1] = -200
    patch_entropy(scores.requires_grad_().softmax(-1)).backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[2, 1] == 0
    assert (scores.grad[2, 2:] != 0).all()


# --- rollout


def test_rollout_is_the_plain_product() -> None:
    """Abnar and Zuidema 2020, by following the class token back from the last block to the first."""
    maps = attention(5, 3, 4, T, T)
    expected = np.stack([loop_rollout(maps.numpy()[:, image]) for image in range(3)])
    assert np.allclose(rollout(maps).numpy(), expected, atol=1e-12)


def test_rollout_is_its_steps_and_its_rows_stay_distributions() -> None:
    """What streamed code calls block by block is what the whole does; the order of blocks counts."""
    maps = attention(5, 3, 4, T, T)
    rolled = None
    for block in maps:
        rolled = rollout_step(rolled, block)
        assert torch.allclose(rolled.sum(-1), torch.ones(3, T).double(), atol=1e-12)
    assert rolled is not None
    row = rolled[:, 0, 1:]
    assert torch.allclose(rollout(maps), row / row.sum(-1, keepdim=True), atol=1e-14)
    assert not torch.allclose(rollout(maps.flip(0)), rollout(maps), atol=1e-3)


def test_rollout_step_leaves_its_arguments_alone() -> None:
    """It works in place only on what it made."""
    maps, rolled = attention(2, 3, T, T), attention(2, T, T)
    copies = maps.clone(), rolled.clone()
    first = rollout_step(None, maps)
    assert torch.allclose(rollout_step(torch.eye(T).double().expand(2, T, T), maps), first, atol=1e-14)
    rollout_step(rolled, maps)
    rollout_step(None, maps[:, :1])
    assert torch.equal(maps, copies[0])
    assert torch.equal(rolled, copies[1])


def test_rollout_of_a_single_block_is_its_class_row() -> None:
    """The identity adds nothing on patches; all on one patch stays there."""
    maps = attention(1, 2, 3, T, T)
    row = maps[0, :, :, 0, 1:].mean(1)
    assert torch.allclose(rollout(maps), row / row.sum(-1, keepdim=True), atol=1e-12)
    to_one = torch.zeros(4, 1, 1, T, T)
    to_one[..., 5] = 1
    assert rollout(to_one).tolist() == [[0.0] * 4 + [1.0] + [0.0] * 11]
    even = torch.full((4, 1, 1, T, T), 1 / T)
    assert rollout(even)[0].tolist() == pytest.approx([1 / 16] * 16)


def test_rollout_follows_patches_and_ignores_the_order_of_heads() -> None:
    """Permuting patches permutes it; the mean over heads has no order."""
    maps = attention(4, 2, 3, T, T)
    order = torch.randperm(T - 1, generator=torch.Generator().manual_seed(0))
    tokens = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + order])
    permuted = maps[..., tokens, :][..., tokens]
    assert torch.allclose(rollout(permuted), rollout(maps)[:, order], atol=1e-13)
    assert torch.allclose(rollout(maps.flip(2)), rollout(maps), atol=1e-13)


def test_rollout_sees_a_change_in_any_block() -> None:
    """Positive control: more attention on one patch, in one head of one block, comes through."""
    maps = attention(5, 1, 3, T, T)
    before = rollout(maps)[0, 6]
    for block in range(5):
        pulled = maps.clone()
        pulled[block, :, 1] = 0.5 * pulled[block, :, 1]
        pulled[block, :, 1, :, 7] += 0.5
        assert rollout(pulled)[0, 6] > before + 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rollout_in_lower_precision(dtype: torch.dtype) -> None:
    """Half precision is raised to float32, under autocast as well."""
    maps = attention(6, 2, 4, T, T, sharp=5.0)
    low = maps.to(dtype)
    found = rollout(low)
    assert found.dtype == torch.float32
    assert torch.allclose(found, rollout(low.float() / low.float().sum(-1, keepdim=True)), atol=2e-3)
    assert torch.allclose(found.double(), rollout(maps), atol=1e-6 if dtype == torch.float32 else 2e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rollout(low), found)


@pytest.mark.parametrize(
    ("value", "message"),
    [(math.nan, "block 3 contains nan"), (math.inf, "block 3 contains nan"), (-0.1, "block 3 .* negative")],
)
def test_rollout_refuses_a_bad_weight(value: float, message: str) -> None:
    """Wherever it stands, the class token's column included; the message names the block."""
    for row, column in ((0, 0), (4, 0), (0, 4), (5, 6)):
        maps = attention(4, 2, 3, T, T)
        maps[2, 1, 2, row, column] = value
        with pytest.raises(ValueError, match=message):
            rollout(maps)


def test_rollout_refuses_what_is_no_attention() -> None:
    """Rows that do not sum to 1, no blocks, no attention on patches."""
    maps = attention(4, 2, 3, T, T)
    maps[1, 0, 0, 3] *= 1.002
    with pytest.raises(ValueError, match=r"block 2 do not sum to 1 \(off by 0.002\)"):
        rollout(maps)
    maps[1, 0, 0, 3] /= 1.0015
    assert torch.isfinite(rollout(maps)).all()
    with pytest.raises(ValueError, match="at least one block"):
        rollout(maps[:0])
    with pytest.raises(ValueError, match="no patch"):
        rollout(torch.eye(T).expand(4, 1, 1, T, T))


def test_rollout_has_a_right_gradient() -> None:
    """Through all blocks."""
    scores = torch.randn(3, 1, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: rollout(s.softmax(-1)), (scores.requires_grad_(),))
