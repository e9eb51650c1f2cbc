"""Reading a model on a probe set: against eager maps, at any batch size, and what is made of two readings."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from inspect import unwrap

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CLIPModel

from clipdrift.adapt import effective_weights
from clipdrift.data.deck import Deck
from clipdrift.formulas import effective_receptive_field, entropy, gini, head_diversity
from clipdrift.measures import (
    ATTENTION,
    REPRESENTATION,
    Internals,
    MeasureError,
    accuracy,
    drift,
    read_internals,
    representation,
    weights,
    zero_shot_accuracy,
)
from clipdrift.measures.states import KeptStates
from clipdrift.model.clip import Clip
from clipdrift.model.trace import trace


@pytest.fixture
def deck(make_deck: Callable[..., Deck]) -> Deck:
    return make_deck(15, classes=3)


def moved(model: CLIPModel, by: float = 0.05) -> CLIPModel:
    """A copy whose image tower went some way in a random direction."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in [*other.vision_model.parameters(), *other.visual_projection.parameters()]:
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return other


# --- reading


@torch.no_grad()
def test_measures_are_those_of_the_eager_maps(tiny_clip: Clip, deck: Deck) -> None:
    """Image by image and block by block, from transformers' own attention maps."""
    found = read_internals(tiny_clip.model, deck)
    other = copy.deepcopy(tiny_clip.model)
    other.set_attn_implementation("eager")
    out = other.vision_model(deck.images(slice(None)), output_attentions=True, output_hidden_states=True)
    assert found.attention.keys() == {*ATTENTION, "sink_patches"}
    for block in range(2):
        rows = out.attentions[block][:, :, 0, 1:].double()
        expected = {
            "entropy": entropy(rows).mean(-1),
            "erf95": effective_receptive_field(rows, 0.95).mean(-1),
            "gini": gini(rows).mean(-1),
            "head_diversity": head_diversity(rows),
        }
        for name, values in expected.items():
            assert found.attention[name][:, block] == pytest.approx(values.numpy(), abs=2e-6), name
        state = out.hidden_states[block + 1][:, 0]
        assert (found.states[block] - state).abs().max() < 1e-5
    embedding = other.visual_projection(out.pooler_output)
    assert (found.embedding - embedding).abs().max() < 1e-5


def test_entropy_is_averaged_over_heads_not_of_the_mean_head(tiny_clip: Clip, deck: Deck) -> None:
    """The entropy of the head mean is another, larger number."""
    with torch.no_grad():
        rows = trace(tiny_clip.model, deck.images(slice(None)), rows=True).rows
    assert rows is not None
    of_mean = entropy(rows[0].mean(1)[:, 1:]).mean().item()
    assert read_internals(tiny_clip.model, deck).blocks("entropy")[0] < of_mean - 0.01


@pytest.mark.parametrize("size", [1, 7])
def test_no_number_depends_on_the_batch_size(tiny_clip: Clip, deck: Deck, size: int) -> None:
    """Also where the last batch is short: no mean of batch means."""
    whole, parts = read_internals(tiny_clip.model, deck), read_internals(tiny_clip.model, deck, size)
    for name in ATTENTION:
        assert parts.attention[name].shape == (15, 2)
        assert parts.attention[name].dtype == np.float64
        assert np.abs(parts.attention[name] - whole.attention[name]).max() < 1e-6
        assert np.abs(parts.blocks(name) - whole.blocks(name)).max() < 1e-6
    for kept, expected in zip(parts.states, whole.states, strict=True):
        assert (kept - expected).abs().max() < 1e-5
    assert (parts.embedding - whole.embedding).abs().max() < 1e-5
    other = moved(tiny_clip.model)
    of_whole = representation(whole, read_internals(other, deck))
    of_parts = representation(parts, read_internals(other, deck, size))
    for name in REPRESENTATION:
        assert of_parts[name] == pytest.approx(of_whole[name], abs=1e-6), name


def test_blocks_are_means_over_images(tiny_clip: Clip, deck: Deck) -> None:
    """One value per block, each image counted once."""
    found = read_internals(tiny_clip.model, deck)
    assert found.images == 15
    single = [read_internals(tiny_clip.model, deck.subset([i])).blocks("gini") for i in range(15)]
    assert found.blocks("gini") == pytest.approx(np.mean(single, axis=0), abs=1e-6)


def test_reading_leaves_the_model_as_it_was(tiny_clip: Clip, deck: Deck) -> None:
    """In eval mode without gradients, whatever the mode before, which is put back; also after an error."""
    tiny_clip.model.train()
    found = read_internals(tiny_clip.model, deck)
    assert tiny_clip.model.training
    assert not found.embedding.requires_grad
    tiny_clip.model.eval()
    read_internals(tiny_clip.model, deck)
    assert not tiny_clip.model.training
    tiny_clip.model.train()
    with torch.no_grad():
        tiny_clip.model.vision_model.pre_layrnorm.weight.fill_(math.nan)
    with pytest.raises(MeasureError):
        read_internals(tiny_clip.model, deck)
    assert tiny_clip.model.training


