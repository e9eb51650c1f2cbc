"""Reading OpenCLIP models whose image towers are convolutional or hybrid: the libraries are the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from openclip_models import REASON, TRUNKS, any_tower, build, hooks, moved, pixels, resnet, trunk
from torch import Tensor

from clipdrift.data.deck import Prepared
from clipdrift.measures import read_internals, representation, spectra, weights, weights_by_kind
from clipdrift.model.towers import tower_of
from clipdrift.model.trace import trace
from clipdrift.model.weights import effective_weights

pytest.importorskip("open_clip", reason=REASON)

STAGED = [name for name in TRUNKS if name != "vit"]
ATTENTION = {"entropy", "erf95", "gini", "head_diversity", "cls_self", "sink_share", "normalised_entropy"}


def size_of(model: Any) -> int:
    return tower_of(model).geometry.image_size


def prepared(images: Tensor) -> Prepared:
    return Prepared(images, torch.device("cpu"))


def last_maps(model: Any, images: Tensor) -> list[Tensor]:
    """(B, D, rows, columns) after each stage, by the library's own means."""
    visual = model.visual
    if hasattr(visual, "trunk"):
        found: list[Tensor] = visual.trunk.forward_intermediates(images, intermediates_only=True)
        return found
    return list(visual.forward_intermediates(images)["image_intermediates"][1:])


def torchs_row(model: Any, images: Tensor) -> Tensor:
    """(B, H, 1 + P) of the pooling head's query, as torch's own attention returns it."""
    pool = model.visual.attnpool
    places = last_maps(model, images)[-1].flatten(2).permute(2, 0, 1)
    tokens = torch.cat([places.mean(0, keepdim=True), places]) + pool.positional_embedding[:, None]
    _, found = torch.nn.functional.multi_head_attention_forward(
        tokens, tokens, tokens, tokens.shape[-1], pool.num_heads, None,
        torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]), None, None, False, 0.0,
        pool.c_proj.weight, pool.c_proj.bias, training=False, need_weights=True,
        use_separate_proj_weight=True, q_proj_weight=pool.q_proj.weight, k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight, average_attn_weights=False,
    )  # fmt: skip
    assert found is not None
    return found[:, :, 0]


@pytest.mark.parametrize("name", ["resnet", *TRUNKS, "vitamin", "swin"])
@torch.no_grad()
def test_embeddings_are_openclips_own(name: str) -> None:
    """To the bit, and nothing is left behind in the model."""
    model = any_tower(name)
    images, before = pixels(3, size_of(model)), hooks(model)
    seen = trace(model, images, rows=True, norms=True)
    assert torch.equal(seen.embedding, model.encode_image(images))
    assert hooks(model) == before
    with pytest.raises(ValueError, match="does not match the model's"):
        trace(model, pixels(1, 2 * size_of(model)))


@pytest.mark.parametrize("name", ["resnet", *STAGED])
@torch.no_grad()
def test_states_are_means_over_the_maps_of_each_stage(name: str) -> None:
    """As wide as the stage; the library's own intermediate maps are the oracle."""
    model = any_tower(name)
    images = pixels(3, size_of(model))
    states, maps = trace(model, images).states, last_maps(model, images)
    assert len(states) == len(maps) == len(tower_of(model).blocks) == 4
    for state, found in zip(states, maps, strict=True):
        assert torch.allclose(state, found.mean((2, 3)), atol=1e-5)
    assert len({state.shape[1] for state in states}) == 4
    assert tower_of(model).geometry.width == states[-1].shape[1]


