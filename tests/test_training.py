"""The training loop: schedule, learning, repeatability, failure, and what it does with the images."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clipdrift.adapt import Adapted, adapt
from clipdrift.config import FullFineTuning, LinearProbe, Lora, OptimConfig
from clipdrift.data.deck import Deck
from clipdrift.model.clip import Clip, load
from clipdrift.training.ledger import READ_SECONDS, Ledger
from clipdrift.training.loop import Diverged, Moment, learning_rate, train_model
from clipdrift.training.order import Order

FULL = FullFineTuning(name="full_ft")


def options(**changes: Any) -> OptimConfig:
    return OptimConfig(**{"learning_rate": 1e-3, "epochs": 2, "batch_size": 4, **changes})


def order(deck: Deck) -> Order:
    return Order.of(len(deck), options())


def full(clip: Clip) -> Adapted:
    return adapt(clip, FULL, classes=2, seed=0)


@dataclass(frozen=True, eq=False)
class Spy(Deck):
    """A deck that remembers what was asked of it."""

    asked: list[tuple[np.ndarray, Tensor | None]] = field(default_factory=list)

    def images(self, indices: Any, flip: Tensor | None = None) -> Tensor:
        self.asked.append((np.asarray(indices), flip))
        return super().images(indices, flip)


def spied(deck: Deck) -> Spy:
    return Spy(deck.data, deck.rows, deck.labels, deck.preprocess, deck.device)


# --- the schedule


def test_the_schedule_by_hand() -> None:
    """Two steps up to the peak, then a cosine that would reach zero one step after the last."""
    optim = options(learning_rate=1.0, warmup=0.2)
    rates = [learning_rate(step, 10, optim) for step in range(11)]
    cosine = [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(9)]
    assert rates == pytest.approx([0.5, 1.0, *cosine])
    assert rates[6] == pytest.approx(0.5)
    assert rates[10] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 5), (0.05, 1), (0.99, 3), (0.5, 2), (0.05, 1000)])
def test_the_rate_is_never_zero_nor_above_its_peak(warmup: float, steps: int) -> None:
    """A step at rate zero is a step lost; short runs must still reach the peak."""
    rates = [learning_rate(step, steps, options(learning_rate=3e-4, warmup=warmup)) for step in range(steps)]
    assert all(0 < rate <= 3e-4 for rate in rates)
    assert max(rates) == pytest.approx(3e-4)


def test_the_scheduled_rate_is_the_one_used(tiny_clip: Clip, make_deck: Callable[..., Deck]) -> None:
    """Adam's first step is the rate itself, whatever the gradient: the warm-up's first share of the peak."""
    adapted = full(tiny_clip)
    before = adapted.head.weight.detach().clone()
    optim = options(epochs=5, warmup=0.5, weight_decay=0)
    moment = next(train_model(adapted, make_deck(4), optim, seed=0))
    assert moment.learning_rate == pytest.approx(1e-3 / 3)
    assert (adapted.head.weight - before).abs().median().item() == pytest.approx(1e-3 / 3, rel=1e-2)


# --- learning


@pytest.mark.parametrize(
    "method", [FULL, Lora(name="lora"), LinearProbe(name="linear_probe")], ids=lambda m: m.name
)
def test_it_learns_what_can_be_learnt(
    tiny_clip: Clip, make_deck: Callable[..., Deck], method: FullFineTuning | Lora | LinearProbe
) -> None:
    """Positive control: bright against dark images are told apart after some steps."""
    deck = make_deck(24, signal=120)
    adapted = adapt(tiny_clip, method, classes=2, seed=0)
    moments = list(train_model(adapted, deck, options(learning_rate=5e-3, epochs=8, batch_size=8), seed=0))
    assert moments[-1].loss < 0.5 * moments[0].loss
    assert moments[-1].accuracy == 100


def test_loss_and_accuracy_are_averages_over_images(
    tiny_clip_dir: Path, make_deck: Callable[..., Deck]
) -> None:
    """A short last batch counts by its images: with a rate of nearly nothing, the mean over all of them."""
    deck = make_deck(10)
    adapted = full(load(tiny_clip_dir))
    with torch.no_grad():
        embedded = adapted.clip.model.get_image_features(deck.images(slice(None))).pooler_output
        logits = adapted.head(embedded)
    labels = torch.from_numpy(deck.labels)
    expected = torch.nn.functional.cross_entropy(logits, labels).item()
    optim = options(learning_rate=1e-12, epochs=1, batch_size=8)
    (moment,) = train_model(adapted, deck, optim, seed=0, flip=False)
    assert moment.loss == pytest.approx(expected, abs=1e-5)
    assert moment.accuracy == pytest.approx(100 * (logits.argmax(-1) == labels).float().mean().item())


# --- repeatability


def weights_after(folder: Path, deck: Deck, seed: int, method: Any = FULL) -> dict[str, Tensor]:
    adapted = adapt(load(folder), method, classes=2, seed=0)
    list(train_model(adapted, deck, options(), seed=seed))
    return adapted.snapshot()


@pytest.mark.parametrize("method", [FULL, Lora(name="lora", dropout=0.3)], ids=lambda m: m.name)
def test_the_same_seed_gives_the_same_weights(
    tiny_clip_dir: Path, make_deck: Callable[..., Deck], method: FullFineTuning | Lora
) -> None:
    """Bit for bit on the CPU, dropout included; another seed gives others."""
    deck = make_deck(10)
    first, again, other = (weights_after(tiny_clip_dir, deck, seed, method) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_looking_at_the_model_changes_nothing(tiny_clip_dir: Path, make_deck: Callable[..., Deck]) -> None:
    """Between moments the caller measures in eval mode; training goes on as if nobody had looked."""
    deck = make_deck(10)
    snapshots = []
    for look in (False, True):
        adapted = adapt(load(tiny_clip_dir), Lora(name="lora", dropout=0.3), classes=2, seed=0)
        for _ in train_model(adapted, deck, options(), seed=3, looks=order(deck).looks(2)):
            if look:
                adapted.eval()
                with torch.no_grad():
                    adapted.clip.model.get_image_features(deck.images(slice(0, 3)))
        snapshots.append(adapted.snapshot())
    assert all(torch.equal(snapshots[0][name], snapshots[1][name]) for name in snapshots[0])


# --- failure


def test_nan_pixels_diverge_before_they_reach_the_weights(
    tiny_clip: Clip, make_deck: Callable[..., Deck]
) -> None:
    """The step is named, and the weights are those before it."""

    class Broken(Deck):
        def images(self, indices: Any, flip: Tensor | None = None) -> Tensor:
            return super().images(indices, flip) * math.nan

    deck = make_deck(8)
    adapted = full(tiny_clip)
    before = adapted.snapshot()
    broken = Broken(deck.data, deck.rows, deck.labels, deck.preprocess, deck.device)
    with pytest.raises(Diverged, match=r"the loss is not finite at step 1 \(epoch 1\)") as caught:
        list(train_model(adapted, broken, options(), seed=0))
    assert (caught.value.epoch, caught.value.step) == (1, 1)
    assert all(torch.equal(value, before[name]) for name, value in adapted.snapshot().items())


def test_a_rate_far_too_high_diverges(tiny_clip: Clip, make_deck: Callable[..., Deck]) -> None:
    """Not a number in a record, but a status: the loop stops at the first step that is not finite."""
    with pytest.raises(Diverged, match=r"a lower optim\.learning_rate may help") as caught:
        list(train_model(full(tiny_clip), make_deck(8), options(learning_rate=1e30), seed=0))
    assert (caught.value.epoch, caught.value.step) == (1, 2)


@pytest.mark.parametrize("clip_norm", [1.0, None])
def test_a_gradient_that_is_not_finite_diverges(
    tiny_clip: Clip, make_deck: Callable[..., Deck], clip_norm: float | None
) -> None:
    """A finite loss can have a gradient that is not; with and without clipping it must not be applied."""
    adapted = full(tiny_clip)
    adapted.head.weight.register_hook(lambda grad: grad * math.inf)
    before = adapted.snapshot()
    with pytest.raises(Diverged, match="the gradient is not finite at step 1"):
        list(train_model(adapted, make_deck(8), options(clip_norm=clip_norm), seed=0))
    assert all(torch.equal(value, before[name]) for name, value in adapted.snapshot().items())


# --- numbers that are read late, as on a GPU


def test_numbers_read_late_are_the_same_training(tiny_clip: Clip, make_deck: Callable[..., Deck]) -> None:
    """Only when a number is read differs; the optimiser is fused, so weights agree to rounding."""
    found = []
    for deferred in (False, True):
        adapted, told = full(copy.deepcopy(tiny_clip)), list[tuple[int, float]]()
        moments = list(
            train_model(
                adapted, make_deck(8), options(), seed=0, deferred=deferred,
                on_step=lambda step, loss: told.append((step, loss)),  # noqa: B023 - called within this turn
            )
        )  # fmt: skip
        found.append((moments, told, adapted.snapshot()))
    (now, at_once, weights), (later, late, fused) = found
    assert [step for step, _ in late] == [step for step, _ in at_once] == [1, 2, 3, 4]
    assert [loss for _, loss in late] == pytest.approx([loss for _, loss in at_once], rel=1e-5)
    assert [m.loss for m in later] == pytest.approx([m.loss for m in now], rel=1e-5)
    assert [m.accuracy for m in later] == [m.accuracy for m in now]
    for name, value in weights.items():
        if not name.endswith("k_proj.bias"):  # its gradient is nothing but rounding, which Adam makes large
            torch.testing.assert_close(fused[name], value, rtol=1e-4, atol=1e-5)


def test_what_is_found_late_changed_no_weight(tiny_clip: Clip, make_deck: Callable[..., Deck]) -> None:
    """The third of four steps is no number; it is seen at the end, and the weights are those of two steps."""
    whole = make_deck(16)

    class BreaksOnce(Spy):
        def images(self, indices: Any, flip: Tensor | None = None) -> Tensor:
            broken = len(self.asked) == 2
            return super().images(indices, flip) * (math.nan if broken else 1.0)

    def broken() -> Deck:
        return BreaksOnce(whole.data, whole.rows, whole.labels, whole.preprocess, whole.device)

    adapted, told = full(copy.deepcopy(tiny_clip)), list[int]()
    with pytest.raises(Diverged, match=r"the loss is not finite at step 3 \(epoch 1\)"):
        list(
            train_model(
                adapted, broken(), options(), seed=0, deferred=True,
                on_step=lambda step, loss: told.append(step),
            )
        )  # fmt: skip
    assert told == []  # all four are read together, at the end
    whole_one = full(tiny_clip)
    next(train_model(whole_one, whole, options(), seed=0, deferred=True, looks={2}))
    expected = whole_one.snapshot()
    assert all(torch.equal(value, expected[name]) for name, value in adapted.snapshot().items())


def test_late_numbers_are_read_once_a_second() -> None:
    """Progress and stop signals wait for no more than that."""
    now = 0.0
    ledger = Ledger(torch.device("cpu"), deferred=True, clock=lambda: now)
    for step in range(1, 4):
        ledger.begin(1, step)
        ledger.part(torch.tensor(float(step)), torch.tensor([True, False]))
        assert not ledger.due
    now = READ_SECONDS
    assert ledger.due
    assert [(step.number, step.loss, step.parts[0].right) for step in ledger.read()] == [
        (1, 1.0, 1.0), (2, 2.0, 1.0), (3, 3.0, 1.0),
    ]  # fmt: skip
    assert not ledger.due
    assert list(ledger.read()) == []


# --- moments and images


@pytest.mark.parametrize(
    ("moments", "steps"), [(1, [5, 10]), (2, [3, 5, 8, 10]), (5, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])]
)
def test_moments_of_an_epoch(
    tiny_clip: Clip, make_deck: Callable[..., Deck], moments: int, steps: list[int]
) -> None:
    """As many as asked for, evenly, the last at the epoch's end; averages begin anew with the epoch."""
    deck = make_deck(18)
    looks = order(deck).looks(moments)
    seen: list[Moment] = list(train_model(full(tiny_clip), deck, options(), seed=0, looks=looks))
    assert [m.step for m in seen] == steps
    assert [m.epoch for m in seen] == [1] * moments + [2] * moments
    assert [m.ends_epoch for m in seen] == ([False] * (moments - 1) + [True]) * 2