def test_dropout_is_off_while_reading(tiny_clip: Clip, deck: Deck) -> None:
    """The numbers of a model that is being trained are those of the model, not of a draw."""
    expected = read_internals(tiny_clip.model, deck).embedding
    for block in tiny_clip.model.vision_model.encoder.layers:
        block.mlp = nn.Sequential(block.mlp, nn.Dropout(0.5))
    tiny_clip.model.train()
    assert torch.equal(read_internals(tiny_clip.model, deck).embedding, expected)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("vision_model.encoder.layers.0.self_attn.q_proj.weight", "attention of block 1 contains nan or inf"),
        ("vision_model.encoder.layers.1.self_attn.k_proj.weight", "attention of block 2 contains nan or inf"),
        ("vision_model.encoder.layers.0.mlp.fc2.weight", "CLS state after block 1 contains nan or inf"),
        ("vision_model.encoder.layers.1.mlp.fc2.weight", "CLS state after block 2 contains nan or inf"),
        ("visual_projection.weight", "the image embedding contains nan or inf"),
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_first_place_that_is_not_finite_is_named(
    tiny_clip: Clip, deck: Deck, place: str, message: str, value: float
) -> None:
    """Never a number from a broken model, and the block where to look."""
    with torch.no_grad():
        tiny_clip.model.get_parameter(place)[0, 0] = value
    with pytest.raises(MeasureError, match=message):
        read_internals(tiny_clip.model, deck)


