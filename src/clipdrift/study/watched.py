"""Trainings that a monitor watched as a table of runs, each with its last measurement as its result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from clipdrift.analysis.elsewhere import tidied
from clipdrift.analysis.runs import NEEDED, AnalyseError
from clipdrift.monitoring.course import Course, courses_in
from clipdrift.monitoring.errors import MonitorError
from clipdrift.monitoring.frames import blocks_frame, history_frame, read_all, runs_frame
from clipdrift.study.errors import ResultsError


@dataclass(frozen=True, eq=False)
class WatchedRuns:
    """Tables of watched trainings, and what must be known of how they were read.

    Attributes:
        runs: one row per training.
        history: one row per training and measurement.
        history_blocks: ``run, step, measure, block, value, drift`` of every measurement.
    """

    runs: pd.DataFrame
    notes: tuple[str, ...]
    history: pd.DataFrame
    history_blocks: pd.DataFrame

    @property
    def blocks(self) -> pd.DataFrame:
        """``run, measure, block, value, drift`` of each training's last measurement."""
        every = self.history_blocks
        last = every["run"].map(self.history.groupby("run")["step"].max())
        return every[every["step"] == last].drop(columns="step").reset_index(drop=True)


def watched_runs(root: Path) -> WatchedRuns | None:
    """The runs of a folder of monitors; None where there is no monitor's log.

    Raises:
        ResultsError: none of them says what analysis needs; with the reason.
    """
    folders = courses_in(root)
    if not folders:
        return None
    notes = []
    courses: dict[str, Course] = {}
    for folder in folders:
        try:
            courses |= read_all([folder])
        except MonitorError as error:
            notes.append(f"a training is left out: {error}")
    courses = read_all(course.out for course in courses.values())  # names that tell all of them apart
    for name, course in courses.items():
        notes += [f"of {name} {problem}" for problem in course.problems]
        if course.damaged:
            notes.append(f"of {name} {course.damaged} damaged lines are left out")
        if course.failed:
            often = "a measurement" if len(course.failed) == 1 else f"{len(course.failed)} measurements"
            notes.append(f"{often} of {name} failed, the last at step {course.failed[-1]['step']}")
        if course.alive:
            notes.append(f"{name} was measured {course.age:.0f} s ago and may go on; its last row counts")
    frame = runs_frame(courses)
    if frame.empty:
        raise ResultsError(f"{root}: {notes[0]}")
    frame = frame.rename(columns=dict(_spelt(frame)))
    if "target" not in frame:
        frame["target"] = frame["images"]
        notes.append("no training says its target, so the images that it was measured on stand for it")
    missing = [name for name in NEEDED if name not in frame]
    if missing:
        raise ResultsError(
            f"{root}: no training says its {missing[0]}; say it when it is watched, as in "
            'DriftMonitor(..., config={"method": "full", "learning_rate": 1e-5}), or under "config" in '
            "monitor.json"
        )
    unknown = frame[list(NEEDED)].isna().any(axis=1)
    for row in frame[unknown].to_dict("records"):
        lacks = [name for name in NEEDED if row[name] != row[name] or row[name] is None]
        notes.append(f"{row['run']} is left out: its monitor was not told {' and '.join(lacks)}")
    try:
        runs, said = tidied(frame[~unknown].reset_index(drop=True), root)
    except AnalyseError as error:
        raise ResultsError(str(error)) from None
    courses = {name: courses[name] for name in runs["run"]}
    by_block = blocks_frame(courses)
    if not by_block.empty:  # value and drift of a block have a row each
        by_block = by_block.groupby(["run", "step", "measure", "block"], sort=False, as_index=False).first()
        notes.append("blocks are those of each training's last measurement")
    return WatchedRuns(runs, (*notes, *said), history_frame(courses), by_block)


_SPELT = {"lr": "learning_rate", "dataset": "target"}


def _spelt(frame: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Settings under names that people use, where ours are not there."""
    return ((old, new) for old, new in _SPELT.items() if old in frame and new not in frame)