@torch.no_grad()
def test_the_pooling_head_of_a_resnet_is_read() -> None:
    """Its row is torch's own, mean token first, and so are the measures made from it."""
    model = resnet()
    images = pixels(5, 64)
    row = torchs_row(model, images)
    seen = trace(model, images, rows=True).rows
    assert seen is not None
    assert torch.allclose(seen[0], row, atol=1e-6)
    assert row.amax(-1).sub(row.amin(-1)).max() > 0.05  # uneven, so that a mistake would show
    found = read_internals(model, prepared(images), flow=True)
    share = (row[..., 1:] / row[..., 1:].sum(-1, keepdim=True)).double().numpy()
    entropy = -(share * np.log(share)).sum(-1).mean(1)
    assert np.allclose(found.attention["entropy"][:, 0], entropy, atol=1e-5)
    assert np.allclose(found.attention["cls_self"][:, 0], row[..., 0].mean(1).numpy(), atol=1e-6)
    assert set(found.attention) == ATTENTION
    assert found.reader == "pooling head"
    assert found.heads["entropy"].shape == (1, 8)
    assert tower_of(model).lacks("rollout_entropy")
    assert tower_of(model).lacks("sink_patches")
    assert tower_of(model).lacks("entropy") is None


@torch.no_grad()
def test_a_class_token_of_timms_is_read() -> None:
    """Its rows are those that timm's own attention computes where it does not fuse it."""
    model = trunk("vit")
    images = pixels(2, 160)
    rows: list[Tensor] = []
    for block in model.visual.trunk.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _m, _i, out: rows.append(out[:, :, 0]))
    model.encode_image(images)
    seen = trace(trunk("vit"), images, rows=True, norms=True)
    assert seen.rows is not None
    assert torch.allclose(seen.rows, torch.stack(rows), atol=1e-6)
    assert seen.norms is not None
    found = read_internals(trunk("vit"), prepared(images), flow=True)
    assert {"rollout_entropy", "patch_entropy", "sink_patches", *ATTENTION} <= found.attention.keys()


@torch.no_grad()
def test_a_hybrid_that_averages_its_patches() -> None:
    """Its transformer blocks are its blocks; a state is the mean of the patches that timm itself gives."""
    model = any_tower("vitamin")
    images = pixels(3, 64)
    maps = model.visual.trunk.forward_intermediates(images, intermediates_only=True)
    states = trace(model, images).states
    assert len(states) == len(maps) == 2
    for state, found in zip(states, maps, strict=True):
        assert torch.allclose(state, found.mean((2, 3)), atol=1e-5)
    named = effective_weights(model)
    assert any(name.startswith("vision_model.embeddings.patch_embed.backbone.stages.") for name in named)
    assert list(weights_by_kind(named, effective_weights(moved(model)))) == ["q", "k", "v", "out"]


@torch.no_grad()
def test_maps_with_channels_last() -> None:
    """Swin's, whose stages hand on (B, rows, columns, D)."""
    model = any_tower("swin")
    images = pixels(3, 64)
    maps = model.visual.trunk.forward_intermediates(images, intermediates_only=True)
    for state, found in zip(trace(model, images).states, maps, strict=True):
        assert torch.allclose(state, found.mean((2, 3)), atol=1e-5)


@pytest.mark.parametrize("name", [*STAGED, "vitamin", "swin"])
@torch.no_grad()
def test_without_attention_there_are_no_such_measures(name: str) -> None:
    """They are left out, never zero, and the tower says why."""
    model = any_tower(name)
    found = read_internals(model, prepared(pixels(5, 64)), flow=True, shown=(0,))
    assert found.measures == ()
    assert found.heads == {}
    assert found.shown is None
    assert found.reader == "none"
    assert "images are pooled by the" in str(tower_of(model).lacks("entropy"))
    assert tower_of(model).lacks("patch_entropy")
    assert tower_of(model).lacks("cka") is None