def test_attention_that_never_leaves_the_class_token_is_an_error(tiny_clip: Clip, deck: Deck) -> None:
    """All weight on CLS: renormalised over patches it is 0/0, and the block is named."""
    attention = tiny_clip.model.vision_model.encoder.layers[1].self_attn

    def only_cls(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        keys = torch.zeros_like(output)
        keys[:, 0] = 1e3
        return keys

    attention.k_proj.register_forward_hook(only_cls)
    with torch.no_grad():
        attention.q_proj.weight.zero_()
        attention.q_proj.bias.fill_(1.0)
    with pytest.raises(MeasureError, match="entropy of block 2: attention weights of a row sum to zero"):
        read_internals(tiny_clip.model, deck)


def test_an_empty_probe_set_is_an_error(tiny_clip: Clip, deck: Deck) -> None:
    """The mean over nothing is nan."""
    with pytest.raises(ValueError, match="empty"):
        read_internals(tiny_clip.model, deck.subset([]))


# --- two readings


def test_a_model_compared_with_itself_has_not_moved(tiny_clip: Clip, deck: Deck) -> None:
    """Every measure's landmark of no change."""
    found = read_internals(tiny_clip.model, deck)
    same = representation(found, found)
    assert same.keys() == set(REPRESENTATION)
    for name in ("cka", "cka_biased"):
        assert same[name] == pytest.approx([1, 1], abs=1e-12)
    assert same["cka_embedding"] == pytest.approx([1], abs=1e-12)
    assert same["embedding_drift"] == pytest.approx([0], abs=1e-12)
    assert drift(found.blocks("entropy"), found.blocks("entropy")).mean == 0


def test_a_model_that_moved_further_drifted_more(tiny_clip: Clip, deck: Deck) -> None:
    """Positive control for every measure of representation and weights, in every block."""
    backbone = read_internals(tiny_clip.model, deck)
    near, far = (moved(tiny_clip.model, by) for by in (0.01, 0.1))
    close, wide = (representation(backbone, read_internals(m, deck)) for m in (near, far))
    for name in ("cka", "cka_biased", "cka_embedding"):
        assert all(1 - 1e-6 > a > b for a, b in zip(close[name], wide[name], strict=True)), name
    assert 0 < close["embedding_drift"][0] < wide["embedding_drift"][0]
    before = effective_weights(tiny_clip.model)
    light, heavy = (weights(before, effective_weights(m)) for m in (near, far))
    for name in light:
        assert all(0 < a < b for a, b in zip(light[name], heavy[name], strict=True)), name


def internals(states: torch.Tensor, embedding: torch.Tensor) -> Internals:
    kept = KeptStates()
    kept.add(states)
    return Internals({}, {}, {}, kept, embedding, "class token")


def test_an_undefined_representation_is_named() -> None:
    """A collapsed state is an error that says which block, not a missing number."""
    states = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    good = internals(states, states[0])
    collapsed = states.clone()
    collapsed[1] = collapsed[1, 0]
    with pytest.raises(MeasureError, match="cka of block 2: cka is undefined"):
        representation(good, internals(collapsed, states[0]))
    with pytest.raises(MeasureError, match="embedding: cka is undefined"):
        representation(good, internals(states, collapsed[1]))
    with pytest.raises(MeasureError, match="cka of block 1: cka needs at least 4 images, got 3"):
        representation(internals(states[:, :3], states[0, :3]), internals(states[:, :3], states[0, :3]))


# --- drift


def test_drift_by_hand() -> None:
    """The mean's drift is of the means, not the mean of the blocks' drifts."""
    found = drift([1.0, 3.0], [2.0, 1.5])
    assert not found.absolute
    assert found.blocks == pytest.approx((100, -50))
    assert found.mean == pytest.approx(100 * (1.75 - 2) / 2)
    assert np.mean(found.blocks) == pytest.approx(25)


@pytest.mark.parametrize("before", [[0.0, 2.0], [-1.0, 2.0], [0.0, 0.0]])
def test_drift_is_absolute_where_percent_has_no_meaning(before: list[float]) -> None:
    """A backbone value of zero, or of either sign, cannot be divided by; the change is given and marked."""
    found = drift(before, [1.0, 1.0])
    assert found.absolute
    assert found.blocks == pytest.approx([1 - before[0], 1 - before[1]])
    assert found.mean == pytest.approx(1 - np.mean(before))


def test_drift_of_negative_values_is_in_percent() -> None:
    """All of one sign can be divided by."""
    assert not drift([-1.0, -2.0], [-1.5, -2.0]).absolute
    assert drift([-1.0, -2.0], [-1.5, -2.0]).blocks == pytest.approx((50, 0))


@pytest.mark.parametrize(
    ("before", "after"), [([1.0], [1.0, 2.0]), ([], []), ([[1.0]], [[1.0]]), ([1.0], [math.nan])]
)
def test_drift_refuses_what_does_not_fit(before: list[float], after: list[float]) -> None:
    """Nothing is broadcast, and nan is no drift."""
    with pytest.raises(ValueError, match="drift"):
        unwrap(drift)(before, after)  # as users call it, without the type checks of the tests


# --- weights


def test_weight_drift_by_tower_block_and_projection(tiny_clip: Clip) -> None:
    """Twice a block's weights is a drift of 1 there, 0 elsewhere, and its share of the whole."""
    before = {name: w.detach().clone() for name, w in effective_weights(tiny_clip.model).items()}
    with torch.no_grad():
        for parameter in tiny_clip.model.vision_model.encoder.layers[1].parameters():
            parameter.mul_(2)
    found = weights(before, effective_weights(tiny_clip.model))
    assert found["weight_drift_blocks"] == pytest.approx([0, 1])
    assert found["weight_drift_projection"] == [0]
    tower = {n: w for n, w in before.items() if n.startswith("vision_model.")}
    block = sum(w.double().square().sum() for n, w in tower.items() if ".layers.1." in n)
    whole = sum(w.double().square().sum() for w in tower.values())
    assert found["weight_drift"] == pytest.approx([float((block / whole).sqrt())])  # type: ignore[union-attr]


def test_blocks_are_in_the_order_of_numbers() -> None:
    """Block 10 comes after block 2."""
    before = {f"vision_model.encoder.layers.{i}.w": torch.ones(1) for i in (10, 2, 0)}
    before |= {"vision_model.embeddings.w": torch.ones(1), "visual_projection.weight": torch.ones(1)}
    after = {n: w * (1 + int(n.split(".")[3])) if "layers" in n else w for n, w in before.items()}
    assert weights(before, after)["weight_drift_blocks"] == pytest.approx([0, 2, 10])


# --- ability


def test_accuracy_is_counted_by_hand(tiny_clip: Clip, deck: Deck) -> None:
    """In percent of images, by the live model, whatever the batches."""
    head = nn.Linear(24, 3)
    with torch.no_grad():
        embedding = tiny_clip.model.get_image_features(deck.images(slice(None))).pooler_output
    features = nn.functional.normalize(torch.randn(3, 24, generator=torch.Generator().manual_seed(1)), dim=-1)
    by_head = np.mean(head(embedding).argmax(-1).numpy() == deck.labels)
    cosine = nn.functional.cosine_similarity(embedding[:, None], features[None], dim=-1)
    by_text = np.mean(cosine.argmax(-1).numpy() == deck.labels)
    for size in (1, 7, 250):
        assert accuracy(tiny_clip.model, head, deck, size) == pytest.approx(100 * by_head)
        assert zero_shot_accuracy(tiny_clip.model, features, deck, size) == pytest.approx(100 * by_text)


def test_zero_shot_accuracy_sees_the_adapted_tower(tiny_clip: Clip, deck: Deck) -> None:
    """Class features taken from a model's own embeddings are found by it, and by a turned one are not."""
    with torch.no_grad():
        features = tiny_clip.model.get_image_features(deck.images(slice(0, 3))).pooler_output
    features = nn.functional.normalize(features, dim=-1)
    first = deck.subset([0, 1, 2])
    assert zero_shot_accuracy(tiny_clip.model, features, first) == 100
    with torch.no_grad():
        tiny_clip.model.visual_projection.weight.neg_()
    assert zero_shot_accuracy(tiny_clip.model, features, first) < 100
