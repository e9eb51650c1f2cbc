"""The one training loop. It knows no measure, method or penalty by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from clipdrift.adapt import Adapted
from clipdrift.adapt.feed import Feed
from clipdrift.adapt.penalties import Penalties
from clipdrift.adapt.reference import Reference, Wants
from clipdrift.config import OptimConfig
from clipdrift.data.deck import Deck
from clipdrift.training.progress import Moment, Progress

__all__ = ["Diverged", "Moment", "Progress", "learning_rate", "train_model"]


class Diverged(Exception):  # noqa: N818 - an outcome, not a mistake
    """The loss or its gradient became nan or inf."""

    def __init__(self, epoch: int, step: int, what: str) -> None:
        super().__init__(
            f"{what} is not finite at step {step} (epoch {epoch}); a lower optim.learning_rate may help"
        )
        self.epoch, self.step = epoch, step


def learning_rate(step: int, steps: int, optim: OptimConfig) -> float:
    """The rate of step ``step`` (from 0) of ``steps``: linear warm-up, then cosine to zero."""
    warm = math.ceil(optim.warmup * steps)
    if step < warm:
        return optim.learning_rate * (step + 1) / warm
    return optim.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def train_model(
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
    progress: Progress | None = None,
    pause: Callable[[], None] = lambda: None,
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
        progress: follows the training; with a saved state it goes on from there, on the CPU bit for bit.
            ``adapted`` must then be as it was before its first step.
        pause: called after each step, where ``progress`` may be put aside, or the training ended by raising.

    Raises:
        Diverged: nan or inf in the loss or gradient; the weights are those before that step.
        ValueError: micro-batches for a loss that is no mean over images.
    """
    progress = progress or Progress()
    if (optim.micro_batch or math.inf) < optim.batch_size and not adapted.objective.mean_over_images:
        raise ValueError("this loss couples the images of a batch, which cannot be done in parts")
    named = list(adapted.parameters())
    parameters = [p for _, p in named]
    optimizer = torch.optim.AdamW(
        [{"params": [p for n, p in named if adapted.rate(n) == r], "ratio": r} for r in _rates(adapted)],
        lr=optim.learning_rate,
        weight_decay=optim.weight_decay,
    )
    steps = math.ceil(len(deck) / optim.batch_size) * optim.epochs
    begins = progress.begins
    keep = optim.keep_frozen and begins < steps
    feed = Feed.of(adapted, deck, flip=flip, keep=keep, progress=on_keep)
    reference = Reference(adapted, deck, penalties.wants) if penalties else None
    wants = penalties.wants if penalties else Wants()
    labels = torch.from_numpy(deck.labels).to(deck.device)
    progress.start(adapted, optimizer)  # now, as the lines above need the model before its first step
    if progress.due:
        yield progress.taken()
    for batch in _batches(len(deck), optim, seed, flip, moments):
        if batch.step < begins:
            if reference:
                for part in batch.parts(optim.micro_batch):
                    reference.expect(*part)
            continue
        adapted.train()
        rate = learning_rate(batch.step, steps, optim)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["ratio"]
        optimizer.zero_grad()
        if batch.begins_epoch:
            progress.begin_epoch()
        losses = 0.0
        for picked, mirrored in batch.parts(optim.micro_batch):
            target = labels[torch.from_numpy(picked).to(deck.device)]
            with torch.autocast(deck.device.type, torch.bfloat16, enabled=bf16):
                traced = feed.forward(picked, mirrored, rows=wants.rows)
                loss, logits = adapted.objective(adapted.head, traced.embedding, target)
            if penalties and reference:
                loss = loss + penalties(traced, feed.first_block, reference.of(picked, mirrored))
            if not torch.isfinite(loss):
                raise Diverged(batch.epoch, batch.step + 1, "the loss")
            (loss * (len(picked) / len(batch.picked))).backward()
            losses += progress.count(loss, logits, target)
        norm = torch.nn.utils.clip_grad_norm_(parameters, optim.clip_norm or math.inf)
        if not torch.isfinite(norm):
            raise Diverged(batch.epoch, batch.step + 1, "the gradient")
        optimizer.step()
        progress.end_step(batch.epoch, batch.ends_epoch, rate, look=batch.look)
        on_step(progress.step, losses / len(batch.picked))
        pause()
        if progress.due:
            yield progress.taken()


@dataclass(frozen=True, eq=False)
class _Batch:
    """The images of one step: ``step`` counts from 0, ``look`` is whether the caller looks after it."""

    epoch: int
    step: int
    picked: NDArray[np.int64]
    mirrored: NDArray[np.bool_]
    begins_epoch: bool
    ends_epoch: bool
    look: bool

    def parts(self, most: int | None) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """Yield the images and which of them are mirrored, in parts that fit into memory."""
        size = most or len(self.picked)
        for start in range(0, len(self.picked), size):
            yield self.picked[start : start + size], self.mirrored[start : start + size]


def _batches(count: int, optim: OptimConfig, seed: int, flip: bool, moments: int) -> Iterator[_Batch]:
    """Yield all steps of a training on ``count`` images."""
    size = optim.batch_size
    per_epoch = math.ceil(count / size)
    stops = {math.ceil(per_epoch * (k + 1) / moments) for k in range(moments)}
    for epoch in range(1, optim.epochs + 1):
        rng = np.random.default_rng([seed, epoch])  # an epoch's order depends on nothing before it
        order = rng.permutation(count)
        mirrored = rng.random(count) < 0.5 if flip else np.zeros(count, bool)
        for number in range(per_epoch):
            picked = order[number * size : (number + 1) * size]
            yield _Batch(
                epoch,
                (epoch - 1) * per_epoch + number,
                picked,
                mirrored[picked],
                begins_epoch=number == 0,
                ends_epoch=number + 1 == per_epoch,
                look=number + 1 in stops,
            )


def _rates(adapted: Adapted) -> list[float]:
    """The learning rates that occur, relative to the configured one."""
    return sorted({adapted.rate(name) for name, _ in adapted.parameters()})
