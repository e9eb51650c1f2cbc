"""The one training loop. It knows no measure, method or penalty by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from clipdrift.adapt import Adapted
from clipdrift.adapt.feed import Feed
from clipdrift.adapt.penalties import Penalties
from clipdrift.adapt.reference import Reference, Wants
from clipdrift.config import OptimConfig
from clipdrift.data.deck import Deck


class Diverged(Exception):  # noqa: N818 - an outcome, not a mistake
    """The loss or its gradient became nan or inf."""

    def __init__(self, epoch: int, step: int, what: str) -> None:
        super().__init__(
            f"{what} is not finite at step {step} (epoch {epoch}); a lower optim.learning_rate may help"
        )
        self.epoch, self.step = epoch, step


@dataclass(frozen=True)
class Moment:
    """A point of the training at which the caller may look at the model.

    ``epoch`` counts from 1; ``step`` is the number of steps done; ``loss`` and ``accuracy`` (percent) are
    averages over the training images seen since the epoch began; ``learning_rate`` is that of the last step.
    """

    epoch: int
    step: int
    ends_epoch: bool
    loss: float
    accuracy: float
    learning_rate: float


def learning_rate(step: int, steps: int, optim: OptimConfig) -> float:
    """The rate of step ``step`` (from 0) of ``steps``: linear warm-up, then cosine to zero."""
    warm = math.ceil(optim.warmup * steps)
    if step < warm:
        return optim.learning_rate * (step + 1) / warm
    return optim.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def train(
    adapted: Adapted,
    deck: Deck,
    optim: OptimConfig,
    *,
    seed: int,
    flip: bool = True,
    bf16: bool = False,
    moments: int = 1,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    on_keep: Callable[[int, int], None] | None = None,
    penalties: Penalties | None = None,
) -> Iterator[Moment]:
    """Train with AdamW; yield ``moments`` times per epoch, the last at its end.

    Between moments the caller may run the model in eval mode and read anything; training mode is set again.

    Args:
        adapted: model and head, what of them is trained, and the loss.
        deck: the training images.
        optim: rate, schedule, epochs, batch size, clipping.
        seed: of the order of images and of the flips; dropout uses torch's global generator.
        flip: mirror half of the images at random.
        bf16: autocast the forward pass to bfloat16.
        moments: how often per epoch to yield.
        on_step: called with steps done and the loss.
        on_keep: told how many images have gone through the frozen blocks, mirror images counted.
        penalties: added to the loss.

    Raises:
        Diverged: nan or inf in the loss or gradient; the weights are those before that step.
    """
    named = list(adapted.parameters())
    parameters = [p for _, p in named]
    optimizer = torch.optim.AdamW(
        [{"params": [p for n, p in named if adapted.rate(n) == r], "ratio": r} for r in _rates(adapted)],
        lr=optim.learning_rate,
        weight_decay=optim.weight_decay,
    )
    feed = Feed.of(adapted, deck, flip=flip, keep=optim.keep_frozen, progress=on_keep)
    reference = Reference(adapted, deck, penalties.wants) if penalties else None
    wants = penalties.wants if penalties else Wants()
    per_epoch = math.ceil(len(deck) / optim.batch_size)
    steps = per_epoch * optim.epochs
    stops = {math.ceil(per_epoch * (k + 1) / moments) for k in range(moments)}
    labels = torch.from_numpy(deck.labels).to(deck.device)
    step = 0
    for epoch in range(1, optim.epochs + 1):
        rng = np.random.default_rng([seed, epoch])  # an epoch's order depends on nothing before it
        order = rng.permutation(len(deck))
        mirrored = rng.random(len(deck)) < 0.5 if flip else np.zeros(len(deck), bool)
        total = right = seen = 0.0
        for batch in range(per_epoch):
            adapted.train()
            picked = order[batch * optim.batch_size : (batch + 1) * optim.batch_size]
            target = labels[torch.from_numpy(picked).to(deck.device)]
            rate = learning_rate(step, steps, optim)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["ratio"]
            with torch.autocast(deck.device.type, torch.bfloat16, enabled=bf16):
                traced = feed.forward(picked, mirrored[picked], rows=wants.rows)
                loss, logits = adapted.objective(adapted.head, traced.embedding, target)
            if penalties and reference:
                backbone = reference.of(picked, mirrored[picked])
                loss = loss + penalties(traced, feed.first_block, backbone)
            if not torch.isfinite(loss):
                raise Diverged(epoch, step + 1, "the loss")
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, optim.clip_norm or math.inf)
            if not torch.isfinite(norm):
                raise Diverged(epoch, step + 1, "the gradient")
            optimizer.step()
            step += 1
            value = loss.item()
            total += value * len(picked)
            right += (logits.argmax(-1) == target).sum().item()
            seen += len(picked)
            on_step(step, value)
            if batch + 1 in stops:
                ends = batch + 1 == per_epoch
                yield Moment(epoch, step, ends, total / seen, 100 * right / seen, rate)


def _rates(adapted: Adapted) -> list[float]:
    """The learning rates that occur, relative to the configured one."""
    return sorted({adapted.rate(name) for name, _ in adapted.parameters()})
