"""OpenCLIP models on timm's Eva (EVA01-CLIP, EVA02-CLIP): timm's own attention is the oracle."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from openclip_models import REASON, eva, hooks, moved, pixels
from peft import LoraConfig, get_peft_model
from torch import Tensor

from clipdrift.data.deck import Prepared
from clipdrift.measures import read_internals, spectra, weights, weights_by_kind
from clipdrift.model.modes import in_eval_mode
from clipdrift.model.towers import UnsupportedModelError, tower_of
from clipdrift.model.towers.layout import within
from clipdrift.model.trace import attention_maps, trace
from clipdrift.model.weights import effective_weights
from eva_models import EVAS

open_clip = pytest.importorskip("open_clip", reason=REASON)

READ = [kind for kind in EVAS if kind != "eva_averaged"]
ODD = ("normed", "added apart")
"""What timm's attention can do and its Eva never asks for: norms of queries and keys, biases added after."""
kinds = pytest.mark.parametrize("kind", READ)
with_odd = pytest.mark.parametrize("kind", [*READ, *ODD])


@torch.no_grad()
def timms_maps(model: Any, images: Tensor) -> Tensor:
    """(L, B, H, T, T) as timm's attention computes them where it does not fuse it."""
    plain, maps = copy.deepcopy(model), []
    for block in plain.visual.trunk.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _m, _i, out: maps.append(out))
    plain.encode_image(images)
    return torch.stack(maps)


@pytest.mark.parametrize("kind", [*EVAS, *ODD])
@torch.no_grad()
def test_embeddings_and_states_are_openclips_own(kind: str) -> None:
    """To the bit, and nothing is left behind in the model."""
    model, images = eva(kind), pixels(3)
    before = hooks(model)
    seen = trace(model, images, rows=True, norms=True)
    assert torch.equal(seen.embedding, model.encode_image(images))
    assert hooks(model) == before
    patches, tokens = zip(
        *model.visual.trunk.forward_intermediates(
            images, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        ),
        strict=True,
    ) if kind != "eva_averaged" else (
        model.visual.trunk.forward_intermediates(images, output_fmt="NLC", intermediates_only=True), ()
    )  # fmt: skip
    wanted = [one[:, 0] for one in tokens] or [one.mean(1) for one in patches]
    assert torch.allclose(torch.stack(wanted), seen.states, atol=1e-6)
    if tokens:
        assert seen.norms is not None
        assert torch.allclose(seen.norms, torch.stack([one.norm(dim=-1) for one in patches]), atol=1e-5)


@with_odd
@torch.no_grad()
def test_rows_and_whole_maps_are_timms(kind: str) -> None:
    """Of the class token alone, of all tokens at once, and both in one pass."""
    model, images = eva(kind), pixels(3)
    wanted = timms_maps(model, images)
    assert wanted.shape == (2, 3, 2, 17, 17)
    assert wanted[..., 0, 1:].amax(-1).sub(wanted[..., 0, 1:].amin(-1)).max() > 0.05  # a mistake would show
    rows = trace(model, images, rows=True).rows
    assert rows is not None
    assert torch.allclose(rows, wanted[:, :, :, 0], atol=1e-6)
    maps: dict[int, Tensor] = {}

    def keep(block: int, queries: Tensor, keys: Tensor, heads: int) -> None:
        maps[block] = attention_maps(queries, keys, heads)

    both = trace(model, images, rows=True, on_maps=keep).rows
    assert both is not None
    assert torch.allclose(both, rows, atol=1e-6)
    assert torch.allclose(torch.stack([maps[1], maps[2]]), wanted, atol=1e-6)


@torch.no_grad()
def test_the_turn_of_patches_counts() -> None:
    """Without it the rows would be others, so the tests above would see it left out."""
    model, images = eva("eva02"), pixels(3)
    rows, maps = trace(model, images, rows=True).rows, timms_maps(model, images)
    model.visual.trunk.rope = None
    flat = timms_maps(model, images)
    assert rows is not None
    assert (flat[:, :, :, 0] - rows).abs().max() > 0.01
    assert (flat[0, :, :, 1:] - maps[0, :, :, 1:]).abs().max() > 0.05


