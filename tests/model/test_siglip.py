"""SigLIP against transformers' and torch's own: what is read of it through the pooling head."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipModel,
    SiglipVisionModel,
)

from clipdrift.formulas import entropy
from clipdrift.model.clip import Clip
from clipdrift.model.towers import UnsupportedModelError, tower_of
from clipdrift.model.trace import attention_maps, trace
from clipdrift.model.weights import effective_weights

SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
TEXT = {**SMALL, "vocab_size": 10, "bos_token_id": 8, "eos_token_id": 9, "pad_token_id": 9}
VISION = {**SMALL, "image_size": 16, "patch_size": 4}


@pytest.fixture(scope="module")
def base() -> SiglipModel:
    """A random image tower of the shape of google/siglip-base-patch16-224; the text tower is a stub."""
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=TEXT, vision_config={})).eval()
    vision = model.vision_model
    with torch.no_grad():  # uneven attention, as after training
        for block in vision.encoder.layers:
            block.self_attn.q_proj.weight.mul_(2)
            block.self_attn.k_proj.weight.mul_(2)
        vision.head.probe.normal_()
        vision.head.attention.in_proj_weight.mul_(2)
        vision.head.attention.in_proj_bias.normal_(0, 0.5)
    return model


def pixels(n: int, size: int = 16) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def torchs_rows(model: SiglipModel, images: Tensor) -> Tensor:
    """(1, B, H, P) as torch's own attention returns them, on what transformers' encoder gives the head."""
    hidden = model.vision_model(pixel_values=images).last_hidden_state
    head = model.vision_model.head
    probe = head.probe.expand(len(images), -1, -1)
    _, maps = head.attention(probe, hidden, hidden, need_weights=True, average_attn_weights=False)
    return maps[None, :, :, 0]


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.slow
@torch.no_grad()
def test_the_real_shapes_agree_with_torch(base: SiglipModel) -> None:
    """At the size of SigLIP's base: rows, states, embedding."""
    images = pixels(2, 224)
    seen = trace(base, images, rows=True)
    hidden = base.vision_model(pixel_values=images, output_hidden_states=True).hidden_states
    assert seen.rows is not None
    assert seen.rows.shape == (1, 2, 12, 196)
    assert seen.rows.std(-1).mean() > 0.2 / 196  # not even: a wrong scale would show
    assert (seen.rows - torchs_rows(base, images)).abs().max() < 1e-6
    assert (seen.rows.sum(-1) - 1).abs().max() < 1e-6
    assert torch.equal(seen.states, torch.stack([h.mean(1) for h in hidden[1:13]]))
    assert torch.equal(seen.embedding, base.get_image_features(pixel_values=images).pooler_output)


@torch.no_grad()
def test_a_tiny_model_agrees_with_torch(siglip: Clip) -> None:
    """The same, with a head and norms; where there is no projection, what is pooled is the embedding."""
    images, head = pixels(5), nn.Linear(32, 3)
    seen = trace(siglip.model, images, head=head, rows=True, norms=True)
    out = siglip.model.vision_model(pixel_values=images, output_hidden_states=True)
    assert (tower_of(siglip.model).reader, tower_of(siglip.model).first_patch) == ("pooling head", 0)
    assert seen.rows is not None
    assert seen.rows.shape == (1, 5, 2, 16)
    assert seen.rows.std(-1).mean() > 0.2 / 16
    assert (seen.rows - torchs_rows(siglip.model, images)).abs().max() < 1e-6
    assert torch.equal(seen.states, torch.stack([hidden.mean(1) for hidden in out.hidden_states[1:3]]))
    assert torch.equal(seen.pooled, out.pooler_output)
    assert torch.equal(seen.embedding, out.pooler_output)
    assert seen.norms is not None
    assert torch.allclose(seen.norms, torch.stack(out.hidden_states[1:3]).norm(dim=-1), rtol=1e-5)
    assert seen.logits is not None
    assert torch.equal(seen.logits, head(seen.embedding))


@torch.no_grad()
def test_an_attention_without_biases(siglip: Clip) -> None:
    """torch leaves the projections' biases out with the output's."""
    bare = nn.MultiheadAttention(32, 2, bias=False, batch_first=True)
    siglip.model.vision_model.head.attention = bare.eval()
    seen = trace(siglip.model, pixels(3), rows=True)
    assert seen.rows is not None
    assert (seen.rows - torchs_rows(siglip.model, pixels(3))).abs().max() < 1e-6


@torch.no_grad()
def test_block_maps_equal_eager_attention(siglip: Clip) -> None:
    """Whole maps, patch to patch, in every block; beside the head's rows and without them."""
    other = copy.deepcopy(siglip.model)
    other.set_attn_implementation("eager")
    expected = other.vision_model(pixel_values=pixels(3), output_attentions=True).attentions
    for rows in (False, True):
        maps: dict[int, Tensor] = {}
        trace(
            siglip.model,
            pixels(3),
            rows=rows,
            on_maps=lambda number, q, k, heads: maps.update({number: attention_maps(q, k, heads)}),  # noqa: B023
        )
        assert list(maps) == [1, 2]
        for ours, theirs in zip(maps.values(), expected, strict=True):
            assert ours.shape == (3, 2, 16, 16)
            assert (ours - theirs).abs().max() < 1e-6


def test_a_block_has_no_token_to_watch_alone(siglip: Clip) -> None:
    """Token 0 is the patch in the corner."""
    tower = tower_of(siglip.model)
    with pytest.raises(ValueError, match="no class token"):
        tower.watch(tower.blocks[0], False, lambda queries, keys: None)


