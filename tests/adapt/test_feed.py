"""What frozen blocks make of an image is computed once and kept, and nobody can tell from the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_methods import (
    BLOCK,
    adapted_by,
    embedding,
    method,
    penalties_of,
    penalty,
    train_briefly,
    whole_state,
)
from torch import Tensor

from clipdrift.adapt import feed as feeding
from clipdrift.adapt.feed import Feed
from clipdrift.config import Method
from clipdrift.data.deck import Deck
from clipdrift.model.clip import Clip, load
from clipdrift.model.trace import trace

MakeDeck = Callable[..., Deck]

KEPT: list[tuple[Method, int | None]] = [
    (method("last_blocks"), 1),
    (method("full_ft", frozen_blocks=1, freeze_embeddings=True), 1),
    (method("full_ft", frozen_blocks=2, freeze_embeddings=True), 2),
    (method("linear_probe"), None),
    (method("lora", frozen_blocks=1, dropout=0.3), 1),
    (method("dora", frozen_blocks=1, targets=("v", "mlp")), 1),
    (method("bias_only", frozen_blocks=1, freeze_embeddings=True), 1),
    (method("norm_only", frozen_blocks=1, freeze_embeddings=True), 1),
    (method("norm_only", frozen_blocks=2, freeze_embeddings=True), 2),
    (method("flyp", frozen_blocks=1, freeze_embeddings=True), 1),
]
NOT_KEPT = [
    method("full_ft"),
    method("full_ft", frozen_blocks=1),
    method("full_ft", freeze_embeddings=True),
    method("bias_only", frozen_blocks=2),
    method("norm_only"),
    method("lora"),
    method("last_blocks", blocks=2),
    method("flyp", frozen_blocks=2),
]


def result(folder: Path, deck: Deck, options: Method, held: tuple[str, ...] = (), **optim: Any) -> Any:
    """Losses and weights after two epochs."""
    adapted = adapted_by(load(folder), options)
    # a floor that everything lies below: frozen blocks must not count whether they run or not
    extra = {"entropy_floor": {"ratio": 1.5}}
    asked = [penalty(name, **extra.get(name, {})) for name in held]
    penalties = penalties_of(adapted, deck, asked) if asked else None
    losses = train_briefly(adapted, deck, penalties, epochs=2, learning_rate=2e-3, **optim)
    return losses, whole_state(adapted)


def assert_same(one: Any, other: Any) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-4, abs=1e-6)
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        # a key's bias has no gradient but rounding, of which Adam makes whole steps
        room = 2e-2 if "k_proj.bias" in name else 2e-4
        assert (value - other[1][name]).abs().max() < room, name


@pytest.mark.parametrize(
    ("options", "flip"), [*((options, True) for options, _ in KEPT), (KEPT[0][0], False)], ids=str
)
def test_kept_or_not_the_result_is_the_same(
    tiny_clip_dir: Path, make_deck: MakeDeck, options: Method, flip: bool
) -> None:
    """To rounding: losses step by step, and the weights at the end."""
    deck = make_deck(7, classes=3)
    kept = result(tiny_clip_dir, deck, options, flip=flip)
    assert_same(kept, result(tiny_clip_dir, deck, options, flip=flip, keep_frozen=False))


@pytest.mark.parametrize("options", [KEPT[0][0], KEPT[2][0], KEPT[4][0]], ids=str)
@pytest.mark.parametrize(
    "held", [("apr", "ldifs"), ("entropy_floor", "entropy_pull", "l2_sp", "zero_shot_kl")], ids="-".join
)
def test_with_penalties_it_is_the_same_too(
    tiny_clip_dir: Path, make_deck: MakeDeck, options: Method, held: tuple[str, ...]
) -> None:
    """They read blocks by number, and frozen ones add nothing to them."""
    deck = make_deck(7, classes=3)
    kept = result(tiny_clip_dir, deck, options, held)
    assert_same(kept, result(tiny_clip_dir, deck, options, held, keep_frozen=False))
    free = result(tiny_clip_dir, deck, options)
    assert kept[0] != pytest.approx(free[0], rel=1e-4)


@pytest.mark.parametrize(("options", "start"), KEPT, ids=str)
def test_what_is_kept(tiny_clip: Clip, make_deck: MakeDeck, options: Method, start: int | None) -> None:
    """States after the frozen blocks by plain hooks; the class token alone after the last; or embeddings."""
    deck = make_deck(5, classes=3)
    adapted = adapted_by(tiny_clip, options)
    adapted.train()
    feed = Feed.of(adapted, deck, flip=True)
    assert feed.kept is not None
    assert feed.kept.start == start
    assert feed.first_block == 3 if start is None else start + 1
    assert all(m.training for m in tiny_clip.model.modules())  # LoRA's dropout is on again
    adapted.eval()
    mirrored = np.array([True, False, True])
    picked = np.array([4, 0, 2])
    images = deck.images(picked, torch.from_numpy(mirrored))
    with torch.no_grad():
        if start is None:
            expected = tiny_clip.model.get_image_features(pixel_values=images).pooler_output
        else:
            states = tiny_clip.model.vision_model(
                pixel_values=images, output_hidden_states=True
            ).hidden_states
            expected = states[start][:, :1] if start == 2 else states[start]
        found = feed.forward(picked, mirrored, rows=True)
        whole = trace(tiny_clip.model, images, rows=True)
    assert (feed.kept.batch(picked, mirrored) - expected).abs().max() < 1e-5
    assert (found.embedding - whole.embedding).abs().max() < 1e-5
    rest = 0 if start is None else 2 - start
    assert len(found.states) == rest
    if rest:
        assert found.rows is not None
        assert whole.rows is not None
        assert (found.states - whole.states[start:]).abs().max() < 1e-5
        assert (found.rows - whole.rows[start:]).abs().max() < 1e-6


@pytest.mark.parametrize("options", NOT_KEPT, ids=str)
def test_nothing_is_kept_where_it_would_change(tiny_clip: Clip, make_deck: MakeDeck, options: Method) -> None:
    """Where embeddings or the first block are trained, what comes after them is not constant."""
    feed = Feed.of(adapted_by(tiny_clip, options), make_deck(5, classes=3), flip=True)
    assert feed.kept is None
    assert feed.first_block == 1


def test_keeping_can_be_switched_off(tiny_clip: Clip, make_deck: MakeDeck) -> None:
    """To check that it makes no difference."""
    adapted = adapted_by(tiny_clip, method("linear_probe"))
    assert Feed.of(adapted, make_deck(5, classes=3), flip=True, keep=False).kept is None


@pytest.mark.parametrize("in_memory", [feeding.IN_MEMORY, 8])
def test_memory_and_file_hold_the_same(
    tiny_clip: Clip, make_deck: MakeDeck, tmp_path: Path, in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit goes to a temporary file, which no one has to remove."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    deck = make_deck(5, classes=3)
    adapted = adapted_by(tiny_clip, method("last_blocks"))
    feed = Feed.of(adapted, deck, flip=True, in_memory=in_memory)
    assert feed.kept is not None
    assert isinstance(feed.kept.values, np.memmap) == (in_memory == 8)
    plain = Feed.of(adapted, deck, flip=True)
    assert plain.kept is not None
    assert np.array_equal(feed.kept.values, plain.kept.values)
    assert feed.kept.values.shape == (2, 5, 17, 32)
    assert list(tmp_path.iterdir()) == []


def test_training_from_a_file_is_the_same(
    tiny_clip_dir: Path, make_deck: MakeDeck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit."""
    deck, options = make_deck(7, classes=3), method("last_blocks")
    losses, weights = result(tiny_clip_dir, deck, options)
    monkeypatch.setattr(feeding, "room", lambda shape, _, room=feeding.room: room(shape, 0))
    again, others = result(tiny_clip_dir, deck, options)
    assert losses == again
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize(
    ("options", "start", "flip"), [*((*kept, True) for kept in KEPT), (*KEPT[0], False)], ids=str
)
def test_the_frozen_part_runs_once_for_each_image_and_side(
    tiny_clip: Clip, make_deck: MakeDeck, options: Method, start: int | None, flip: bool
) -> None:
    """Three epochs: the first block sees every image once, and its mirror image once; progress says so."""
    deck = make_deck(7, classes=3)
    adapted = adapted_by(tiny_clip, options)
    seen = {0: 0, 1: 0}
    for i in seen:
        block = tiny_clip.model.get_submodule(f"{BLOCK}.{i}")

        def count(_module: Any, inputs: tuple[Tensor, ...], i: int = i) -> None:
            seen[i] += len(inputs[0])

        block.register_forward_pre_hook(count)
    train_briefly(adapted, deck, epochs=3, flip=flip)
    sides = 2 if flip else 1
    assert seen[0] == 7 * sides
    assert seen[1] == (3 * 7 if start == 1 else 7 * sides)
    told: list[tuple[int, int]] = []
    Feed.of(adapted, deck, flip=flip, progress=lambda done, of: told.append((done, of)))
    assert told == [(7 * (side + 1), 7 * sides) for side in range(sides)]


