"""OpenCLIP's image towers against torch's own attention and against transformers with the same weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from openclip_models import (
    REASON,
    TEXT,
    as_hugging_face,
    block_outputs,
    blocks_of,
    build,
    hooks,
    pixels,
    torchs_maps,
)
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from clipdrift.data.deck import Prepared
from clipdrift.formulas import entropy
from clipdrift.measures import read_internals
from clipdrift.measures.still import in_float32
from clipdrift.model.towers import tower_of
from clipdrift.model.trace import attention_maps, trace
from clipdrift.model.weights import effective_weights

open_clip = pytest.importorskip("open_clip", reason=REASON)


@pytest.fixture
def tiny() -> Any:
    return build()


def whole_maps(model: Any, images: Tensor) -> Tensor:
    """(L, B, H, T, T) through ``on_maps``."""
    found: dict[int, Tensor] = {}

    def keep(number: int, queries: Tensor, keys: Tensor, heads: int) -> None:
        found[number] = attention_maps(queries, keys, heads)

    trace(model, images, on_maps=keep)
    return torch.stack([found[number] for number in sorted(found)])


# --- against torch


@torch.no_grad()
def test_the_real_shapes_agree_with_torch() -> None:
    """At the size of ViT-B/32: rows are torch's own, the rest is what the model computes."""
    torch.manual_seed(0)
    model = open_clip.CLIP(512, {"patch_size": 32}, dict(TEXT), quick_gelu=True).eval()
    for block in blocks_of(model):  # uneven attention, as after training
        block.attn.in_proj_weight[: 2 * 768].mul_(1.5)
    images = pixels(2, 224)
    seen = trace(model, images, rows=True)
    assert seen.rows is not None
    assert seen.rows.shape == (12, 2, 12, 50)
    assert seen.rows.std(-1).mean() > 0.2 / 50  # not even: a wrong scale would show
    assert (seen.rows - torchs_maps(model, images)[..., 0, :]).abs().max() < 1e-6
    assert (seen.rows.sum(-1) - 1).abs().max() < 1e-6
    assert torch.equal(seen.states, block_outputs(model, images)[:, :, 0])
    assert torch.equal(seen.embedding, model.encode_image(images))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
def test_a_tiny_model_agrees_with_torch(kind: str) -> None:
    """The same, with whole maps, norms, the pooled state and a head."""
    model, images, head = build(kind), pixels(5), nn.Linear(24, 3)
    seen, maps, outputs = (
        trace(model, images, head=head, rows=True, norms=True),
        torchs_maps(model, images),
        block_outputs(model, images),
    )
    assert seen.rows is not None
    assert seen.norms is not None
    assert seen.logits is not None
    assert (seen.rows - maps[..., 0, :]).abs().max() < 1e-6
    assert (whole_maps(model, images) - maps).abs().max() < 1e-6
    assert torch.equal(seen.states, outputs[:, :, 0])
    assert torch.equal(seen.norms, outputs[:, :, 1:].norm(dim=-1))
    assert (seen.pooled - model.visual.ln_post(seen.states[-1])).abs().max() < 1e-6
    assert (seen.embedding - seen.pooled @ model.visual.proj).abs().max() < 1e-5
    assert torch.equal(seen.embedding, model.encode_image(images))
    assert torch.equal(seen.logits, head(seen.embedding))


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 3])
def test_the_batch_size_does_not_matter(tiny: Any, size: int) -> None:
    """An image's values are its own; as many images as tokens do not turn the axes round."""
    images = pixels(17)
    whole = trace(tiny, images, rows=True)
    parts = [trace(tiny, part, rows=True) for part in images.split(size)]
    for name, dim in (("rows", 1), ("states", 1), ("pooled", 0), ("embedding", 0)):
        joined = torch.cat([getattr(part, name) for part in parts], dim)
        assert (joined - getattr(whole, name)).abs().max() < 1e-5, name


# --- against transformers