def test_gradients_through_rows_equal_those_of_torchs_attention(siglip: Clip) -> None:
    """A penalty on the head's attention reaches its query, its keys and the blocks before."""
    other = copy.deepcopy(siglip.model)
    rows = trace(siglip.model, pixels(4), rows=True).rows
    assert rows is not None
    entropy(rows).mean().backward()
    entropy(torchs_rows(other, pixels(4))).mean().backward()
    for name in ("head.probe", "head.attention.in_proj_weight", "encoder.layers.0.mlp.fc1.weight"):
        found = siglip.model.vision_model.get_parameter(name).grad
        expected = other.vision_model.get_parameter(name).grad
        assert found is not None
        assert found.abs().max() > 1e-5, name
        assert (found - expected).abs().max() < 1e-6, name


def test_gradients_flow_through_states_and_embedding(siglip: Clip) -> None:
    """A penalty on any of them reaches the first layer."""
    first = siglip.model.vision_model.embeddings.patch_embedding.weight
    for pick in (lambda t: t.states[0], lambda t: t.embedding):
        siglip.model.zero_grad()
        pick(trace(siglip.model, pixels(3))).square().sum().backward()
        assert first.grad.abs().max() > 0


def test_no_hook_stays_behind(siglip: Clip) -> None:
    """Nor after a forward pass that raises: before the head, or within its attention."""
    before = hooks(siglip.model)
    trace(siglip.model, pixels(2), rows=True, on_maps=lambda *_: None)
    assert hooks(siglip.model) == before
    for size in (4, 12, 18):  # of one patch, transformers would take it and add every position
        with pytest.raises(ValueError, match=rf"image size \({size}\*{size}\) does not match"):
            trace(siglip.model, pixels(2, size), rows=True)

    def fail(*_: object) -> None:
        raise RuntimeError("deep inside")

    handle = siglip.model.vision_model.head.attention.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="deep inside"):
        trace(siglip.model, pixels(2), rows=True, on_maps=lambda *_: None)
    handle.remove()
    assert hooks(siglip.model) == before


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 7])
def test_the_batch_size_does_not_matter(siglip: Clip, size: int) -> None:
    """An image's values are its own."""
    whole = trace(siglip.model, pixels(10), rows=True)
    parts = [trace(siglip.model, part, rows=True) for part in pixels(10).split(size)]
    for name, dim in (("rows", 1), ("states", 1), ("embedding", 0)):
        joined = torch.cat([getattr(part, name) for part in parts], dim)
        assert (joined - getattr(whole, name)).abs().max() < 1e-5, name


@torch.no_grad()
def test_rows_stay_float32_under_autocast(siglip: Clip) -> None:
    """The softmax is taken in float32 of what the head projects in bfloat16."""
    full = trace(siglip.model, pixels(8), rows=True).rows
    with torch.autocast("cpu", torch.bfloat16):
        half = trace(siglip.model, pixels(8), rows=True).rows
    assert full is not None
    assert half is not None
    assert half.dtype == torch.float32
    assert (half.sum(-1) - 1).abs().max() < 1e-6
    assert 1e-6 < (half - full).abs().max() < 0.02
    assert half.bfloat16().float().ne(half).float().mean() > 0.9  # really finer than bfloat16


def test_weights_are_named_as_the_checkpoint_names_them(siglip: Clip) -> None:
    """In the blocks these are CLIP's names; nothing of the head is left out."""
    own = {
        name: value for name, value in siglip.model.state_dict().items() if name.startswith("vision_model.")
    }
    found = effective_weights(siglip.model)
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], own[name]) for name in own)
    assert "vision_model.encoder.layers.1.self_attn.q_proj.weight" in found
    assert found["vision_model.head.attention.in_proj_weight"].shape == (96, 32)


def test_adapters_are_seen_as_they_act(siglip: Clip) -> None:
    """Those of the pooling head, too, which peft merges for the time of a forward pass alone."""
    torch.manual_seed(0)
    config = LoraConfig(target_modules=r"vision_model\..*(q_proj|head\.attention)", init_lora_weights=False)
    plainly = trace(siglip.model, pixels(3), rows=True).rows
    adapted = get_peft_model(siglip.model, config).eval()
    seen = trace(adapted, pixels(3), rows=True).rows
    merged = trace(adapted.merge_and_unload(), pixels(3), rows=True).rows
    assert plainly is not None
    assert seen is not None
    assert merged is not None
    assert (seen - merged).abs().max() < 1e-5
    assert (seen - plainly).abs().max() > 1e-3


def resnet() -> nn.Module:
    return type("ResNet", (nn.Module,), {"__module__": "torchvision.models.resnet"})()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda: SiglipModel(
                SiglipConfig(text_config=TEXT, vision_config={**VISION, "vision_use_head": False})
            ),
            r"SiglipModel is not supported: without a pooling head \(vision_use_head = false\)",
        ),
        (
            lambda: SiglipVisionModel(SiglipConfig(vision_config=VISION).vision_config),
            "SiglipVisionModel is not supported: .*load the same weights as SiglipModel",
        ),
        (
            lambda: SiglipForImageClassification(SiglipConfig(vision_config=VISION)),
            "SiglipForImageClassification is not supported: it classifies by the mean of its patches",
        ),
        (
            lambda: Siglip2Model(Siglip2Config(text_config=TEXT, vision_config={**SMALL, "patch_size": 4})),
            "Siglip2Model is not supported: .*NaFlex.*of one resolution are SiglipModels",
        ),
        (resnet, "ResNet is not supported: it is a classifier alone, with no texts beside it"),
    ],
    ids=["no pooling head", "vision only", "classifier", "NaFlex", "ResNet"],
)
def test_what_cannot_be_read_says_why(make: Callable[[], nn.Module], reason: str) -> None:
    """Each with what can be done instead."""
    with pytest.raises(UnsupportedModelError, match=reason):
        tower_of(make())
