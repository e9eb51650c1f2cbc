"""Compose one run: prepare, measure the backbone, adapt, train, measure, save, record."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from clipdrift.adapt import Adapted, adapt, effective_weights
from clipdrift.config import RunConfig
from clipdrift.data.splits import balanced
from clipdrift.measure import (
    ATTENTION,
    Internals,
    accuracy,
    drift,
    read_internals,
    representation,
    weights,
    zero_shot_accuracy,
)
from clipdrift.record import Backbone, ModelFacts, Point, Record, Transfer, Values, environment
from clipdrift.reporter import Reporter, Silent
from clipdrift.stage import Stage, pick_device, prepare, resolve
from clipdrift.store import RunFolder, Store
from clipdrift.train import Diverged, Moment, train

WEIGHTS = "model"
"""Folder of the saved weights inside a run's folder."""


class InactiveAdapterError(Exception):
    """Weights changed but no embedding did, or the reverse: what is measured is not what was trained."""


def run(
    config: RunConfig,
    out: Path,
    *,
    cache: Path,
    device: str = "auto",
    reporter: Reporter | None = None,
    save: bool = True,
) -> tuple[Record, RunFolder]:
    """Do one run, or return its record where it is done already.

    Args:
        config: what to do.
        out: folder of runs; this one goes to ``out/<key>``.
        cache: where decoded images are kept, shared by all runs.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        reporter: told how it goes.
        save: write the adapted weights of the chosen epoch.

    Raises:
        ConfigError, ModelError, DataError, MeasureError, InactiveAdapterError: in one line what is wrong.
    """
    config = resolve(config)
    folder = Store(out).folder(config.key)
    if folder.finished:
        return folder.record(), folder
    place = pick_device(device)
    reporter = reporter or Silent()
    clock = _Clock()
    with clock("prepare"):
        stage = prepare(config, cache, place, reporter)
    folder.begin(config)
    with clock("backbone"):
        reporter.stage("measuring the backbone")
        observer = Observer.of(stage, config)
        backbone = observer.backbone()
    adapted = adapt(stage.clip, config.method, len(stage.target.classes), config.seed)
    torch.manual_seed(config.seed)
    history: list[Point] = []
    status, reason, best, last, artefacts = "done", None, None, None, {}
    try:
        with clock("train"):
            snapshot = _train(stage, config, adapted, observer, history, folder, reporter)
    except Diverged as error:
        status, reason = "diverged", str(error)
    else:
        with clock("final"):
            reporter.stage("testing the last and the chosen epoch")
            chosen = max((p for p in history if p.ends_epoch), key=lambda p: (p.validation_accuracy, -p.epoch))
            last = observer.final(adapted, history[-1])
            if chosen.epoch != last.epoch:
                adapted.restore(snapshot)
                best = observer.final(adapted, chosen)
            else:
                best = last
            tested = accuracy(adapted.clip.model, adapted.head, stage.test, config.evaluation.batch_size)
            best = best.model_copy(update={"test_accuracy": tested})
        if save:
            with clock("save"):
                reporter.stage("saving")
                adapted.save(folder.path / WEIGHTS)
                artefacts = {"kind": adapted.artefact, "weights": WEIGHTS, "head": f"{WEIGHTS}/head.safetensors"}
    record = Record(
        key=config.key,
        status=status,
        reason=reason,
        config=config,
        environment=environment(_device_name(place)),
        model=observer.facts(adapted),
        target=stage.target,
        transfer={name: t.facts for name, t in stage.transfer.items()},
        units={name: m.unit for name, m in ATTENTION.items()},
        backbone=backbone,
        history=tuple(history),
        best=best,
        last=last,
        artefacts=artefacts,
        timings=clock.seconds,
    )
    folder.finish(record)
    return record, folder


def _train(
    stage: Stage,
    config: RunConfig,
    adapted: Adapted,
    observer: Observer,
    history: list[Point],
    folder: RunFolder,
    reporter: Reporter,
) -> dict[str, Tensor]:
    """Train to the end; fill ``history``; return the weights of the epoch best on validation."""
    reporter.stage("training")
    steps = math.ceil(len(stage.train) / config.optim.batch_size) * config.optim.epochs
    best, snapshot = -1.0, {}
    moments = train(
        adapted,
        stage.train,
        config.optim,
        seed=config.seed,
        flip=config.data.flip,
        bf16=uses_bf16(config, stage.device),
        moments=config.evaluation.per_epoch,
        on_step=lambda step, loss: reporter.step(step, steps, loss),
    )
    for moment in moments:
        point = observer.look(adapted, moment)
        history.append(point)
        folder.note(point)
        reporter.point(point)
        if point.validation_accuracy is not None and point.validation_accuracy > best:
            best, snapshot = point.validation_accuracy, adapted.snapshot()
    return snapshot


def uses_bf16(config: RunConfig, device: torch.device) -> bool:
    """Whether training autocasts to bfloat16: as asked, or on a GPU that has it."""
    if config.optim.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.optim.precision == "bf16"