@torch.no_grad()
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_same_weights_in_transformers(activation: str) -> None:
    """Rows, states and embedding agree; weights, under the same names and in the same layout, are equal."""
    model = build(quick_gelu=activation == "quick_gelu")
    other, images = as_hugging_face(model, activation), pixels(6)
    ours, theirs = trace(model, images, rows=True, norms=True), trace(other, images, rows=True, norms=True)
    for name in ("rows", "states", "pooled", "embedding", "norms"):
        found, expected = getattr(ours, name), getattr(theirs, name)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-5, name
    assert (ours.rows - theirs.rows).abs().max() < 1e-6
    mine, named = effective_weights(model), effective_weights(other)
    assert mine.keys() == named.keys()
    assert all(torch.equal(mine[name], named[name]) for name in named)
    assert tower_of(model).geometry == tower_of(other).geometry
    assert tower_of(model).activation == tower_of(other).activation == activation
    assert tower_of(model).reader == "class token"


def test_another_activation_is_named() -> None:
    """As transformers calls it, where it does."""
    tanh = build(quick_gelu=False, act_kwargs={"approximate": "tanh"})
    assert tower_of(tanh).activation == "gelu_pytorch_tanh"
    for block in blocks_of(tanh):
        block.mlp.gelu = nn.SiLU()
    assert tower_of(tanh).activation == "SiLU"


# --- what OpenCLIP can build


@torch.no_grad()
def test_its_own_attention(tiny: Any) -> None:
    """The blocks with OpenCLIP's Attention, which no argument asks for its maps, compute the same."""
    other, images = build(block_type="custom"), pixels(4)
    other.load_state_dict(tiny.state_dict())
    attention = blocks_of(other)[0].attn
    assert type(attention).__name__ == "Attention"
    ours, theirs = trace(other, images, rows=True), trace(tiny, images, rows=True)
    assert (ours.rows - theirs.rows).abs().max() < 1e-6
    assert (ours.embedding - theirs.embedding).abs().max() < 1e-5
    assert effective_weights(other).keys() == effective_weights(tiny).keys()
    attention.in_proj_bias = None
    queries, keys = (attention.in_proj_weight[:32], attention.in_proj_weight[32:64])
    x = blocks_of(other)[0].ln_1(other.visual._embeds(images))
    expected = attention_maps(x[:, :1] @ queries.T, x @ keys.T, 2)[:, :, 0]
    assert (trace(other, images, rows=True).rows[0] - expected).abs().max() < 1e-6


@torch.no_grad()
@pytest.mark.parametrize(
    "vision",
    [
        {"ls_init_value": 0.5},
        {"no_ln_pre": True},
        {"final_ln_after_pool": True},
        {"output_tokens": True},
        {"patch_dropout": 0.5},
        {"pos_embed_type": "sin_cos_2d"},
        {"patch_size": (4, 8)},
        {"scale_attn_inner": True, "scale_attn": True, "scale_fc": True},
    ],
    ids=lambda vision: next(iter(vision)),
)
def test_what_a_vision_transformer_may_have(vision: dict[str, Any]) -> None:
    """Pooled state, embedding and weights of every variant that leaves attention plain."""
    model, images = build(**vision), pixels(3)
    seen = trace(model, images, rows=True)
    found = model.encode_image(images)
    embedding = found[0] if isinstance(found, tuple) else found
    assert seen.rows is not None
    assert torch.equal(seen.embedding, embedding)
    assert (seen.pooled @ model.visual.proj - embedding).abs().max() < 1e-5
    assert seen.rows.shape[-1] == 1 + tower_of(model).geometry.patches
    assert sum(w.numel() for w in effective_weights(model).values()) == sum(
        p.numel() for p in model.visual.parameters()
    )


@torch.no_grad()
def test_weights_that_clip_has_not_keep_their_names() -> None:
    """So that two such models compare, and one against a plain CLIP does not."""
    names = effective_weights(build(ls_init_value=0.5)).keys()
    assert names - effective_weights(build()).keys() == {
        f"vision_model.encoder.layers.{block}.{part}.gamma" for block in (0, 1) for part in ("ls_1", "ls_2")
    }


