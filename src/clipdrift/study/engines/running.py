"""Run a study from Python, in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from clipdrift.runs.layout import cache_folder
from clipdrift.study.engines.here import run_here
from clipdrift.study.engines.jobs import (
    Engine,
    SilentWatcher,
    StudyOptions,
    StudyWatcher,
    jobs_of,
    manifest_of,
)
from clipdrift.study.folder import write_study_manifest
from clipdrift.study.frames import records_in, runs_frame
from clipdrift.study.plan import Study, load_study
from clipdrift.training.trackers import known


def run_study(
    study: Study | str | Path,
    out: str | Path,
    overrides: Iterable[str] = (),
    *,
    cache: str | Path | None = None,
    device: str = "auto",
    keep_weights: bool = False,
    retry_failed: bool = False,
    track: Sequence[str] = (),
    deterministic: bool = False,
    engine: Engine = run_here,
    watcher: StudyWatcher | None = None,
) -> pd.DataFrame:
    """Do every run of a study, or go on with it, as ``clipdrift study run`` does.

    Args:
        study: a Study, the name of a built-in one, or a TOML file.
        out: the study's folder.
        overrides: ``key=value`` texts, as after ``--set``; for a study by name or file.
        cache: where decoded images and results of the backbone are kept; default `~/.cache/clipdrift` or
            $CLIPDRIFT_CACHE.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        keep_weights: keep the adapted weights of every run.
        retry_failed: try runs again that failed before.
        track: ``tensorboard``, ``wandb``, ``mlflow``: who else is told of each run as it goes.
        deterministic: use operations that give the same bits every time, on a GPU too.
        engine: who does the runs; `clipdrift.study.engines.pick_engine("ray")` for a Ray cluster.
        watcher: told how it goes.

    Returns:
        The tidy table, one row per finished run, as :func:`clipdrift.study.frames.runs_frame` has it. What
        failed is missing from it; the folder says why.

    Raises:
        ConfigError: a plan that cannot be done. StudyError: the folder holds another study.
    """
    found = study if isinstance(study, Study) else load_study(study, overrides)
    root = Path(out)
    jobs = jobs_of(found)
    manifest = manifest_of(found, jobs)
    write_study_manifest(root, manifest)
    place = cache_folder(None if cache is None else Path(cache))
    how = StudyOptions(
        root,
        place,
        device,
        keep_weights=keep_weights,
        retry_failed=retry_failed,
        track=known(track),
        deterministic=deterministic,
    )
    engine(jobs, how, watcher or SilentWatcher())
    return runs_frame(records_in(root, manifest.keys), manifest.labels)
