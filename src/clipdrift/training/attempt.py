"""One attempt at a run: prepare, measure the backbone, adapt, train, measure, save, record."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from clipdrift import accelerator
from clipdrift.adapt import Adapted
from clipdrift.adapt.entropy_pull import capped_aims
from clipdrift.config import RunConfig
from clipdrift.listing import MEASURES
from clipdrift.measures import MeasureError
from clipdrift.outcomes.chance import chance_note
from clipdrift.runs.files import replace_folder, storage
from clipdrift.runs.layout import CHECKPOINT, HEAD, MANIFEST, MAPS, WEIGHTS
from clipdrift.runs.manifest import write_manifest
from clipdrift.runs.record import Backbone, DataFacts, Point, Record, Remark, environment
from clipdrift.runs.reporter import Reporter
from clipdrift.runs.signals import Stops
from clipdrift.runs.store import RunFolder
from clipdrift.training.adapting import adapted_for
from clipdrift.training.attention_samples import AttentionSamples
from clipdrift.training.checkpoint import CheckpointError
from clipdrift.training.choice import score, takes_last
from clipdrift.training.course import CheckpointSchedule, CheckpointWriter, Course
from clipdrift.training.fitting import fit
from clipdrift.training.judging import Judge, remark_at
from clipdrift.training.ledger import Diverged
from clipdrift.training.memory import out_of_memory_guard
from clipdrift.training.observer import RunObserver
from clipdrift.training.preparation import RunInputs, prepare

_WITHOUT_TASK = (
    "no task: penalties alone moved the model and training read no label; the last epoch is the chosen one, "
    "and accuracies are those of a head as it began"
)


@dataclass(frozen=True)
class AttemptOptions:
    """Everything a run is given besides its configuration."""

    folder: RunFolder
    cache: Path
    device: torch.device
    reporter: Reporter
    asked: Stops
    save: bool
    keep_checkpoint: bool
    schedule: CheckpointSchedule
    deterministic: bool = False


def attempt(config: RunConfig, job: AttemptOptions) -> Record:
    """Do the run from where its checkpoint stands to its record.

    Raises:
        ConfigError, ModelError, DataError, MeasureError, InactiveAdapterError: in one line what is wrong.
        Interrupted, OutOfMemoryError, StorageError: what was done is kept as far as the last checkpoint.
    """
    folder, reporter = job.folder, job.reporter
    clock = _Clock()
    with clock("prepare"):
        inputs = prepare(config, job.cache, job.device, reporter)
    course = _course(config, job)
    judge = Judge.of(config, inputs.clip.model, course, reporter)
    with clock("backbone"), out_of_memory_guard(config, job.device, "measuring"):
        reporter.stage("measuring the backbone")
        observer = RunObserver.of(inputs, config)
        backbone = observer.backbone()
        transfer = _transfer_facts(inputs, backbone, reporter)
        samples = AttentionSamples.of(inputs, config.evaluation.shown_images)
    entropies = observer.entropies
    capped = capped_aims(config.penalty, entropies, inputs.clip.patches)
    for note in capped:
        reporter.note(note)
    adapted, penalties = adapted_for(inputs, config, entropies)
    torch.manual_seed(config.seed)
    status: Literal["done", "diverged"] = "done"
    reason: str | None = None
    best: Point | None = None
    last: Point | None = None
    artefacts: dict[str, str] = {}
    remarks: list[Remark] = []
    keeper = CheckpointWriter(folder.path / CHECKPOINT, course, job.schedule, job.asked)
    try:
        with clock("train", course.seconds):
            fit(inputs, config, adapted, observer, penalties, judge, keeper, folder, reporter)
    except (Diverged, MeasureError) as error:  # the backbone could be measured: training broke the model
        status, reason = "diverged", str(error)
    else:
        remarks += [remark_at(course.history[-1], "note", note) for note in capped]
        with clock("final"), out_of_memory_guard(config, job.device, "measuring"):
            reporter.stage("testing the last and the chosen epoch")
            best, last, chosen = _test(config, adapted, observer, judge)
            remarks += chosen
        with clock("save"):
            if job.save:
                reporter.stage("saving")
                artefacts = _save(adapted, folder)
            if samples is not None:
                adapted.eval()
                samples.save(adapted.clip, folder.path / MAPS)
    record = Record(
        key=config.key,
        status=status,
        reason=reason,
        config=config,
        environment=_environment(job),
        model=observer.facts(adapted),
        target=inputs.target,
        transfer=transfer,
        units={name: entry.unit for name, entry in MEASURES.items()},
        backbone=backbone,
        history=tuple(course.history),
        best=best,
        last=last,
        artefacts=artefacts,
        timings=clock.seconds,
        remarks=(*course.remarks, *remarks),
    )
    folder.finish(record, job.keep_checkpoint)
    return record


def _environment(job: AttemptOptions) -> dict[str, Any]:
    found = environment(accelerator.name_of(job.device))
    return found | {"deterministic": True} if job.deterministic else found


def _transfer_facts(inputs: RunInputs, backbone: Backbone, reporter: Reporter) -> dict[str, DataFacts]:
    """Facts of the transfer sets; those on which the backbone only guesses carry a note, said here."""
    found = {}
    for name, part in inputs.transfer.items():
        facts, accuracy = part.facts, backbone.zero_shot[name]
        if note := chance_note(name, accuracy, facts.images["test"].count, len(facts.classes)):
            reporter.note(note)
            facts = facts.model_copy(update={"notes": (*facts.notes, note)})
        found[name] = facts
    return found


def _course(config: RunConfig, job: AttemptOptions) -> Course:
    """Restore where the run goes on, its folder brought to the same place; or start afresh."""
    folder, reporter = job.folder, job.reporter
    course = None
    try:
        course = Course.read(folder.path / CHECKPOINT, config.key)
    except CheckpointError as error:
        reporter.warn(f"{error}".removesuffix("; delete it to start again") + "; the training starts again")
    if course is None:
        folder.begin(config)
        return Course(config.key)
    if damage := folder.go_on(course.history):
        reporter.warn(damage)
    return course


def _test(
    config: RunConfig, adapted: Adapted, observer: RunObserver, judge: Judge
) -> tuple[Point, Point, list[Remark]]:
    """The chosen and the last epoch, tested, and what is to be said of the choice; the model is then that of
    the chosen one."""
    course, demands = judge.course, judge.demands
    history, rule, remarks = course.history, config.evaluation, []
    latest = takes_last(config)

    def rank(point: Point) -> float:
        return score(point, rule, demands, latest=latest)

    if latest:
        remarks.append(remark_at(history[-1], "note", _WITHOUT_TASK))
    chosen = max((p for p in history if p.ends_epoch), key=lambda p: (rank(p), -p.epoch))
    if rank(chosen) < 0:
        if demands:
            wanted = "; ".join(map(str, demands))
            enough = "" if rule.least_retention is None else " and evaluation.least_retention"
            text = f"no epoch meets keep_best_when ({wanted}){enough}; the one that comes closest is taken"
            remarks.append(remark_at(chosen, "note", text))
        else:
            least = f"{rule.least_retention:g} %"
            text = f"no epoch keeps {least} on every transfer set; the one that keeps most is taken"
        judge.reporter.warn(text)
    last = observer.final(adapted, history[-1])
    best = last
    if chosen.epoch != last.epoch:
        adapted.restore(course.snapshot)
        best = observer.final(adapted, chosen)
    return observer.tested(adapted, best), last, remarks


def _save(adapted: Adapted, folder: RunFolder) -> dict[str, str]:
    """Write the weights, moved into place when all are whole; what the record says of them."""
    place = folder.path / WEIGHTS
    part = place.with_name(f".{WEIGHTS}.part")
    with storage(place):
        shutil.rmtree(part, ignore_errors=True)
        adapted.save(part)
        write_manifest(folder.path / MANIFEST, part)
        replace_folder(place, part)
    found = {"kind": adapted.artefact, "weights": WEIGHTS}
    return found | {"head": f"{WEIGHTS}/{HEAD}"} if (place / HEAD).is_file() else found


@dataclass(frozen=True)
class _Clock:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str, before: float = 0.0) -> Iterator[None]:
        """Count time inside as ``name``'s; ``before``: what earlier attempts have spent on it."""
        start = time.perf_counter() - before
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 3)
