"""The one training loop. It knows no measure, method or penalty by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Set
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdrift import accelerator
from clipdrift.adapt import Adapted
from clipdrift.adapt.feed import Feed
from clipdrift.adapt.objective import Coupled
from clipdrift.adapt.penalties import Penalties
from clipdrift.adapt.reference import Reference
from clipdrift.adapt.text_penalties import TextReference
from clipdrift.config import OptimConfig
from clipdrift.data.deck import Deck
from clipdrift.training.ledger import Diverged, Ledger, NotFiniteLossError
from clipdrift.training.order import Order
from clipdrift.training.progress import Moment, Progress
from clipdrift.training.step import Gradients

__all__ = ["Diverged", "Moment", "Progress", "learning_rate", "train_model"]


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
    looks: Set[int] | None = None,
    targets: Callable[[int], NDArray[np.int64]] | None = None,
    order: Order | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    on_keep: Callable[[int, int], None] | None = None,
    penalties: Penalties | None = None,
    progress: Progress | None = None,
    pause: Callable[[], None] = lambda: None,
    deferred: bool | None = None,
) -> Iterator[Moment]:
    """Train with AdamW; yield after each of ``looks``.

    Between moments the caller may run the model in eval mode and read anything; training mode is set again.

    Args:
        adapted: model and head, what of them is trained, and the loss.
        deck: the training images.
        optim: rate, schedule, epochs, batch size, clipping.
        seed: of the order of images and of the flips; dropout uses torch's global generator.
        flip: mirror half of the images at random.
        bf16: autocast the forward pass to bfloat16.
        looks: steps, counted from 1, of :meth:`Order.looks`; none: the end of each epoch.
        targets: (n,) what the loss is told of each image, by epoch; none: the labels.
        order: of the images; none: all of them, in batches.
        on_step: called with steps done and the loss.
        on_keep: told how many images have gone through the frozen blocks, mirror images counted.
        penalties: added to the loss.
        progress: follows the training; with a saved state it goes on from there, on the CPU bit for bit.
            ``adapted`` must then be as it was before its first step. At a moment the caller may lower its
            ``factor`` of the rates, or end the training.
        pause: called after each step whose numbers are read, where ``progress`` may be put aside, or the
            training ended by raising.
        deferred: read numbers from the device some steps at a time (:class:`Ledger`), at least once a second
            and before each moment; none: on a GPU. ``on_step`` hears of each step then.

    Raises:
        Diverged: nan or inf in the loss or gradient; the weights are those before that step.
        ValueError: micro-batches for a loss that is no mean over images.
    """
    progress = progress or Progress()
    objective = adapted.objective
    if (optim.micro_batch or math.inf) < optim.batch_size and not (
        objective.mean_over_images or isinstance(objective, Coupled)
    ):
        raise ValueError("this loss couples the images of a batch, which cannot be done in parts")
    named = list(adapted.parameters())
    parameters = [p for _, p in named]
    deferred = accelerator.works_ahead(deck.device) if deferred is None else deferred
    fused: dict[str, Any] = {"fused": True} if deferred else {}
    optimizer = torch.optim.AdamW(
        [{"params": [p for n, p in named if adapted.rate(n) == r], "ratio": r} for r in _rates(adapted)],
        lr=optim.learning_rate,
        weight_decay=optim.weight_decay,
        **fused,
    )
    ledger = Ledger(deck.device, deferred)
    order = order or Order.of(len(deck), optim)
    steps = order.steps
    begins = progress.begins
    keep = optim.keep_frozen and not progress.over(steps)
    feed = Feed.of(adapted, deck, flip=flip, keep=keep, progress=on_keep)
    reference = Reference(adapted, deck, penalties.wants) if penalties else None
    texts = TextReference(adapted) if penalties and penalties.compares_texts else None
    gradients = Gradients(adapted, feed, penalties, reference, bf16, texts, ledger.check)
    told: Tensor | None = None
    progress.start(adapted, optimizer)  # now, as the lines above need the model before its first step
    if progress.due:
        yield progress.taken()
    for batch in order.batches(seed, flip, looks):
        if progress.ended:
            return
        if batch.step < begins:
            if reference:
                for part in batch.parts(optim.micro_batch):
                    reference.expect(*part)
            continue
        adapted.train()
        rate = progress.factor * learning_rate(batch.step, steps, optim)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["ratio"]
        optimizer.zero_grad()
        if batch.begins_epoch:
            progress.begin_epoch()
        if told is None or batch.begins_epoch:
            told = torch.from_numpy(targets(batch.epoch) if targets else deck.labels).to(deck.device)
        ledger.begin(batch.epoch, batch.step + 1)
        try:
            parts = list(batch.parts(optim.micro_batch))
            for loss, right in gradients.of(parts, told[torch.from_numpy(batch.picked).to(deck.device)]):
                ledger.part(loss, right)
        except NotFiniteLossError:
            raise Diverged(batch.epoch, batch.step + 1, "the loss") from None
        ledger.gradient(torch.nn.utils.clip_grad_norm_(parameters, optim.clip_norm or math.inf))
        ledger.guard(optimizer)
        optimizer.step()
        read = batch.look or batch.ends_epoch or ledger.due
        done = list(ledger.read()) if read else []
        for step in done:
            progress.count(step)
        progress.end_step(batch.epoch, batch.ends_epoch, rate, look=batch.look)
        for step in done:
            on_step(
                step.number, sum(part.loss for part in step.parts) / sum(part.images for part in step.parts)
            )
        if read:
            pause()
        if progress.due:
            yield progress.taken()


def _rates(adapted: Adapted) -> list[float]:
    """The learning rates that occur, relative to the configured one."""
    return sorted({adapted.rate(name) for name, _ in adapted.parameters()})
