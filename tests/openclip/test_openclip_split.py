"""Attention split for adapters: the numbers and gradients of OpenCLIP's own, and its weights back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from openclip_models import REASON, build, pixels, torchs_maps
from torch import Tensor

open_clip = pytest.importorskip("open_clip", reason=REASON, exc_type=ImportError)

from clipdrift.model.towers import Tower, text_tower_of, tower_of  # noqa: E402
from clipdrift.model.towers.split_attention import SplitAttention, joined  # noqa: E402
from clipdrift.model.trace import trace  # noqa: E402
from clipdrift.model.weights import effective_weights, text_weights  # noqa: E402

KINDS: dict[str, dict[str, Any]] = {
    "CLIP": {},
    "CustomTextCLIP": {"kind": "CustomTextCLIP"},
    "own attention": {"block_type": "custom"},
    "layer scale": {"ls_init_value": 0.7},
    "inner norm": {"block_type": "custom", "scale_attn_inner": True},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
TOKENS = torch.tensor([[49406, 320, 2368, 49407] + [0] * 12, [49406, 518, 49407] + [0] * 13])


def made(kind: str) -> Any:
    return build(**KINDS[kind])


def opened(model: Any) -> Any:
    """A copy that is ready for adapters in both towers."""
    copied = copy.deepcopy(model)
    assert tower_of(copied).make_adaptable()
    assert text_tower_of(copied).make_adaptable()
    return copied


def outputs(model: Any) -> list[Tensor]:
    return [model.encode_image(pixels(3)), model.encode_text(TOKENS)]


@every_kind
@pytest.mark.parametrize("training", [False, True])
def test_a_split_model_gives_the_same(kind: str, training: bool) -> None:
    """To rounding, also by torch's fast path of attention, which runs without gradients alone."""
    model = made(kind).train(training)
    split = opened(model)
    for own, other in zip(outputs(model), outputs(split), strict=True):
        assert (own - other).abs().max() < 1e-6 * own.abs().max()
    with torch.no_grad():
        for own, other in zip(outputs(model), outputs(split), strict=True):
            assert (own - other).abs().max() < 1e-6 * own.abs().max()


@every_kind
def test_its_gradients_are_the_same(kind: str) -> None:
    """Of every weight: those of queries, keys and values stacked are those of the one parameter."""
    model = made(kind)
    split = opened(model)
    for parameter in split.parameters():
        parameter.requires_grad_(True)
    for one in (model, split):
        (outputs(one)[0].square().sum() + outputs(one)[1].square().sum()).backward()
    found = joined({name: p.grad for name, p in split.named_parameters() if p.grad is not None})
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        assert (found[name] - grad).abs().max() <= 1e-5 * grad.abs().max() + 1e-7, name


@every_kind
def test_openclips_own_weights_come_back(kind: str) -> None:
    """Names, order of parts and every bit; strict loading is the proof."""
    model = made(kind)
    back = joined(opened(model).state_dict())
    assert all(torch.equal(back[name], weight) for name, weight in model.state_dict().items())
    fresh = made(kind)
    fresh.load_state_dict(back, strict=True)


@every_kind
def test_a_split_model_is_read_the_same(kind: str) -> None:
    """Attention, states and weights under the common names; of torch's own attention where there is one."""
    model = made(kind)
    split = opened(model)
    with torch.no_grad():
        own, other = (trace(one, pixels(3), rows=True) for one in (model, split))
        assert own.rows is not None
        assert other.rows is not None
        assert torch.allclose(own.rows, other.rows, atol=1e-6)
        assert torch.allclose(own.states, other.states, atol=1e-5)
        assert torch.allclose(own.embedding, other.embedding, atol=1e-5)
        if kind == "CLIP":
            assert torch.allclose(other.rows, torchs_maps(model, pixels(3))[:, :, :, 0], atol=1e-6)
    for weights in (effective_weights, text_weights):
        before, after = weights(model), weights(split)
        assert before.keys() == after.keys()
        assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_nothing_is_split_twice() -> None:
    split = opened(build())
    assert not tower_of(split).make_adaptable()
    assert not text_tower_of(split).make_adaptable()
    assert sum(isinstance(module, SplitAttention) for module in split.modules()) == 4


@every_kind
def test_a_tower_goes_on_from_within(kind: str) -> None:
    """From what each block has left, also when split."""
    for model in (made(kind), opened(made(kind))):
        tower = tower_of(model)
        left = handed_on(tower, pixels(3))
        with torch.no_grad():
            whole = trace(model, pixels(3))
            for start, carried in enumerate(left, start=1):
                last = tower.needed(carried) if start == len(left) else carried
                assert torch.allclose(trace(model, last, start=start).embedding, whole.embedding, atol=1e-5)


@torch.no_grad()
def handed_on(tower: Tower, images: Tensor) -> list[Tensor]:
    """What each block hands to the next."""
    left: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _module, _inputs, output: left.append(tower.carried(output)))
        for block in tower.blocks
    ]
    trace(tower.model, images)
    for handle in handles:
        handle.remove()
    return left