def test_passes_are_cut_to_size(
    tiny_clip: Clip, make_deck: MakeDeck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last pass is short; no number depends on the size of a pass."""
    deck, adapted = make_deck(7, classes=3), adapted_by(tiny_clip, method("last_blocks"))
    whole = Feed.of(adapted, deck, flip=True)
    told: list[tuple[int, int]] = []
    monkeypatch.setattr("clipdrift.model.towers.base.Tower.images_per_pass", lambda *_: 3)
    parts = Feed.of(adapted, deck, flip=True, progress=lambda done, of: told.append((done, of)))
    assert [done for done, _ in told] == [3, 6, 7, 10, 13, 14]
    assert whole.kept is not None
    assert parts.kept is not None
    assert np.abs(whole.kept.values - parts.kept.values).max() < 1e-5


def test_the_head_alone_trains_on_kept_embeddings(tiny_clip_dir: Path, make_deck: MakeDeck) -> None:
    """The first phase of lp_ft keeps embeddings, the second nothing: by then the tower moves."""
    adapted = adapted_by(load(tiny_clip_dir), method("lp_ft"))
    deck = make_deck(5, classes=3)
    with adapted.head_alone():
        feed = Feed.of(adapted, deck, flip=True)
        assert feed.kept is not None
        assert feed.kept.start is None
    assert Feed.of(adapted, deck, flip=True).kept is None
    before = embedding(adapted.clip.model)
    train_briefly(adapted, deck)
    assert not torch.equal(embedding(adapted.clip.model), before)