def test_rows_have_timms_gradient() -> None:
    """As penalties on attention need it, in full and in bfloat16 as training runs on a GPU."""
    for kind in ("eva02", "eva02_packed", "eva_mixed"):
        model, images = eva(kind), pixels(2)
        rows = trace(model, images, rows=True).rows
        assert rows is not None
        rows[..., 1].sum().backward()
        found = {name: p.grad.clone() for name, p in model.visual.named_parameters() if p.grad is not None}
        model.zero_grad()
        maps: list[Tensor] = []
        for block in model.visual.trunk.blocks:
            block.attn.fused_attn = False
            block.attn.attn_drop.register_forward_hook(lambda _m, _i, out, maps=maps: maps.append(out))
        model.encode_image(images)
        torch.stack(maps)[:, :, :, 0, 1].sum().backward()
        wanted = {name: p.grad for name, p in model.visual.named_parameters() if p.grad is not None}
        assert any("attn" in name for name in found)
        for name, gradient in found.items():
            assert torch.allclose(gradient, wanted[name], atol=1e-4), name
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            half = trace(model, images, rows=True).rows
        assert half is not None
        assert half.dtype == torch.float32
        assert (half - rows).abs().max() < 0.05


@pytest.mark.parametrize("kind", [*EVAS, *ODD])
@torch.no_grad()
def test_the_tower_goes_on_from_within(kind: str) -> None:
    """From what each block has left, turned by the same angles."""
    model, images = eva(kind), pixels(3)
    tower, left = tower_of(model), []
    with in_eval_mode(model):
        handles = [
            block.register_forward_hook(lambda _m, _i, out: left.append(tower.carried(out).clone()))
            for block in tower.blocks
        ]
        seen = trace(model, images, rows=True)
        for handle in handles:
            handle.remove()
        for start, carried in enumerate(left, start=1):
            found = trace(model, carried, start=start, rows=True)
            assert torch.allclose(found.embedding, seen.embedding, atol=1e-5)
            assert torch.allclose(found.pooled, seen.pooled, atol=1e-5)
            if seen.rows is not None and start < len(left):
                assert found.rows is not None
                assert torch.allclose(found.rows, seen.rows[start:], atol=1e-6)
        assert torch.allclose(
            trace(model, tower.needed(left[-1]), start=2).embedding, seen.embedding, atol=1e-5
        )


@torch.no_grad()
def test_measures_of_attention_and_flow() -> None:
    """All that a CLIP has; of averaged patches there is no attention, and the tower says why."""
    images = Prepared(pixels(5), torch.device("cpu"))
    found = read_internals(eva("eva02"), images, flow=True)
    assert {
        "entropy",
        "cls_self",
        "rollout_entropy",
        "patch_entropy",
        "sink_patches",
    } <= found.attention.keys()
    assert found.reader == "class token"
    averaged = eva("eva_averaged")
    assert read_internals(averaged, images, flow=True).measures == ()
    assert "pooled by the mean of their patches" in str(tower_of(averaged).lacks("entropy"))