@torch.no_grad()
def test_without_a_projection(tiny: Any) -> None:
    """What is pooled is the embedding."""
    tiny.visual.proj = None
    seen = trace(tiny, pixels(3))
    assert torch.equal(seen.embedding, seen.pooled)
    assert tower_of(tiny).geometry.embedding_width == 32
    assert "visual_projection.weight" not in effective_weights(tiny)


@torch.no_grad()
def test_tokens_before_the_batch(tiny: Any) -> None:
    """As releases before 2.26 had them."""
    images = pixels(4)
    expected, maps = trace(tiny, images, rows=True, norms=True), whole_maps(tiny, images)
    tiny.visual.transformer.batch_first = False
    for block in blocks_of(tiny):
        block.attn.batch_first = False
    seen = trace(tiny, images, rows=True, norms=True)
    for name in ("rows", "states", "pooled", "embedding", "norms"):
        assert (getattr(seen, name) - getattr(expected, name)).abs().max() < 1e-5, name
    assert (whole_maps(tiny, images) - maps).abs().max() < 1e-6


# --- gradients, hooks, modes, precision


def test_gradients_through_rows_equal_those_of_torchs_maps(tiny: Any) -> None:
    """An entropy penalty trains as it would through torch's own maps."""
    other, images = copy.deepcopy(tiny), pixels(6)
    rows = trace(tiny, images, rows=True).rows
    assert rows is not None
    entropy(rows[..., 1:]).mean().backward()
    entropy(torchs_maps(other, images)[..., 0, 1:]).mean().backward()
    for ours, theirs in zip(blocks_of(tiny), blocks_of(other), strict=True):
        found, expected = ours.attn.in_proj_weight.grad, theirs.attn.in_proj_weight.grad
        assert found[:32].abs().max() > 1e-4
        assert found[32:64].abs().max() > 1e-4
        assert (found - expected).abs().max() < 1e-5


def test_gradients_flow_through_states_pooled_and_embedding(tiny: Any) -> None:
    """Down to the patches."""
    for name in ("states", "pooled", "embedding"):
        tiny.zero_grad()
        getattr(trace(tiny, pixels(3)), name).square().sum().backward()
        assert tiny.visual.conv1.weight.grad.abs().max() > 0


def test_no_hook_stays_behind(tiny: Any) -> None:
    """Nor after a pass that fails, at the door or deep inside."""
    before = hooks(tiny)
    trace(tiny, pixels(2), rows=True, on_maps=lambda *_: None)
    assert hooks(tiny) == before
    for shape in ((12, 12), (8, 32)):  # the second makes as many patches, and OpenCLIP would take it
        with pytest.raises(ValueError, match=r"image size .* does not match the model's \(16\*16\)"):
            trace(tiny, torch.zeros(2, 3, *shape), rows=True)
    assert hooks(tiny) == before

    def fail(*_: object) -> None:
        raise RuntimeError("deep inside")

    handle = blocks_of(tiny)[1].mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="deep inside"):
        trace(tiny, pixels(2), rows=True)
    handle.remove()
    assert hooks(tiny) == before


def test_measuring_changes_nothing() -> None:
    """A model in training is read in eval mode, without the patches that it drops, and trains on."""
    model = build(patch_dropout=0.5)
    images, weights = pixels(4), copy.deepcopy(model.state_dict())
    expected = read_internals(model, Prepared(images, torch.device("cpu")), 2)
    model.train()
    blocks_of(model)[0].eval()
    modes = [module.training for module in model.modules()]
    before = hooks(model)
    seen = read_internals(model, Prepared(images, torch.device("cpu")), 2)
    assert [module.training for module in model.modules()] == modes
    assert hooks(model) == before
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in weights.items())
    for measure in expected.measures:
        assert (seen.blocks(measure) == expected.blocks(measure)).all(), measure


