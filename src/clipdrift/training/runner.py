"""Do a run once, by one process at a time, and to its end however often it is interrupted."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipdrift import accelerator
from clipdrift.config import ConfigError, RunConfig, load_config, parse_config
from clipdrift.errors import OutOfMemoryError, one_line
from clipdrift.runs.heartbeat import Heartbeat
from clipdrift.runs.layout import PULSE, RECORD, cache_folder
from clipdrift.runs.record import DamagedRecordError, Record
from clipdrift.runs.reporter import Reporter, Silent
from clipdrift.runs.signals import stops
from clipdrift.runs.states import foreign_record
from clipdrift.runs.store import RunFolder, Store
from clipdrift.training.attempt import AttemptOptions, attempt
from clipdrift.training.course import CheckpointSchedule
from clipdrift.training.memory import halved
from clipdrift.training.preparation import pick_device, resolve
from clipdrift.training.trackers import Tracked, known

__all__ = ["CheckpointSchedule", "run", "train"]


def run(
    config: RunConfig,
    out: Path,
    *,
    cache: Path,
    device: str = "auto",
    reporter: Reporter | None = None,
    save: bool = True,
    again: bool = False,
    keep_checkpoint: bool = False,
    auto_batch: bool = False,
    schedule: CheckpointSchedule | None = None,
    track: Sequence[str] = (),
    deterministic: bool = False,
) -> tuple[Record, RunFolder]:
    """Do one run, go on with one that was interrupted, or return its record where it is done already.

    Args:
        config: what to do.
        out: folder of runs; this one goes to ``out/<key>``.
        cache: where decoded images are kept, shared by all runs.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        reporter: told how it goes.
        save: write the adapted weights of the chosen epoch.
        again: do it even where it is done already; its record is replaced.
        keep_checkpoint: leave the last checkpoint, where one was written, beside the record.
        auto_batch: where memory does not suffice, go on with half as many images at a time.
        schedule: how often a checkpoint is written.
        track: ``tensorboard``, ``wandb``, ``mlflow``: who else is told. One that fails is left out.
        deterministic: use operations that give the same bits every time, on a GPU too; the record says so.

    Raises:
        ConfigError, ModelError, DataError, MeasureError, InactiveAdapterError: in one line what is wrong.
        BusyError: another process is at work on this run.
        Interrupted: a signal asked to stop; the same call goes on.
        OutOfMemoryError: what to set is in its message.
        StorageError: a full or read-only disk; the same call goes on.
    """
    reporter = reporter or Silent()
    trackers = known(track)
    config = resolve(config)
    folder = Store(out).folder(config.key)
    record = None if again or folder.left_in_haste else _done(folder, Silent())
    if record and not folder.damaged_notes(record):
        return record, folder
    place = pick_device(device)
    with stops() as asked, folder.claim():
        if not again and (record := _done(folder, reporter)):  # another process may have done it meanwhile
            if damage := folder.damaged_notes(record):
                reporter.warn(f"{damage}; written again from the record")
                folder.mend(record)
            folder.tidy(keep_checkpoint)
            return record, folder
        try:
            if damage := folder.open(config):
                reporter.warn(damage)
            if again and folder.finished:
                folder.forget_checkpoint()  # of the run that is to be repeated
            tracked = Tracked.of(reporter, trackers, config, folder.path)
            heartbeat = Heartbeat(tracked, folder.path / PULSE, asked)
            job = AttemptOptions(
                folder,
                cache,
                place,
                heartbeat,
                asked,
                save,
                keep_checkpoint,
                schedule or CheckpointSchedule(),
                deterministic,
            )
            try:
                record = _done_alike(config, job, auto_batch)
                tracked.end(record)
                return record, folder
            finally:
                tracked.close()
        except Exception as error:
            folder.fail(error)
            raise


def _done(folder: RunFolder, reporter: Reporter) -> Record | None:
    """The record of a finished run of which all is there."""
    if not folder.finished:
        return None
    try:
        record = folder.record()
    except DamagedRecordError as error:  # a damaged record is no record
        reporter.warn(f"{error}".removesuffix("; delete it and run again") + "; the run is repeated")
        return None
    if record.key != folder.path.name:
        reporter.warn(f"{foreign_record(folder.path / RECORD, record.key)}; the run is done anew")
        return None
    if damage := folder.damaged_weights():
        reporter.warn(f"{damage}; the run is repeated")
        return None
    return record


def _done_alike(config: RunConfig, job: AttemptOptions, auto_batch: bool) -> Record:
    """Do the run, with the same bits every time where that is wanted."""
    with accelerator.deterministic(job.deterministic, job.device):
        try:
            return _until_it_fits(config, job, auto_batch)
        except RuntimeError as error:
            if not (job.deterministic and accelerator.lacks_determinism(error)):
                raise
            raise ConfigError(
                f"--deterministic: not possible on {job.device} with this run ({one_line(error)}); "
                "leave it out"
            ) from error


def _until_it_fits(config: RunConfig, job: AttemptOptions, auto_batch: bool) -> Record:
    """Do the run; where that is wanted and possible, with fewer images at a time until they fit."""
    while True:
        try:
            return attempt(config, job)
        except OutOfMemoryError as error:
            smaller = halved(config, error.part) if auto_batch else None
            if smaller is None:
                raise
            part = error.part
        config = smaller
        sizes = {"training": config.optim.micro_batch, "measuring": config.evaluation.batch_size}
        job.reporter.warn(f"out of memory while {part}; going on with {sizes[part]} images at a time")
        gc.collect()  # the error, which held everything, is gone by now
        accelerator.release_memory(job.device)


def train(
    config: RunConfig | Mapping[str, Any] | str | Path,
    out: str | Path = "runs",
    *,
    cache: str | Path | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
    again: bool = False,
    auto_batch: bool = False,
    track: Sequence[str] = (),
    deterministic: bool = False,
) -> Record:
    """Fine-tune once: :func:`run` for callers outside the package, and what `clipdrift train` does.

    Args:
        config: a RunConfig, its content as a dictionary, or a TOML file.
        out: folder of runs.
        cache: where decoded images are kept; default `~/.cache/clipdrift` or $CLIPDRIFT_CACHE.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        reporter: told how it goes.
        again: repeat a run that is done already.
        auto_batch: where memory does not suffice, go on with half as many images at a time.
        track: ``tensorboard``, ``wandb``, ``mlflow``: who else is told; one that fails is left out.
        deterministic: use operations that give the same bits every time, on a GPU too; the record says so.

    Returns:
        The record; it also lies in ``out/<key>/record.json``, the weights beside it. A run that was
        interrupted goes on from its last checkpoint.

    Raises:
        ClipdriftError: as :func:`run`, with ``clipdrift.errors.Interrupted`` for Ctrl-C and SIGTERM.
    """
    if isinstance(config, str | Path):
        config = load_config(config)
    elif not isinstance(config, RunConfig):
        config = parse_config(config, RunConfig)
    place = cache_folder(None if cache is None else Path(cache))
    found, _ = run(
        config,
        Path(out),
        cache=place,
        device=device,
        reporter=reporter,
        again=again,
        auto_batch=auto_batch,
        track=track,
        deterministic=deterministic,
    )
    return found
