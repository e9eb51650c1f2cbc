"""The one training loop. It knows no measure, method or penalty by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from clipdrift.adapt import Adapted
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
) -> Iterator[Moment]:
    """Train with cross-entropy and AdamW; yield ``moments`` times per epoch, the last at its end.

    Between moments the caller may run the model in eval mode and read anything; training mode is set again.

    Args:
        adapted: model and head, and what of them is trained.
        deck: the training images.
        optim: rate, schedule, epochs, batch size, clipping.
        seed: of the order of images and of the flips; dropout uses torch's global generator.
        flip: mirror half of the images at random.
        bf16: autocast the forward pass to bfloat16.
        moments: how often per epoch to yield.
        on_step: called with steps done and the loss.

    Raises:
        Diverged: nan or inf in the loss or gradient; the weights are those before that step.
    """
    parameters = [p for _, p in adapted.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=optim.learning_rate, weight_decay=optim.weight_decay)
    per_epoch = math.ceil(len(deck) / optim.batch_size)
    steps = per_epoch * optim.epochs
    stops = {math.ceil(per_epoch * (k + 1) / moments) for k in range(moments)}
    labels = torch.from_numpy(deck.labels).to(deck.device)
    step = 0
    for epoch in range(1, optim.epochs + 1):
        rng = np.random.default_rng([seed, epoch])  # an epoch's order depends on nothing before it
        order = rng.permutation(len(deck))
        mirrored = torch.from_numpy(rng.random(len(deck)) < 0.5) if flip else None
        total = right = seen = 0.0
        for batch in range(per_epoch):
            adapted.train()
            picked = order[batch * optim.batch_size : (batch + 1) * optim.batch_size]
            images = deck.images(picked, None if mirrored is None else mirrored[picked])
            target = labels[torch.from_numpy(picked).to(deck.device)]
            rate = learning_rate(step, steps, optim)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast(deck.device.type, torch.bfloat16, enabled=bf16):
                pooled = adapted.clip.model.vision_model(pixel_values=images).pooler_output
                logits = adapted.head(adapted.clip.model.visual_projection(pooled))
            loss = cross_entropy(logits.float(), target)
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
