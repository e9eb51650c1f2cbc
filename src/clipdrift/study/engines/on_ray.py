"""Engine that does runs on a Ray cluster: one task each, the same store, the same locks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipdrift.config import ConfigError, DataSet, ModelConfig, RunConfig
from clipdrift.errors import Interrupted, one_line
from clipdrift.study.engines.here import attempt_job
from clipdrift.study.engines.jobs import JobOutcome, SilentWatcher, StudyJob, StudyOptions, StudyWatcher

RETRIES = 3
"""How often a run goes on elsewhere after its worker or machine died."""

_POLL = 1.0
"""Seconds between two looks at what has ended."""


@dataclass(frozen=True)
class RayEngine:
    """Engine on a Ray cluster. The store and the cache must lie on a path that all machines share and that
    has locks.

    Attributes:
        address: of the cluster, ``auto`` for one that runs here; None: as ``ray.init`` finds it, else a new
            one on this machine.
        gpus: share of a GPU for each run, as in 0.25.
        cpus: processors for each run; torch uses as many threads.
    """

    address: str | None = None
    gpus: float = 0.0
    cpus: float = 1.0

    def __call__(
        self, jobs: tuple[StudyJob, ...], how: StudyOptions, watcher: StudyWatcher
    ) -> tuple[JobOutcome, ...]:
        """Do all jobs; what others are at is asked for again at the end.

        Raises:
            ConfigError: Ray is not installed, there is no cluster, or it has no machine large enough.
            Interrupted: a signal asked to stop; the runs at work were told to stop cleanly.
        """
        ray = _ray()
        how = replace(how, out=how.out.resolve(), cache=how.cache.expanduser().resolve())
        own = not ray.is_initialized()
        if own:
            _connect(ray, self.address)
        try:
            self._fits(ray.cluster_resources())
            watcher.plan(jobs)
            found = self._all(ray, jobs, how, watcher)
            late = [job for job in jobs if found[job.key].ending == "elsewhere"]
            return tuple((found | self._all(ray, late, how, watcher))[job.key] for job in jobs)
        finally:
            if own:
                ray.shutdown()

    def _fits(self, resources: dict[str, float]) -> None:
        """Refuse a task that no machine can hold; it would wait for ever."""
        for name, asked in (("CPU", self.cpus), ("GPU", self.gpus)):
            if asked > resources.get(name, 0.0):
                raise ConfigError(
                    f"--{name.lower()}s-per-run {asked:g}: the Ray cluster has {resources.get(name, 0.0):g} "
                    f"{name} in all"
                )

    def _all(
        self, ray: Any, jobs: Iterable[StudyJob], how: StudyOptions, watcher: StudyWatcher
    ) -> dict[str, JobOutcome]:
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": RETRIES}
        task = ray.remote(**options)(_work)
        open_ = {task.remote(absolute(job), how, max(1, int(self.cpus))): job for job in jobs}
        found = {}
        try:
            while open_:
                for ref in ray.wait(list(open_), timeout=_POLL)[0]:
                    job = open_.pop(ref)
                    found[job.key] = _outcome(ray, ref, job)
                    watcher.ends(job, found[job.key])
        except (KeyboardInterrupt, Interrupted):
            for ref in open_:
                ray.cancel(ref)  # as Ctrl-C in the worker: it writes a checkpoint and stops
            ray.wait(list(open_), num_returns=len(open_), timeout=30)
            raise
        return found


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigError("--engine ray: Ray is not installed; pip install 'clipdrift[ray]'") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = one_line(error, 300)
        raise ConfigError(f"--address {address}: no Ray cluster there ({said})") from None


def _outcome(ray: Any, ref: Any, job: StudyJob) -> JobOutcome:
    try:
        outcome: JobOutcome = ray.get(ref)
    except ray.exceptions.RayError as error:  # the worker died more often than it is tried again
        said = one_line(error, 300)
        return JobOutcome(job.key, "failed", f"its worker died: {said}")
    return outcome


def _work(job: StudyJob, how: StudyOptions, threads: int) -> JobOutcome:
    """Do one job in a worker."""
    import torch

    torch.set_num_threads(threads)
    return attempt_job(job, how, SilentWatcher())


def absolute(job: StudyJob) -> StudyJob:
    """The job with its local copies by absolute paths: a worker starts in another folder."""

    def found(part: Any) -> Any:
        return part if part.path is None else part.model_copy(update={"path": _absolute(part.path)})

    config: RunConfig = job.config
    model: ModelConfig = found(config.model)
    target: DataSet = found(config.data.target)
    transfer: tuple[DataSet, ...] = tuple(found(spec) for spec in config.data.transfer)
    data = config.data.model_copy(update={"target": target, "transfer": transfer})
    return replace(job, config=config.model_copy(update={"model": model, "data": data}))


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())