@dataclass(frozen=True, eq=False)
class Observer:
    """Looks at the model during one run; holds the backbone's side of every comparison."""

    stage: Stage
    config: RunConfig
    internals: Internals
    weights: dict[str, Tensor]
    zero_shot: dict[str, float]
    part_zero_shot: dict[str, float]

    @classmethod
    def of(cls, stage: Stage, config: RunConfig) -> Observer:
        """Measure the backbone; to be called before anything is adapted."""
        model, size = stage.clip.model, config.evaluation.batch_size
        return cls(
            stage=stage,
            config=config,
            internals=read_internals(model, stage.probe, size),
            weights={k: v.detach().to("cpu", copy=True) for k, v in effective_weights(model).items()},
            zero_shot=_zero_shot(stage, size),
            part_zero_shot=_zero_shot(stage, size, config.evaluation.epoch_transfer_per_class, config.data.seed),
        )

    def backbone(self) -> Backbone:
        values = {name: _values(self.internals.blocks(name)) for name in ATTENTION}
        return Backbone(measures=values, zero_shot=self.zero_shot)

    def facts(self, adapted: Adapted) -> ModelFacts:
        clip = self.stage.clip
        return ModelFacts(
            blocks=clip.blocks,
            heads=clip.heads,
            patches=clip.patches,
            width=clip.width,
            parameters=sum(w.numel() for w in self.weights.values()),
            trained=sum(p.numel() for _, p in adapted.parameters()),
        )

    def look(self, adapted: Adapted, moment: Moment) -> Point:
        """Measure internals now and, at an epoch's end, validation accuracy."""
        size = self.config.evaluation.batch_size
        validation = None
        part: dict[str, Transfer] = {}
        adapted.eval()
        if moment.ends_epoch:
            validation = accuracy(adapted.clip.model, adapted.head, self.stage.validation, size)
            per_class = self.config.evaluation.epoch_transfer_per_class
            now = _zero_shot(self.stage, size, per_class, self.config.data.seed)
            part = _retention(now, self.part_zero_shot)
        return Point(
            epoch=moment.epoch,
            step=moment.step,
            ends_epoch=moment.ends_epoch,
            learning_rate=moment.learning_rate,
            train_loss=moment.loss,
            train_accuracy=moment.accuracy,
            validation_accuracy=validation,
            measures=self.measure(adapted),
            transfer=part,
        )

    def measure(self, adapted: Adapted) -> dict[str, Values]:
        """Every measure of the model as it is now, with its drift; proves that adapters are active."""
        now = read_internals(adapted.clip.model, self.stage.probe, self.config.evaluation.batch_size)
        moved = weights(self.weights, effective_weights(adapted.clip.model))
        changed = moved["weight_drift"][0] > 0 or moved["weight_drift_projection"][0] > 0
        same = torch.equal(now.embedding, self.internals.embedding)
        if changed == same:
            what = "changed but no embedding did" if changed else "did not change but embeddings did"
            raise InactiveAdapterError(
                f"the image tower's weights {what}: what is measured is not the model that was trained"
            )
        values = {name: _values(now.blocks(name), self.internals.blocks(name)) for name in ATTENTION}
        values |= {name: _values(found) for name, found in representation(self.internals, now).items()}
        values["weight_drift"] = Values(
            mean=moved["weight_drift"][0], blocks=tuple(moved["weight_drift_blocks"])
        )
        values["weight_drift_projection"] = Values(mean=moved["weight_drift_projection"][0])
        return values

    def final(self, adapted: Adapted, point: Point) -> Point:
        """The point with zero-shot accuracy on the whole of every transfer set."""
        adapted.eval()
        now = _zero_shot(self.stage, self.config.evaluation.batch_size)
        return point.model_copy(update={"transfer": _retention(now, self.zero_shot)})


def _zero_shot(stage: Stage, batch_size: int, per_class: int | None = None, seed: int = 0) -> dict[str, float]:
    """Accuracy by set, through the model as it is; on all images, or a fixed balanced part (0: none)."""
    out = {}
    for name, transfer in stage.transfer.items():
        deck = transfer.deck
        if per_class == 0:
            continue
        if per_class is not None:
            deck = deck.subset(balanced(deck.labels, per_class, seed, classes=transfer.facts.classes))
        out[name] = zero_shot_accuracy(stage.clip.model, transfer.features, deck, batch_size)
    return out


def _retention(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, Transfer]:
    return {
        name: Transfer(accuracy=value, retention=100 * value / before[name] if before[name] else None)
        for name, value in now.items()
    }


def _values(blocks: object, backbone: object = None) -> Values:
    """Blocks' values with their mean; with the backbone's, their drift. One value stands for no blocks."""
    found = tuple(float(v) for v in blocks)  # type: ignore[attr-defined]
    mean = math.fsum(found) / len(found)
    shown = found if len(found) > 1 else ()
    if backbone is None:
        return Values(mean=mean, blocks=shown)
    change = drift(backbone, found)  # type: ignore[arg-type]
    return Values(
        mean=mean, blocks=shown, drift=change.mean, drift_blocks=change.blocks, absolute=change.absolute
    )


@dataclass(frozen=True)
class _Clock:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 3)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