@pytest.mark.parametrize("name", ["resnet", "convnext"])
def test_no_number_depends_on_the_batch_size(name: str) -> None:
    model, images = any_tower(name), prepared(pixels(9, 64))
    one, two, all_of = (read_internals(model, images, size) for size in (1, 2, 9))
    for other in (one, two):
        for measure in all_of.measures:
            assert np.allclose(other.blocks(measure), all_of.blocks(measure), rtol=1e-5), measure
        for state, same in zip(other.states, all_of.states, strict=True):
            assert torch.allclose(state, same, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet", "convnext"])
def test_representation_where_widths_differ(name: str) -> None:
    """CKA of each stage as the formula has it with linear kernels; a moved model is not the same."""
    model, images = any_tower(name), prepared(pixels(12, 64))
    before, after = (read_internals(one, images) for one in (model, moved(model)))
    found = representation(before, after)
    assert len(found["cka"]) == 4
    for stage, value in enumerate(found["cka_biased"]):
        x, y = (side.states[stage].double().numpy() for side in (before, after))
        x, y = x - x.mean(0), y - y.mean(0)
        expected = (np.linalg.norm(x.T @ y) ** 2) / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
        assert value == pytest.approx(expected, rel=1e-4)
    assert min(found["cka"]) < 0.999
    assert representation(before, before)["cka"] == pytest.approx([1.0] * 4)


def test_weights_of_a_resnet() -> None:
    """By stage and kind, from OpenCLIP's own names; the head's output matrix is the projection."""
    model = resnet()
    other = moved(model)
    before, after = effective_weights(model), effective_weights(other)
    old, new = model.visual.state_dict(), other.visual.state_dict()

    def by_hand(begins: str, ends: str = "") -> float:
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        names = [n for n in old if n.startswith(begins) and n.endswith(ends) and not n.endswith(buffers)]
        assert names
        change = sum(float((new[n] - old[n]).double().square().sum()) for n in names)
        return float((change / sum(float(old[n].double().square().sum()) for n in names)) ** 0.5)

    found = weights(before, after)
    expected = [by_hand(f"layer{stage}.") for stage in (1, 2, 3, 4)]
    assert found["weight_drift_blocks"] == pytest.approx(expected, rel=1e-6)
    assert found["weight_drift_projection"] == pytest.approx([by_hand("attnpool.c_proj.")], rel=1e-6)
    kinds = weights_by_kind(before, after)
    assert list(kinds) == ["conv1", "conv2", "conv3"]
    assert kinds["conv2"][1][1] == pytest.approx(by_hand("layer2.", ".conv2.weight"), rel=1e-6)
    assert sum(w.numel() for w in before.values()) == sum(p.numel() for p in model.visual.parameters())


def test_spectra_take_kernels_as_matrices() -> None:
    """With a row for each channel that they give; NumPy is the oracle."""
    model = resnet()
    other = moved(model)
    changes = spectra(effective_weights(model), effective_weights(other))
    assert [(one.block, one.layer, one.kind) for one in changes[:4]] == [
        (1, 1, "conv1"), (1, 1, "conv2"), (1, 1, "conv3"), (2, 1, "conv1"),
    ]  # fmt: skip
    assert len(changes) == 15
    kernel = other.visual.layer2[1].conv2.weight - model.visual.layer2[1].conv2.weight
    values = np.linalg.svd(kernel.detach().double().flatten(1).numpy(), compute_uv=False)
    share = values / values.sum()
    expected = float(np.exp(-(share * np.log(share)).sum()))
    found = next(one for one in changes if (one.block, one.layer, one.kind) == (2, 2, "conv2"))
    assert found.effective_rank == pytest.approx(expected, rel=1e-4)


def test_weights_of_a_convnext_and_of_a_plain_tower() -> None:
    """Kinds that every stage has; a ViT's are what they were."""
    model = trunk("convnext")
    before, after = effective_weights(model), effective_weights(moved(model))
    assert list(weights_by_kind(before, after)) == ["fc1", "fc2", "conv_dw"]
    assert {name.partition(".")[0] for name in before} == {"vision_model", "visual_projection"}
    assert any(name.startswith("vision_model.embeddings.stem.") for name in before)
    plain = build()
    kinds = weights_by_kind(effective_weights(plain), effective_weights(moved(plain)))
    assert list(kinds) == ["q", "k", "v", "out", "fc1", "fc2"]
    hybrid = trunk("vit")
    named = weights_by_kind(effective_weights(hybrid), effective_weights(moved(hybrid)))
    assert list(named) == ["q", "k", "v", "out", "fc1", "fc2"]
    assert len(named["q"][1]) == 6