@torch.no_grad()
def test_half_precision(tiny: Any) -> None:
    """Weights kept in 16 bits, all of them or as OpenCLIP keeps them, are raised for measuring alone."""
    images = pixels(4)
    expected = trace(tiny, images, rows=True)
    mixed = copy.deepcopy(tiny)
    open_clip.convert_weights_to_lp(mixed, torch.bfloat16)
    for model, dtype in ((copy.deepcopy(tiny).half(), torch.float16), (mixed, torch.bfloat16)):
        seen = trace(model, images, rows=True, call=in_float32)
        assert seen.rows is not None
        assert seen.embedding.dtype == seen.rows.dtype == torch.float32
        assert (seen.rows - expected.rows).abs().max() < 0.02
        assert model.visual.conv1.weight.dtype == blocks_of(model)[0].attn.in_proj_weight.dtype == dtype
        exact = copy.deepcopy(model).float()
        assert (seen.rows - trace(exact, images, rows=True).rows).abs().max() < 1e-6
    plain = trace(copy.deepcopy(tiny).half(), images, rows=True)  # as it is, images of 32 bits
    assert plain.embedding.dtype == torch.float16
    assert (plain.rows - expected.rows).abs().max() < 0.02


@torch.no_grad()
def test_rows_stay_float32_under_autocast(tiny: Any) -> None:
    """Training in bfloat16 must not round what a penalty takes logarithms of."""
    full = trace(tiny, pixels(8), rows=True)
    with torch.autocast("cpu", torch.bfloat16):
        half = trace(tiny, pixels(8), rows=True)
    assert half.rows is not None
    assert half.rows.dtype == torch.float32
    assert (half.rows.sum(-1) - 1).abs().max() < 1e-6
    assert (half.rows - full.rows).abs().max() < 0.05


# --- adapters


@pytest.fixture
def adapted(tiny: Any) -> Any:
    """LoRA on all matrices of the image tower, as if trained."""
    model = get_peft_model(tiny, LoraConfig(r=2, target_modules=r"visual\..*\.(attn|c_fc|c_proj)"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=generator)
    return model.eval()


def test_adapters_are_seen_as_they_act(adapted: Any) -> None:
    """In rows, states and weights: as in the model that peft merges, though torch's attention has no layers
    that peft could replace."""
    images, plain = pixels(4), build()
    merged = copy.deepcopy(adapted).merge_and_unload()
    with torch.no_grad():
        seen, expected = trace(adapted, images, rows=True), trace(merged, images, rows=True)
        before = trace(plain, images, rows=True)
        with adapted.disable_adapter():
            without = trace(adapted, images, rows=True)
            bare = effective_weights(adapted)
    assert seen.rows is not None
    assert (seen.rows - torchs_maps(merged, images)[..., 0, :]).abs().max() < 1e-5
    assert (seen.states - expected.states).abs().max() < 1e-5
    assert (seen.rows - before.rows).abs().max() > 0.1
    assert (without.rows - before.rows).abs().max() < 1e-6
    weights, targets = effective_weights(adapted), effective_weights(merged)
    original = effective_weights(plain)
    assert weights.keys() == targets.keys() == original.keys() == bare.keys()
    assert all((weights[name] - targets[name]).abs().max() < 1e-6 for name in targets)
    assert all((bare[name] - original[name]).abs().max() < 1e-6 for name in original)
    name = "vision_model.encoder.layers.1.self_attn.q_proj.weight"
    assert (weights[name] - original[name]).abs().max() > 0.01
    with pytest.warns(
        UserWarning, match="already merged"
    ):  # peft about itself: out_proj is merged in passing
        adapted.merge_adapter()
    again = effective_weights(adapted)
    assert again.keys() == targets.keys()
    assert all((again[name] - targets[name]).abs().max() < 1e-6 for name in targets)


def test_adapters_get_gradients_through_rows(adapted: Any) -> None:
    """As a penalty on attention needs them."""
    rows = trace(adapted, pixels(4), rows=True).rows
    assert rows is not None
    entropy(rows[..., 1:]).mean().backward()
    for block in blocks_of(adapted.get_base_model()):
        assert block.attn.lora_A["default"].weight.grad.abs().max() > 1e-5
        assert block.attn.lora_B["default"].weight.grad.abs().max() > 1e-5
