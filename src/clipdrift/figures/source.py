"""Input of study figures, and the error where it is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import pandas as pd

from clipdrift.errors import ClipdriftError
from clipdrift.outcomes.columns import columns_of
from clipdrift.runs.maps import Maps

ABOUT = ("run", "place", "method", "learning_rate", "seed", "plain", "status")


class NotDrawnError(ClipdriftError):
    """A study that lacks what a figure shows; the message says what, as in ``no run has a penalty``."""


class StudySource(Protocol):
    """Tables of one study, as :class:`clipdrift.study.tables.Tables` gives them."""

    @property
    def runs(self) -> pd.DataFrame:
        """One row per finished run, as ``study.frames.runs_frame`` has it; and ``place`` (the target, and the
        backbone where there are several), ``variant`` (the method and the options that vary, in
        words) and ``plain`` (no penalty, and the options that most runs of the method have there)."""

    @property
    def blocks(self) -> pd.DataFrame:
        """``run, measure, block, value, drift`` of the chosen epoch."""

    @property
    def backbone_blocks(self) -> pd.DataFrame:
        """The same of the untouched model."""

    @property
    def history(self) -> pd.DataFrame:
        """One row per run and look at the model."""

    @property
    def paths(self) -> pd.DataFrame:
        """``run, alpha, accuracy, retention_<set>`` between backbone and adapted model."""

    @property
    def ends(self) -> Mapping[str, int]:
        """Count how many planned runs ended how: done, diverged, failed, planned ...."""

    def history_blocks(self, measure: str) -> pd.DataFrame:
        """``run, epoch, step, block, value, drift`` of one measure."""

    def maps(self, run: str) -> Maps | None:
        """Attention of some probe images in the backbone and in a run's model; None where none was kept."""

    def rows(self, question: str) -> pd.DataFrame:
        """Rows that analysis answered to a question, one per test, with :mod:`clipdrift.outcomes.keys`."""


def needed(frame: pd.DataFrame, columns: Sequence[str], what: str = "") -> pd.DataFrame:
    """The rows that have all columns.

    Raises:
        NotDrawnError: there is none; ``what`` says so in words.
    """
    missing = [column for column in columns if column not in frame]
    if missing:
        raise NotDrawnError(what or f"no run has {missing[0]}")
    found = frame.dropna(subset=list(columns))
    if found.empty:
        raise NotDrawnError(what or f"no run has {' and '.join(columns)}")
    return found


def plain(tables: StudySource, *columns: str) -> pd.DataFrame:
    """Runs of the methods as such, without penalties and special options, that have all columns."""
    runs = tables.runs
    if runs.empty:
        raise NotDrawnError("no run has finished")
    return needed(runs[runs["plain"]], columns)


def done(tables: StudySource, *columns: str) -> pd.DataFrame:
    """Every run that has all columns, diverged ones left out."""
    runs = tables.runs
    if runs.empty:
        raise NotDrawnError("no run has finished")
    return needed(runs[runs["status"] == "done"], columns, "every run diverged" if not columns else "")


def joined(tables: StudySource, frame: pd.DataFrame, *columns: str, of: str = "training") -> pd.DataFrame:
    """A table with a row per run and more, of plain runs, with what each run is."""
    if frame.empty:
        raise NotDrawnError(f"no record of {of} in these tables")
    runs = tables.runs
    about = [name for name in ABOUT if name in runs]
    own = frame[[name for name in frame if name == "run" or name not in about]]
    found = own.merge(runs.loc[runs["plain"] & (runs["status"] == "done"), about], on="run")
    return needed(found, columns, "" if len(found) else "no plain run has finished")


def retentions(runs: pd.DataFrame) -> list[str]:
    """Columns of retention that have a number.

    Raises:
        NotDrawnError: no run was tested zero-shot.
    """
    found = [c for c in columns_of("retention", runs) if runs[c].notna().any()]
    if not found:
        raise NotDrawnError("no run was tested on a transfer set")
    return found


def places(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Runs by target (and backbone), in the order of the plan."""
    for place, part in runs.groupby("place", sort=False):
        yield str(place), part


def in_order(values: pd.Series) -> list[str]:
    """Return each value once, in order of appearance."""
    return [str(v) for v in dict.fromkeys(values)]


def rates(runs: pd.DataFrame) -> list[float]:
    """Learning rates, ascending."""
    return sorted(float(rate) for rate in runs["learning_rate"].unique())
