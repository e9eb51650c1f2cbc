"""The trace against transformers' own eager attention, hidden states and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from clipdrift.formulas import entropy
from clipdrift.model.clip import Clip
from clipdrift.model.trace import Traced, trace


def pixels(n: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def eager(model: CLIPModel) -> CLIPModel:
    """The same weights under eager attention, which alone gives maps."""
    other = copy.deepcopy(model)
    other.set_attn_implementation("eager")
    return other


def eager_rows(model: CLIPModel, images: Tensor) -> Tensor:
    """(L, B, H, 1+P) CLS rows of transformers' own maps."""
    out = model.vision_model(pixel_values=images, output_attentions=True)
    return torch.stack(out.attentions)[:, :, :, 0]


@pytest.fixture(scope="module", params=[32, 16], ids=["ViT-B/32", "ViT-B/16"])
def base(request: pytest.FixtureRequest) -> CLIPModel:
    """A random image tower of the real shape; the text tower is a stub."""
    torch.manual_seed(request.param)
    config = CLIPConfig(
        text_config={
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "vocab_size": 10,
            "bos_token_id": 8,
            "eos_token_id": 9,
            "pad_token_id": 9,
        },
        vision_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 224,
            "patch_size": request.param,
        },
        projection_dim=512,
        attn_implementation="sdpa",
    )
    model = CLIPModel(config).eval()
    with torch.no_grad():  # uneven attention, as after training
        for block in model.vision_model.encoder.layers:
            block.self_attn.q_proj.weight.mul_(4)
            block.self_attn.k_proj.weight.mul_(4)
    return model


