"""Train a run from where its course stands to the end, measuring and saving on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from clipdrift import accelerator
from clipdrift.adapt import Adapted, Penalties
from clipdrift.adapt.objective import NoLoss
from clipdrift.adapt.pairs import PairLoss
from clipdrift.config import ContrastiveObjective, OptimConfig, RunConfig
from clipdrift.runs.reporter import Reporter
from clipdrift.runs.store import RunFolder
from clipdrift.training.choice import score, takes_last
from clipdrift.training.course import CheckpointWriter
from clipdrift.training.judging import Judge
from clipdrift.training.loop import train_model
from clipdrift.training.memory import out_of_memory_guard
from clipdrift.training.observer import RunObserver, prove_trained
from clipdrift.training.order import Order
from clipdrift.training.preparation import RunInputs
from clipdrift.training.progress import Moment, Progress


def fit(
    inputs: RunInputs,
    config: RunConfig,
    adapted: Adapted,
    observer: RunObserver,
    penalties: Penalties | None,
    judge: Judge,
    keeper: CheckpointWriter,
    folder: RunFolder,
    reporter: Reporter,
) -> None:
    """Train to the end. The course then has the whole history, and the weights of the best epoch.

    Args:
        adapted: as it was before its first step; ``keeper.course`` says where it goes on.

    Raises:
        Diverged, MeasureError: training broke the model.
        Interrupted: asked to stop; there is a checkpoint.
        OutOfMemoryError: what to set is in its message.
    """
    with keeper.asked.soon(), out_of_memory_guard(config, inputs.device, "training"):
        if keeper.course.phase == "head":
            _head_alone(inputs, config, adapted, keeper, reporter)
            keeper.course.phase, keeper.course.progress = "all", Progress()
        _all(inputs, config, adapted, observer, penalties, judge, keeper, folder, reporter)


def _head_alone(
    inputs: RunInputs, config: RunConfig, adapted: Adapted, keeper: CheckpointWriter, reporter: Reporter
) -> None:
    """Train the head alone first (lp_ft), on embeddings of the untouched tower."""
    if adapted.head_warmup is None:
        return
    epochs, rate = adapted.head_warmup
    reporter.stage(f"the head alone, {epochs} epochs")
    optim = config.optim.model_copy(update={"epochs": epochs, "learning_rate": rate})
    with adapted.head_alone():
        for _ in _moments(inputs, config, optim, adapted, keeper, reporter):
            pass


def _all(
    inputs: RunInputs,
    config: RunConfig,
    adapted: Adapted,
    observer: RunObserver,
    penalties: Penalties | None,
    judge: Judge,
    keeper: CheckpointWriter,
    folder: RunFolder,
    reporter: Reporter,
) -> None:
    if isinstance(adapted.objective, PairLoss) and config.optim.keep_frozen and not adapted.trains_texts:
        reporter.stage("embedding captions")
        adapted.objective.keep_texts(_waiting(reporter, keeper))
    reporter.stage("training")
    course = keeper.course
    looks = order_of(inputs, config, config.optim).looks(config.evaluation.per_epoch, config.evaluation.at)
    for moment in _moments(inputs, config, config.optim, adapted, keeper, reporter, looks, penalties):
        with out_of_memory_guard(config, inputs.device, "measuring"):
            point = observer.look(adapted, moment)
            if judge.judge(point):
                course.progress.ended = True
                if not moment.ends_epoch:  # its epoch ends here: it may be chosen, and is validated for that
                    point = observer.look(adapted, replace(moment, ends_epoch=True))
        course.history.append(point)
        folder.note(point)
        reporter.point(point)
        if point.ends_epoch:
            found = score(point, config.evaluation, judge.demands, latest=takes_last(config))
            if found > course.best:
                course.best, course.snapshot = found, adapted.snapshot()
        keeper.looked(point.ends_epoch)
    prove_trained(adapted, course.progress.trained())


def _moments(
    inputs: RunInputs,
    config: RunConfig,
    optim: OptimConfig,
    adapted: Adapted,
    keeper: CheckpointWriter,
    reporter: Reporter,
    looks: Set[int] | None = None,
    penalties: Penalties | None = None,
) -> Iterator[Moment]:
    objective = adapted.objective
    targets: Callable[[int], NDArray[np.int64]] | None = None
    if isinstance(objective, PairLoss):
        targets = partial(objective.targets, config.seed)
    elif isinstance(objective, NoLoss):
        targets = lambda epoch: objective.targets(len(inputs.train))  # noqa: E731
    order = order_of(inputs, config, optim)
    per_epoch, steps = order.per_epoch, order.steps
    return train_model(
        adapted,
        inputs.train,
        optim,
        seed=config.seed,
        flip=config.data.flip,
        bf16=uses_bf16(config, inputs.device),
        looks=looks,
        targets=targets,
        order=order,
        on_step=lambda step, loss: reporter.step(step, steps, loss),
        on_keep=_waiting(reporter, keeper),
        penalties=penalties,
        progress=keeper.course.progress,
        pause=lambda: keeper.pause(steps, per_epoch),
    )


def order_of(inputs: RunInputs, config: RunConfig, optim: OptimConfig) -> Order:
    """The order of a run's training images."""
    objective, pairs = config.objective, inputs.pairs
    if pairs is None or not isinstance(objective, ContrastiveObjective):
        return Order.of(len(inputs.train), optim)
    return Order.of(len(inputs.train) - pairs.replayed, optim, pairs.replayed, objective.replay_share)


def _waiting(reporter: Reporter, keeper: CheckpointWriter) -> Callable[[int, int], None]:
    """Progress of what is computed once before training; it can be stopped."""

    def told(done: int, total: int) -> None:
        reporter.advance(done, total)
        keeper.waits()

    return told


def uses_bf16(config: RunConfig, device: torch.device) -> bool:
    """Whether training autocasts to bfloat16: as asked, or on a GPU that has it."""
    if config.optim.precision == "auto":
        return accelerator.has_bf16(device)
    return config.optim.precision == "bf16"