def test_more_moments_than_steps_are_one_each_step(tiny_clip: Clip, make_deck: Callable[..., Deck]) -> None:
    """There is nothing new to see between two steps."""
    deck, once = make_deck(8), options(epochs=1)
    seen = list(train_model(full(tiny_clip), deck, once, seed=0, looks=Order.of(8, once).looks(9)))
    assert [(m.step, m.ends_epoch) for m in seen] == [(1, False), (2, True)]


def test_every_image_once_an_epoch_in_a_new_order(tiny_clip: Clip, make_deck: Callable[..., Deck]) -> None:
    """The last batch is short, not dropped; no image is seen twice before all were seen once."""
    deck = spied(make_deck(10))
    steps: list[tuple[int, float]] = []
    list(
        train_model(
            full(tiny_clip), deck, options(), seed=0, on_step=lambda step, loss: steps.append((step, loss))
        )
    )
    sizes = [len(indices) for indices, _ in deck.asked]
    assert sizes == [4, 4, 2, 4, 4, 2]
    first, second = (np.concatenate([i for i, _ in deck.asked[a : a + 3]]) for a in (0, 3))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first.tolist() != second.tolist()
    assert [step for step, _ in steps] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(loss) for _, loss in steps)


def test_half_of_the_images_are_mirrored(tiny_clip: Clip, make_deck: Callable[..., Deck]) -> None:
    """Drawn anew for each image and epoch, about half of them, and the mirror image is really used."""
    deck = spied(make_deck(60))
    list(train_model(full(tiny_clip), deck, options(batch_size=20), seed=0))
    flips = [torch.zeros(60, dtype=torch.bool) for _ in range(2)]
    for call, (indices, flip) in enumerate(deck.asked):
        assert flip is not None
        flips[call // 3][torch.from_numpy(indices)] = flip
    assert all(18 < int(flip.sum()) < 42 for flip in flips)
    assert not torch.equal(*flips)
    indices, flip = deck.asked[0]
    plain, mirrored = Deck.images(deck, indices), Deck.images(deck, indices, flip)
    for one, other, turned in zip(plain, mirrored, flip, strict=True):
        assert torch.equal(other, one.flip(-1) if turned else one)
        assert not torch.equal(one, one.flip(-1))


def test_flips_can_be_switched_off(tiny_clip: Clip, make_deck: Callable[..., Deck]) -> None:
    """Digits and letters have no mirror image; the order of images stays the same without it."""
    orders = []
    for flip in (True, False):
        deck = spied(make_deck(10))
        list(train_model(full(tiny_clip), deck, options(), seed=0, flip=flip))
        orders.append([indices.tolist() for indices, _ in deck.asked])
        assert all((flipped is not None) == flip for _, flipped in deck.asked)
    assert orders[0] == orders[1]


def test_the_gradient_is_clipped_when_asked(tiny_clip_dir: Path, make_deck: Callable[..., Deck]) -> None:
    """A bound lowers the norm to it; without a bound, or under it, the gradient stays as it is."""

    def norm(clip_norm: float | None) -> float:
        adapted = full(load(tiny_clip_dir))
        next(train_model(adapted, make_deck(4), options(clip_norm=clip_norm), seed=0))
        return torch.stack([p.grad.norm() for _, p in adapted.parameters()]).norm().item()

    free = norm(None)
    assert free > 0.1
    assert norm(0.05) == pytest.approx(0.05, rel=1e-3)
    assert norm(2 * free) == pytest.approx(free)


def test_bf16_autocast_trains_float32_weights(tiny_clip: Clip, make_deck: Callable[..., Deck]) -> None:
    """Only the forward pass is rounded; weights and loss stay in float32."""
    adapted = adapt(tiny_clip, Lora(name="lora"), classes=2, seed=0)
    (first, second) = train_model(adapted, make_deck(8), options(), seed=0, bf16=True)
    assert math.isfinite(first.loss + second.loss)
    assert {p.dtype for _, p in adapted.parameters()} == {torch.float32}