@kinds
def test_weights_have_one_set_of_names(kind: str) -> None:
    """Every parameter once, whatever timm packs together; queries, keys and values are its own matrices."""
    model = eva(kind)
    found, state = effective_weights(model), model.visual.trunk.state_dict()
    assert sum(w.numel() for w in found.values()) == sum(p.numel() for p in model.visual.parameters())
    assert {name.partition(".")[0] for name in found} == {"vision_model", "visual_projection"}
    inside = "vision_model.encoder.layers.1."
    names = {name.removeprefix(inside) for name in found if name.startswith(inside)}
    assert {
        "layer_norm1.weight",
        "self_attn.q_proj.weight",
        "self_attn.out_proj.bias",
        "mlp.fc2.weight",
    } <= names
    assert ("self_attn.q_proj.bias" in names) == (kind != "eva_unbiased")
    assert ("self_attn.k_proj.bias" in names) == (EVAS[kind].get("attn_type") == "rope")
    gated = EVAS[kind].get("swiglu_mlp", False)
    assert ("mlp.fc1_g.weight" in names, "mlp.fc1.weight" in names) == (gated, not gated)
    split = "blocks.1.attn.k_proj.weight"
    key = state[split] if split in state else state["blocks.1.attn.qkv.weight"][32:64]
    assert torch.equal(found[f"{inside}self_attn.k_proj.weight"], key)
    if kind == "eva02_packed":  # timm multiplies the activation of the first half with the second
        first = state["blocks.1.mlp.fc1.weight"]
        assert torch.equal(found[f"{inside}mlp.fc1_g.weight"], first[: len(first) // 2])
    other = moved(model)
    assert len(weights(found, effective_weights(other))["weight_drift_blocks"]) == 2
    by_kind = weights_by_kind(found, effective_weights(other))
    assert by_kind.keys() == {"q", "k", "v", "out", "fc2", *(("fc1_g", "fc1_x") if gated else ("fc1",))}
    assert len(spectra(found, effective_weights(other))) == 2 * len(by_kind)
    before = torch.cat([state[f"blocks.{i}.attn.proj.weight"].flatten() for i in (0, 1)])
    after = torch.cat([block.attn.proj.weight.flatten() for block in other.visual.trunk.blocks])
    assert by_kind["out"][0] == pytest.approx(
        float((after - before).detach().norm() / before.norm()), rel=1e-5
    )


@torch.no_grad()
def test_adapters_of_peft_are_seen_as_they_act() -> None:
    """On queries and keys of their own: in rows, and in weights."""
    model, images = eva("eva02"), pixels(2)
    layout = tower_of(model).layout()
    config = LoraConfig(r=2, target_modules="|".join(layout.matrices_of(("q", "k", "v", "out", "mlp"), 0)))
    before = {name: weight.clone() for name, weight in effective_weights(model).items()}
    adapted = get_peft_model(model, config).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(3))
    rows = trace(adapted, images, rows=True).rows
    assert rows is not None
    merged = copy.deepcopy(adapted).merge_and_unload()
    assert torch.allclose(rows, timms_maps(merged, images)[:, :, :, 0], atol=1e-5)
    after, wanted = effective_weights(adapted), effective_weights(merged)
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert len(changed) == 14
    assert all(torch.allclose(after[name], wanted[name], atol=1e-6) for name in before)


def test_an_adapter_that_does_nothing_is_refused() -> None:
    """timm takes the weight of ``qkv`` where it has biases, and never calls the layer."""
    model = get_peft_model(eva("eva01"), LoraConfig(r=2, target_modules=r"visual\..*qkv"))
    with pytest.raises(UnsupportedModelError, match=r"an adapter on attn\.qkv does nothing, as timm"):
        tower_of(model)
    called = get_peft_model(eva("eva_axial"), LoraConfig(r=2, target_modules=r"visual\..*qkv")).eval()
    with torch.no_grad():
        for name, parameter in called.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(3))
        rows = trace(called, pixels(2), rows=True).rows
        assert rows is not None
        assert torch.allclose(rows, timms_maps(called.merge_and_unload(), pixels(2))[:, :, :, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "blocks", "grid", "matrices"),
    [
        ("EVA01-g-14", 40, 16, 3),
        ("EVA02-B-16", 12, 14, 7),
        ("EVA02-L-14-336", 24, 24, 7),
        ("EVA02-E-14", 64, 16, 3),
    ],
)
def test_the_published_shapes_are_read(name: str, blocks: int, grid: int, matrices: int) -> None:
    """On the meta device, so that no weight is stored."""
    config = open_clip.get_model_config(name)
    config.pop("custom_text")
    with torch.device("meta"):
        model = open_clip.CustomTextCLIP(**config)
    tower = tower_of(model)
    assert (tower.geometry.blocks, tower.geometry.grid) == (blocks, (grid, grid))
    layout = tower.layout()
    paths = "|".join(layout.matrices_of(tuple(layout.matrices), 0))
    assert sum(bool(re.fullmatch(paths, path)) for path, _ in model.named_modules()) == matrices * blocks
    parameters = [p for p, _ in model.visual.named_parameters(prefix="visual")]
    outside = [p for p in parameters if not within(p, (*layout.stem, *layout.blocks, *layout.projection))]
    assert {p.rpartition(".")[0] for p in outside} == {"visual.trunk.norm"}
