"""The loss on captions: which are drawn, what counts as a pair, and the gradient of a batch in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from clipdrift.adapt import Adapted, Penalties, Setting, build
from clipdrift.adapt.pairs import PairLoss, adapt_pairs
from clipdrift.config import ContrastiveObjective, OptimConfig, RunConfig, parse_config
from clipdrift.data.caption_store import CaptionPacker, CaptionSource
from clipdrift.data.deck import Deck
from clipdrift.model.clip import Clip, load
from clipdrift.training.loop import train_model

MakeDeck = Callable[..., Deck]


def captions_of(*texts: tuple[str, ...]) -> CaptionSource:
    packer = CaptionPacker()
    for image, own in enumerate(texts):
        packer.add(image, own)
    return packer.packed()[1]


def several(count: int) -> CaptionSource:
    """Captions of so many images, one to three each."""
    words = [tuple(f"a {colour} thing {n}" for colour in ("red", "blue", "green")) for n in range(count)]
    return captions_of(*(own[: 1 + n % 3] for n, own in enumerate(words)))


def adapted_on(clip: Clip, captions: CaptionSource, groups: Any = None, **options: Any) -> Adapted:
    method = parse_config({"method": options.pop("method", "full_ft")}, RunConfig).method
    objective = ContrastiveObjective(name="contrastive", **options)
    bias = -4.0 if objective.loss == "sigmoid" else None
    own = np.arange(len(captions)) if groups is None else groups
    return adapt_pairs(clip, method, objective, captions, own, 0, bias)


def test_an_epochs_captions_depend_on_the_seed_and_the_epoch_alone(tiny_clip: Clip) -> None:
    captions = several(40)
    loss = adapted_on(tiny_clip, captions).objective
    assert isinstance(loss, PairLoss)
    first = np.concatenate([[0], np.cumsum(captions.counts)])
    draws = {(seed, epoch): loss.targets(seed, epoch) for seed in (0, 1) for epoch in (1, 2, 3)}
    for drawn in draws.values():
        assert (first[:-1] <= drawn).all()
        assert (drawn < first[1:]).all()
    assert np.array_equal(draws[0, 2], loss.targets(0, 2))
    assert len({drawn.tobytes() for drawn in draws.values()}) == 6
    drawn_ever = {number for epoch in range(60) for number in loss.targets(0, epoch).tolist()}
    assert drawn_ever == set(range(first[-1]))


def test_without_repeats_it_is_clips_own_loss(tiny_clip: Clip, make_deck: MakeDeck) -> None:
    """As transformers computes it for the very same images and texts."""
    captions = captions_of(*((f"a red circle {n}",) for n in range(6)))
    adapted = adapted_on(tiny_clip, captions, logit_scale="trained")
    images = make_deck(6).images(slice(None))
    texts = [captions.text(n, 0) for n in range(6)]
    tokens = tiny_clip.tokenizer(texts, padding=True, return_tensors="pt")
    known: Any = tiny_clip.model(**tokens, pixel_values=images, return_loss=True).loss
    embedding = tiny_clip.model.get_image_features(pixel_values=images).pooler_output
    loss, _ = adapted.objective(adapted.head, embedding, torch.arange(6))
    assert loss.item() == pytest.approx(known.item(), rel=1e-5)
    names, weights = zip(*adapted.parameters(), strict=True)
    ours, theirs = (torch.autograd.grad(found, weights) for found in (loss, known))
    assert "logit_scale" in names
    for name, one, other in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=name)


def test_identical_images_and_equal_captions_are_pairs_of_each_other(tiny_clip: Clip) -> None:
    captions = captions_of(("a red circle",), ("a blue square",), ("a red circle",), ("a dog",))
    loss = adapted_on(tiny_clip, captions, np.array([0, 1, 2, 1])).objective
    assert isinstance(loss, PairLoss)
    expected = np.eye(4, dtype=bool)
    expected[0, 2] = expected[2, 0] = expected[1, 3] = expected[3, 1] = True
    assert np.array_equal(loss.positive(torch.arange(4)).numpy(), expected)


def gradients(
    folder: Any, deck: Deck, captions: CaptionSource, micro: int | None, **options: Any
) -> tuple[dict[str, NDArray[np.float32]], float]:
    """What one step of SGD-like size would use: the change of every weight by AdamW, and the loss."""
    penalty, asked = options.pop("penalty", ()), options.pop("asked", ())
    setting = options.pop("setting", None)
    clip = load(folder)
    adapted = adapted_on(clip, captions, **options)
    loss = adapted.objective
    assert isinstance(loss, PairLoss)
    penalties: Penalties | None = build(asked, setting(adapted)) if asked else None
    if penalty:
        wanted = parse_config({"penalty": list(penalty)}, RunConfig).penalty
        features = normalize(clip.texts(["a circle", "a square"]).float(), dim=-1)
        penalties = build(wanted, Setting(adapted, (2.5, 2.5), features))
    seen: dict[str, NDArray[np.float32]] = {}
    losses: list[float] = []

    def keep(step: int, value: float) -> None:
        losses.append(value)
        for name, weight in adapted.parameters():
            if weight.grad is not None:
                seen[f"{step} {name}"] = weight.grad.numpy().copy()

    optim = OptimConfig(learning_rate=1e-4, epochs=1, batch_size=7, micro_batch=micro, clip_norm=None)
    for _ in train_model(
        adapted, deck, optim, seed=0, targets=lambda epoch: loss.targets(0, epoch), on_step=keep,
        penalties=penalties,
    ):  # fmt: skip
        pass
    return seen, losses[0]


@pytest.mark.parametrize("options", [
    {}, {"loss": "sigmoid"}, {"label_smoothing": 0.1}, {"towers": "image"}, {"towers": "text"},
    {"method": {"name": "lora", "dropout": 0.0}}, {"penalty": ("ldifs", "l2_sp", "apr")},
    {"method": "projections"}, {"method": {"name": "last_blocks", "blocks": 1}, "penalty": ("zero_shot_kl",)},
], ids=str)  # fmt: skip
def test_a_batch_in_parts_has_the_gradient_of_the_batch(
    tiny_clip_dir: Any, make_deck: MakeDeck, options: dict[str, Any]
) -> None:
    """Though its loss couples all of its images: embeddings are kept, and their gradients carried on."""
    deck, captions = make_deck(14, signal=60), several(14)
    whole, loss = gradients(tiny_clip_dir, deck, captions, None, **options)
    parts, again = gradients(tiny_clip_dir, deck, captions, 3, **options)
    assert again == pytest.approx(loss, rel=1e-5)
    assert whole.keys() == parts.keys()
    first = [name for name in whole if name.startswith("1 ")]
    assert first
    largest = max(float(np.abs(whole[name]).max()) for name in first)  # keys' biases have none but rounding
    for name in first:
        assert np.allclose(whole[name], parts[name], rtol=1e-3, atol=1e-6 * largest), name


def test_dropout_is_the_same_in_both_passes_of_a_part(tiny_clip_dir: Any, make_deck: MakeDeck) -> None:
    """Otherwise the gradient would be that of another model: with all units kept in one part, it is exact."""
    deck, captions = make_deck(7, signal=60), several(7)
    method = {"name": "lora", "dropout": 0.5}
    torch.manual_seed(5)
    whole, _ = gradients(tiny_clip_dir, deck, captions, None, method=method)
    torch.manual_seed(5)
    same, _ = gradients(tiny_clip_dir, deck, captions, 6, method=method)
    torch.manual_seed(5)
    again, _ = gradients(tiny_clip_dir, deck, captions, 6, method=method)
    assert all(np.array_equal(same[name], again[name]) for name in same)
    assert whole.keys() == same.keys()


def test_the_scale_stays_within_its_bound(tiny_clip: Clip, make_deck: MakeDeck) -> None:
    with torch.no_grad():
        tiny_clip.model.logit_scale.fill_(9.0)
    adapted = adapted_on(tiny_clip, several(4))
    embedding = tiny_clip.model.get_image_features(
        pixel_values=make_deck(4).images(slice(None))
    ).pooler_output
    adapted.objective(adapted.head, embedding, torch.tensor([0, 1, 3, 6]))
    assert tiny_clip.model.logit_scale.exp().item() == pytest.approx(100)
    fixed = adapted_on(tiny_clip, several(4), logit_scale="fixed")
    assert "logit_scale" not in dict(fixed.parameters())


def test_frozen_texts_are_embedded_once(tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = adapted_on(tiny_clip, several(10), towers="image")
    loss = adapted.objective
    assert isinstance(loss, PairLoss)
    target = torch.tensor([0, 3, 5, 9])
    anew = loss.texts(target)
    loss.keep_texts()
    monkeypatch.setattr(loss, "clip", None)
    torch.testing.assert_close(loss.texts(target), anew, rtol=1e-5, atol=1e-6)
    assert not anew.requires_grad


def test_a_batch_of_two_kinds_is_told_right_or_wrong(tiny_clip: Clip) -> None:
    """Whether the most likely caption is one that holds, not whether it is the very one drawn."""
    captions = captions_of(("a red circle",), ("a red circle",), ("a blue square",))
    adapted = adapted_on(tiny_clip, captions)
    texts = tiny_clip.texts(["a red circle", "a blue square"]).float()
    loss, right = adapted.objective(adapted.head, texts[[0, 0, 0]].clone(), torch.tensor([0, 1, 2]))
    assert right.tolist() == [True, True, False]
    assert torch.isfinite(loss)
