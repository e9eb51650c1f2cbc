"""Engine that does runs one after the other in this process."""

from __future__ import annotations

import time
from dataclasses import replace

from clipdrift.errors import BusyError, Interrupted, one_line
from clipdrift.runs.store import Store
from clipdrift.study.engines.jobs import JobOutcome, StudyJob, StudyOptions, StudyWatcher
from clipdrift.training.runner import CheckpointSchedule, run


def run_here(jobs: tuple[StudyJob, ...], how: StudyOptions, watcher: StudyWatcher) -> tuple[JobOutcome, ...]:
    """Do the jobs in their order; what others are at is asked for again at the end.

    Raises:
        Interrupted: a signal asked to stop; the same study goes on from there.
    """
    watcher.plan(jobs)
    found: dict[str, JobOutcome] = {}
    for job in jobs:
        found[job.key] = attempt_job(job, how, watcher)
    for job in jobs:
        if found[job.key].ending == "elsewhere":
            found[job.key] = attempt_job(job, how, watcher)
    return tuple(found[job.key] for job in jobs)


def attempt_job(job: StudyJob, how: StudyOptions, watcher: StudyWatcher) -> JobOutcome:
    """Do one job, or find it done; whatever goes wrong in it is its outcome."""
    state = Store(how.out).folder(job.key).state()
    if state.kind in ("done", "diverged"):
        outcome = JobOutcome(job.key, state.kind, state.reason, known=True)
    elif state.kind == "failed" and not how.retry_failed:
        outcome = JobOutcome(job.key, "failed", state.reason, known=True)
    else:
        outcome = _do(job, how, watcher)
    if how.then is not None and outcome.ending == "done":
        outcome = _go_on(job, how, watcher, outcome)
    watcher.ends(job, outcome)
    return outcome


def _go_on(job: StudyJob, how: StudyOptions, watcher: StudyWatcher, outcome: JobOutcome) -> JobOutcome:
    """What follows a finished run; if it fails, so has the job, and the run's record stands."""
    assert how.then is not None
    start = time.perf_counter()
    try:
        how.then(job, how, watcher.begins(job))
    except (Interrupted, KeyboardInterrupt):
        raise
    except Exception as error:
        return replace(outcome, ending="failed", reason=one_line(error, 2000), known=False)
    return replace(outcome, seconds=outcome.seconds + time.perf_counter() - start)


def _do(job: StudyJob, how: StudyOptions, watcher: StudyWatcher) -> JobOutcome:
    start = time.perf_counter()
    try:
        record, _ = run(
            job.config,
            how.out,
            cache=how.cache,
            device=how.device,
            reporter=watcher.begins(job),
            save=how.keep_weights,
            keep_checkpoint=how.keep_checkpoint,
            auto_batch=how.auto_batch,
            schedule=CheckpointSchedule(seconds=how.checkpoint_every),
            track=how.track,
            deterministic=how.deterministic,
        )
    except BusyError as error:
        return JobOutcome(job.key, "elsewhere", str(error))
    except (Interrupted, KeyboardInterrupt):
        raise
    except Exception as error:  # one run's failure, noted in its folder, stops no other
        said = one_line(error, 2000)
        return JobOutcome(job.key, "failed", said, time.perf_counter() - start)
    return JobOutcome(job.key, record.status, record.reason, time.perf_counter() - start)
