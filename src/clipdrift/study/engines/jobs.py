"""Turn a study into jobs with their final keys, and describe how a job ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from clipdrift.config import ConfigError, RunConfig
from clipdrift.runs.reporter import Reporter, Silent
from clipdrift.study.folder import Manifest, PlannedRun
from clipdrift.study.plan import Study
from clipdrift.training.preparation import Resolver

Ending = Literal["done", "diverged", "failed", "elsewhere"]
"""``elsewhere``: another process is at it."""


@dataclass(frozen=True)
class StudyJob:
    """A run to be done: names and copies of models and data found, so that its key is final."""

    config: RunConfig
    label: str
    cell: str

    @property
    def key(self) -> str:
        return self.config.key


@dataclass(frozen=True)
class JobOutcome:
    """Outcome of a job; ``known``: it was found done."""

    key: str
    ending: Ending
    reason: str | None = None
    seconds: float = 0.0
    known: bool = False


@dataclass(frozen=True)
class StudyOptions:
    """Options shared by all runs of a study; nothing here changes a result.

    Attributes:
        then: what is done with each run that is done, where its engine did it; a function of a module, so
            that a worker can be sent it.
    """

    out: Path
    cache: Path
    device: str = "auto"
    keep_weights: bool = False
    keep_checkpoint: bool = False
    auto_batch: bool = False
    retry_failed: bool = False
    checkpoint_every: float = 60.0
    track: tuple[str, ...] = ()
    deterministic: bool = False
    then: Callable[[StudyJob, StudyOptions, Reporter], None] | None = None


class StudyWatcher(Protocol):
    """Progress reporting interface of a study."""

    def plan(self, jobs: tuple[StudyJob, ...]) -> None:
        """Report the jobs."""

    def begins(self, job: StudyJob) -> Reporter:
        """Report that a job begins; return the reporter of its progress."""

    def ends(self, job: StudyJob, outcome: JobOutcome) -> None:
        """Report that a job has ended."""


class SilentWatcher:
    """Watcher that says nothing."""

    def plan(self, jobs: tuple[StudyJob, ...]) -> None:
        pass

    def begins(self, job: StudyJob) -> Reporter:
        return Silent()

    def ends(self, job: StudyJob, outcome: JobOutcome) -> None:
        pass


Engine = Callable[[tuple[StudyJob, ...], StudyOptions, StudyWatcher], tuple[JobOutcome, ...]]
"""Does all jobs, each at most once, and tells how each ended, in their order."""


def jobs_of(study: Study) -> tuple[StudyJob, ...]:
    """The study's runs with models and data found on this machine.

    Raises:
        ConfigError: a path that is not there; two runs whose local copies turn out to be the same.
    """
    resolver = Resolver()
    jobs: dict[str, StudyJob] = {}
    for planned in study.runs:
        job = StudyJob(resolver(planned.config), planned.label, planned.cell)
        if job.key in jobs:
            raise ConfigError(
                f"{study.name}: {job.label} of {job.cell} and {jobs[job.key].label} of {jobs[job.key].cell} "
                f"are the same run (key {job.key}): the same images or weights under two names"
            )
        jobs[job.key] = job
    return tuple(jobs.values())


def manifest_of(study: Study, jobs: tuple[StudyJob, ...], command: str = "") -> Manifest:
    """Make the manifest of the study's folder."""
    entries = tuple(PlannedRun(key=job.key, label=job.label, cell=job.cell) for job in jobs)
    return Manifest(
        name=study.name, title=study.title, questions=study.questions, runs=entries, command=command
    )


def counted(outcomes: tuple[JobOutcome, ...]) -> Mapping[Ending, int]:
    """Count how many jobs ended how."""
    found: dict[Ending, int] = {}
    for outcome in outcomes:
        found[outcome.ending] = found.get(outcome.ending, 0) + 1
    return found
