"""The first steps of a training at each candidate rate, by the training's own loop, and what they move."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipdrift import formulas
from clipdrift.accelerator import forked_devices
from clipdrift.adapt import Adapted, adapt
from clipdrift.adapt.feed import Feed
from clipdrift.adapt.tower_parts import TowerParts
from clipdrift.config import OptimConfig
from clipdrift.config.methods import Method
from clipdrift.data.deck import Deck
from clipdrift.forecasting.result import FirstStep, ForecastError, Gradient
from clipdrift.measures import embed
from clipdrift.model.clip import Clip
from clipdrift.runs.reporter import Reporter
from clipdrift.training.ledger import NotFiniteLossError
from clipdrift.training.loop import Diverged, train_model
from clipdrift.training.order import Order
from clipdrift.training.step import Gradients


@dataclass(frozen=True, eq=False)
class Trial:
    """What first steps are taken on and read on.

    Attributes:
        stepped: labelled images that a step is taken on.
        held_out: others of the target.
        transfer: images of each transfer set.
        texts: a prompt for each class.
        draws: seeds of head, order and adapters, one after the other from ``seed`` on.
        weight_decay: of AdamW.
        images: for a pass in which embeddings are read.
    """

    stepped: Deck
    held_out: Deck
    transfer: Mapping[str, Deck]
    texts: tuple[str, ...]
    method: Method
    steps: int
    draws: int
    batch_size: int
    seed: int
    weight_decay: float
    images: int | None

    def optim(self, rate: float) -> OptimConfig:
        """As a training of 20 epochs at its peak rate: the first step has the whole of it."""
        return OptimConfig(
            learning_rate=rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            warmup=0,
            precision="fp32",
            keep_frozen=False,
        )


@dataclass(frozen=True)
class _Drift:
    """After the steps of one draw: on the held-out images, and on each transfer set."""

    drift: float
    cka_loss: float
    transfer: dict[str, float]


def first_steps(
    clip: Clip, trial: Trial, rates: Sequence[float], reporter: Reporter
) -> tuple[list[FirstStep], Gradient]:
    """Take the steps at each rate from the same start, on a copy of the model.

    Raises:
        ForecastError: a method whose first steps move no embedding, or that trains its head first; more steps
            than a training has; a loss that is no number before any step.
        ConfigError, ModelError: the method does not go with the model.
    """
    before = {name: embed(clip.model, deck, trial.images) for name, deck in _decks(trial).items()}
    found: dict[float, list[_Drift | None]] = {rate: [] for rate in rates}
    norms: list[list[float]] = []
    done, total = 0, trial.draws * len(rates)
    device = next(clip.model.parameters()).device
    with torch.random.fork_rng(devices=forked_devices(device)):
        for draw in range(trial.draws):
            adapted = _adapted(clip, trial, trial.seed + draw)
            start = adapted.snapshot()
            norms.append(_gradient_norms(adapted, trial, trial.seed + draw))
            for rate in rates:
                found[rate].append(_after(adapted, trial, rate, trial.seed + draw, before))
                adapted.restore(start)
                done += 1
                reporter.advance(done, total)
    return [_summed(rate, drifts) for rate, drifts in found.items()], _gradient(norms)


def _decks(trial: Trial) -> dict[str, Deck]:
    return {"": trial.held_out, **trial.transfer}


def _adapted(clip: Clip, trial: Trial, seed: int) -> Adapted:
    """A copy of the model, prepared as a run with this seed prepares it."""
    model, texts = copy.deepcopy((clip.model, clip.texts))  # peft changes the very object that it is given
    adapted = adapt(
        replace(clip, model=model, texts=texts), trial.method, len(trial.texts), seed, trial.texts
    )
    if adapted.constant_embedding:
        raise ForecastError(
            f"method {trial.method.name} trains nothing of the image tower, so no rate moves an embedding"
        )
    if adapted.head_warmup is not None:
        raise ForecastError(
            f"method {trial.method.name} trains its head alone first; its first steps tell nothing: forecast "
            "full_ft, which it goes on as"
        )
    return adapted


def _after(
    adapted: Adapted, trial: Trial, rate: float, seed: int, before: Mapping[str, Tensor]
) -> _Drift | None:
    """Drift after the steps at one rate; None where they broke the model."""
    optim = trial.optim(rate)
    order = Order.of(len(trial.stepped), optim)
    if trial.steps > order.steps:
        raise ForecastError(
            f"{trial.steps} steps: a training on these images has {order.steps}; ask for fewer"
        )
    torch.manual_seed(seed)  # dropout
    every = order.looks(order.per_epoch)
    training = train_model(adapted, trial.stepped, optim, seed=seed, flip=True, looks=every, order=order)
    model = adapted.clip.model
    try:
        for _ in islice(training, trial.steps):  # it yields after each step
            pass
        after = {name: embed(model, deck, trial.images) for name, deck in _decks(trial).items()}
        drifts = {name: float(formulas.embedding_drift(before[name], after[name])) for name in after}
        loss = 1 - float(formulas.cka(before[""], after[""]))
    except (Diverged, ValueError):  # an embedding is no number, or the same for every image
        return None
    finally:
        adapted.clip.model.zero_grad()
    return _Drift(drifts.pop(""), loss, drifts)


def _gradient_norms(adapted: Adapted, trial: Trial, seed: int) -> list[float]:
    """Norm over all that is trained of the image tower, of its projection, and of each block."""
    batch = next(Order.of(len(trial.stepped), trial.optim(1.0)).batches(seed, flip=True))
    labels = torch.from_numpy(trial.stepped.labels[batch.picked]).to(trial.stepped.device)
    torch.manual_seed(seed)
    adapted.train()
    gradients = Gradients(adapted, Feed(adapted, trial.stepped, None), None, None, bf16=False)
    try:
        for _ in gradients.of([(batch.picked, batch.mirrored)], labels):
            pass
    except NotFiniteLossError:
        raise ForecastError(
            "the loss is no number before any step; the model or the images are broken"
        ) from None
    parts = TowerParts.of(adapted.clip, "image")
    places = [parts.layout.whole, parts.layout.projection, *((block,) for block in parts.layout.blocks)]
    found = [_norm([p for _, p in parts.parameters(place)]) for place in places]
    adapted.clip.model.zero_grad()
    return found


def _norm(parameters: Sequence[Any]) -> float:
    """Of the gradients of some parameters together."""
    grads = [p.grad for p in parameters if p.grad is not None]
    return math.sqrt(sum(float(grad.double().square().sum()) for grad in grads))


def _gradient(norms: Sequence[Sequence[float]]) -> Gradient:
    table = np.array(norms)
    total, projection, *blocks = table.mean(0).tolist()
    return Gradient(total=total, spread=float(table[:, 0].std()), projection=projection, blocks=tuple(blocks))


def _summed(rate: float, drifts: Sequence[_Drift | None]) -> FirstStep:
    whole = [one for one in drifts if one is not None]
    broken = len(drifts) - len(whole)
    sets = whole[0].transfer if whole else {}
    return FirstStep(
        rate=rate,
        drift=None if broken else float(np.mean([one.drift for one in whole])),
        drift_draws=tuple(one.drift for one in whole),
        cka_loss=None if broken else float(np.mean([one.cka_loss for one in whole])),
        transfer_drift={}
        if broken
        else {n: float(np.mean([one.transfer[n] for one in whole])) for n in sets},
        broken=broken,
    )
