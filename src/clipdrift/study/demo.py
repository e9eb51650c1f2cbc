"""The demo: the study ``quickstart`` and its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from clipdrift.study.engines.here import run_here
from clipdrift.study.engines.jobs import JobOutcome, StudyOptions, StudyWatcher, jobs_of, manifest_of
from clipdrift.study.folder import write_study_manifest
from clipdrift.study.frames import records_in, runs_frame
from clipdrift.study.plan import Study, load_study

STUDY = "quickstart"


@dataclass(frozen=True)
class Demo:
    """Results of the demo.

    Attributes:
        outcomes: of every run, in the order of the plan.
        runs: the tidy table, a row for each finished run.
    """

    outcomes: tuple[JobOutcome, ...]
    runs: pd.DataFrame


def run_demo(out: Path, cache: Path, device: str, watcher: StudyWatcher, study: Study | None = None) -> Demo:
    """Do the study, or take its runs from ``out`` where they are done.

    Args:
        study: another than ``quickstart``, as for a test.
    """
    study = study or load_study(STUDY)
    jobs = jobs_of(study)
    manifest = manifest_of(study, jobs, "clipdrift demo")
    write_study_manifest(out, manifest)
    outcomes = run_here(jobs, StudyOptions(out=out, cache=cache, device=device, keep_weights=True), watcher)
    return Demo(outcomes, runs_frame(records_in(out, manifest.keys), manifest.labels))