@torch.no_grad()
def test_the_real_shapes_agree_with_transformers(base: CLIPModel) -> None:
    """Everything read at ViT-B's size under sdpa is what transformers gives under eager attention."""
    size, side = base.config.vision_config.image_size, base.config.vision_config.patch_size
    images = pixels(2, size)
    seen = trace(base, images, rows=True)
    hidden = base.vision_model(pixel_values=images, output_hidden_states=True).hidden_states
    embedding = base.get_image_features(pixel_values=images).pooler_output
    assert base.config._attn_implementation == "sdpa"
    base.set_attn_implementation("eager")  # no copy: 90 M parameters
    try:
        expected = eager_rows(base, images)
    finally:
        base.set_attn_implementation("sdpa")
    assert seen.rows is not None
    assert seen.rows.shape == (12, 2, 12, 1 + (size // side) ** 2)
    assert seen.rows.std(-1).mean() > 0.1 / seen.rows.shape[-1]  # type: ignore[index]  # not even: a wrong scale would show
    assert (seen.rows - expected).abs().max() < 1e-6
    assert torch.equal(seen.embedding, embedding)
    assert torch.equal(seen.states, torch.stack(hidden[1:])[:, :, 0])


@torch.no_grad()
def test_a_tiny_model_agrees_with_transformers(tiny_clip: Clip) -> None:
    """The same, with a head and the pooled state, on the model that all tests use."""
    model, images, head = tiny_clip.model, pixels(5, 16), nn.Linear(24, 3)
    seen = trace(model, images, head=head, rows=True)
    out = model.vision_model(pixel_values=images, output_hidden_states=True)
    assert seen.rows is not None
    assert seen.rows.shape == (2, 5, 2, 17)
    assert (seen.rows - eager_rows(eager(model), images)).abs().max() < 1e-6
    assert (seen.rows.sum(-1) - 1).abs().max() < 1e-6
    assert torch.equal(seen.states, torch.stack(out.hidden_states[1:])[:, :, 0])
    assert torch.equal(seen.pooled, out.pooler_output)
    assert torch.equal(seen.pooled, model.vision_model.post_layernorm(seen.states[-1]))
    assert torch.equal(seen.embedding, model.get_image_features(pixel_values=images).pooler_output)
    assert seen.logits is not None
    assert torch.equal(seen.logits, head(seen.embedding))


@torch.no_grad()
def test_only_what_is_asked_for(tiny_clip: Clip) -> None:
    """Without a head no logits, without rows no queries are kept; the rest is the same."""
    images = pixels(2, 16)
    bare, full = trace(tiny_clip.model, images), trace(tiny_clip.model, images, rows=True)
    assert bare.logits is None
    assert bare.rows is None
    assert torch.equal(bare.embedding, full.embedding)
    assert torch.equal(bare.states, full.states)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_no_hook_stays_behind(tiny_clip: Clip) -> None:
    """A hook left on a model that trains on would fill the memory."""
    model = tiny_clip.model
    before = hooks(model)
    trace(model, pixels(2, 16), rows=True)
    assert hooks(model) == before


def test_no_hook_stays_behind_a_failure(tiny_clip: Clip) -> None:
    """Nor after a forward pass that raises: wrong size, or an error deep inside."""
    model = tiny_clip.model
    before = hooks(model)
    with pytest.raises(ValueError, match="image size"):
        trace(model, pixels(2, 12), rows=True)
    assert hooks(model) == before

    def fail(*_: object) -> None:
        raise RuntimeError("deep inside")

    handle = model.vision_model.encoder.layers[1].mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="deep inside"):
        trace(model, pixels(2, 16), rows=True)
    handle.remove()
    assert hooks(model) == before
    assert trace(model, pixels(2, 16), rows=True).states.shape == (2, 2, 32)


def test_gradients_through_rows_equal_those_of_eager_attention(tiny_clip: Clip) -> None:
    """An entropy penalty under sdpa trains as it would under eager attention, in every block."""
    model, images = tiny_clip.model, pixels(6, 16)
    other = eager(model)
    rows = trace(model, images, rows=True).rows
    assert rows is not None
    entropy(rows[..., 1:]).mean().backward()
    entropy(eager_rows(other, images)[..., 1:]).mean().backward()
    for ours, theirs in zip(
        model.vision_model.encoder.layers, other.vision_model.encoder.layers, strict=True
    ):
        for name in ("q_proj", "k_proj"):
            found = getattr(ours.self_attn, name).weight.grad
            expected = getattr(theirs.self_attn, name).weight.grad
            assert found.abs().max() > 1e-4
            assert (found - expected).abs().max() < 1e-5


def test_gradients_flow_through_states_embedding_and_logits(tiny_clip: Clip) -> None:
    """A penalty on any of them reaches the first layer; a state reaches its own block, not later ones."""
    model, images, head = tiny_clip.model, pixels(3, 16), nn.Linear(24, 3)
    first = model.vision_model.embeddings.patch_embedding.weight
    for pick in (lambda t: t.states[0], lambda t: t.pooled, lambda t: t.embedding, lambda t: t.logits):
        model.zero_grad()
        pick(trace(model, images, head=head)).square().sum().backward()
        assert first.grad.abs().max() > 0
    model.zero_grad()
    trace(model, images).states[0].square().sum().backward()
    blocks = model.vision_model.encoder.layers
    assert blocks[0].mlp.fc1.weight.grad.abs().max() > 0
    assert not blocks[1].mlp.fc1.weight.grad.any()


@torch.no_grad()
def test_rows_stay_float32_under_autocast(tiny_clip: Clip) -> None:
    """Training in bf16 must not round the rows, whose logarithms a penalty takes, to three digits."""
    images = pixels(8, 16)
    full = trace(tiny_clip.model, images, rows=True)
    with torch.autocast("cpu", torch.bfloat16):
        half = trace(tiny_clip.model, images, rows=True)
    assert full.rows is not None
    assert half.rows is not None
    assert half.rows.dtype == torch.float32
    assert torch.isfinite(half.rows).all()
    assert (half.rows.sum(-1) - 1).abs().max() < 1e-6
    assert (half.rows - full.rows).abs().max() < 0.02
    assert half.rows.bfloat16().float().ne(half.rows).float().mean() > 0.9  # really finer than bfloat16


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 7])
def test_the_batch_size_does_not_matter(tiny_clip: Clip, size: int) -> None:
    """An image's values are its own."""
    images = pixels(10, 16)
    whole = trace(tiny_clip.model, images, rows=True)
    parts = [trace(tiny_clip.model, part, rows=True) for part in images.split(size)]

    def joined(name: str, dim: int) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts], dim)

    for name, dim in (("rows", 1), ("states", 1), ("embedding", 0), ("pooled", 0)):
        assert (joined(name, dim) - getattr(whole, name)).abs().max() < 1e-5, name


@torch.no_grad()
def test_one_head_and_many_patches(tiny_clip: Clip) -> None:
    """Shapes come from the model: another number of heads cuts the same width otherwise."""
    model = tiny_clip.model
    config = copy.deepcopy(model.config)
    config.vision_config.num_attention_heads = 1
    config.vision_config.patch_size = 2
    other = CLIPModel(config).eval()
    seen: Traced = trace(other, pixels(2, 16), rows=True)
    assert seen.rows is not None
    assert seen.rows.shape == (2, 2, 1, 65)
    assert (seen.rows - eager_rows(eager(other), pixels(2, 16))).abs().max() < 1e-6
