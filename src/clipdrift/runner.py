"""Compose one run: prepare, measure the backbone, adapt, train, measure, save, record."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from clipdrift.adapt import Adapted, Penalties, Setting, adapt, build
from clipdrift.config import RunConfig, load_config, parse_config
from clipdrift.listing import MEASURES
from clipdrift.measures import MeasureError, accuracy
from clipdrift.model.zero_shot import class_features
from clipdrift.observe import Observer, prove_trained
from clipdrift.record import DamagedRecordError, Point, Record, environment
from clipdrift.reporter import Reporter, Silent
from clipdrift.stage import Stage, pick_device, prepare, resolve
from clipdrift.store import WEIGHTS, RunFolder, Store, cache_folder
from clipdrift.training import Diverged
from clipdrift.training import train as training


def run(
    config: RunConfig,
    out: Path,
    *,
    cache: Path,
    device: str = "auto",
    reporter: Reporter | None = None,
    save: bool = True,
    again: bool = False,
) -> tuple[Record, RunFolder]:
    """Do one run, or return its record where it is done already.

    Args:
        config: what to do.
        out: folder of runs; this one goes to ``out/<key>``.
        cache: where decoded images are kept, shared by all runs.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        reporter: told how it goes.
        save: write the adapted weights of the chosen epoch.
        again: do it even where it is done already; its record is replaced.

    Raises:
        ConfigError, ModelError, DataError, MeasureError, InactiveAdapterError: in one line what is wrong.
    """
    config = resolve(config)
    folder = Store(out).folder(config.key)
    if folder.finished and not again:
        with suppress(DamagedRecordError):  # a damaged record is no record: the run is repeated
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
    classes, prompts = stage.target.classes, stage.target.prompts[:1]
    features = class_features(stage.clip, classes, prompts) if config.penalty else None  # the backbone's
    texts = tuple(prompts[0].format(name) for name in classes)
    adapted = adapt(stage.clip, config.method, len(classes), config.seed, texts)
    penalties = None
    if features is not None:
        entropies = tuple(observer.internals.blocks("entropy").tolist())
        penalties = build(config.penalty, Setting(adapted, entropies, features))
    torch.manual_seed(config.seed)
    history: list[Point] = []
    status: Literal["done", "diverged"] = "done"
    reason: str | None = None
    best: Point | None = None
    last: Point | None = None
    artefacts: dict[str, str] = {}
    try:
        with clock("train"):
            _probe_first(stage, config, adapted, reporter)
            snapshot = _train(stage, config, adapted, observer, penalties, history, folder, reporter)
    except (Diverged, MeasureError) as error:  # the backbone could be measured: training broke the model
        status, reason = "diverged", str(error)
    else:
        with clock("final"):
            reporter.stage("testing the last and the chosen epoch")
            chosen = max(
                (p for p in history if p.ends_epoch), key=lambda p: (p.validation_accuracy, -p.epoch)
            )
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
                artefacts = {
                    "kind": adapted.artefact,
                    "weights": WEIGHTS,
                    "head": f"{WEIGHTS}/head.safetensors",
                }
    record = Record(
        key=config.key,
        status=status,
        reason=reason,
        config=config,
        environment=environment(_device_name(place)),
        model=observer.facts(adapted),
        target=stage.target,
        transfer={name: t.facts for name, t in stage.transfer.items()},
        units={name: entry.unit for name, entry in MEASURES.items()},
        backbone=backbone,
        history=tuple(history),
        best=best,
        last=last,
        artefacts=artefacts,
        timings=clock.seconds,
    )
    folder.finish(record)
    return record, folder


def train(
    config: RunConfig | Mapping[str, Any] | str | Path,
    out: str | Path = "runs",
    *,
    cache: str | Path | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
    again: bool = False,
) -> Record:
    """Fine-tune once: :func:`run` for callers outside the package, and what `clipdrift train` does.

    Args:
        config: a RunConfig, its content as a dictionary, or a TOML file.
        out: folder of runs.
        cache: where decoded images are kept; default `~/.cache/clipdrift` or $CLIPDRIFT_CACHE.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        reporter: told how it goes.
        again: repeat a run that is done already.

    Returns:
        The record; it also lies in ``out/<key>/record.json``, the weights beside it.
    """
    if isinstance(config, str | Path):
        config = load_config(config)
    elif not isinstance(config, RunConfig):
        config = parse_config(config, RunConfig)
    place = cache_folder(None if cache is None else Path(cache))
    return run(config, Path(out), cache=place, device=device, reporter=reporter, again=again)[0]


def _probe_first(stage: Stage, config: RunConfig, adapted: Adapted, reporter: Reporter) -> None:
    """For lp_ft: the head alone, on embeddings of the untouched tower, before all is trained."""
    if adapted.probe_first is None:
        return
    epochs, rate = adapted.probe_first
    reporter.stage(f"the head alone, {epochs} epochs")
    optim = config.optim.model_copy(update={"epochs": epochs, "learning_rate": rate})
    steps = math.ceil(len(stage.train) / optim.batch_size) * epochs
    with adapted.head_alone():
        for _ in training(
            adapted,
            stage.train,
            optim,
            seed=config.seed,
            flip=config.data.flip,
            bf16=uses_bf16(config, stage.device),
            on_keep=reporter.advance,
            on_step=lambda step, loss: reporter.step(step, steps, loss),
        ):
            pass


def _train(
    stage: Stage,
    config: RunConfig,
    adapted: Adapted,
    observer: Observer,
    penalties: Penalties | None,
    history: list[Point],
    folder: RunFolder,
    reporter: Reporter,
) -> dict[str, Tensor]:
    """Train to the end; fill ``history``; return the weights of the epoch best on validation."""
    reporter.stage("training")
    steps = math.ceil(len(stage.train) / config.optim.batch_size) * config.optim.epochs
    best, snapshot = -1.0, {}
    moments = training(
        adapted,
        stage.train,
        config.optim,
        seed=config.seed,
        flip=config.data.flip,
        bf16=uses_bf16(config, stage.device),
        moments=config.evaluation.per_epoch,
        penalties=penalties,
        on_keep=reporter.advance,
        on_step=lambda step, loss: reporter.step(step, steps, loss),
    )
    for moment in moments:
        point = observer.look(adapted, moment)
        history.append(point)
        folder.note(point)
        reporter.point(point)
        if point.validation_accuracy is not None and point.validation_accuracy > best:
            best, snapshot = point.validation_accuracy, adapted.snapshot()
    prove_trained(adapted)
    return snapshot


def uses_bf16(config: RunConfig, device: torch.device) -> bool:
    """Whether training autocasts to bfloat16: as asked, or on a GPU that has it."""
    if config.optim.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.optim.precision == "bf16"


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
