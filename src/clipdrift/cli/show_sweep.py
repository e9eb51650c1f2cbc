"""Terminal output of a sweep: its progress over all runs, and a line for each of them at the end."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.table import Table

from clipdrift.cli.light import print_table
from clipdrift.cli.show_study import StudyDisplay
from clipdrift.runs.reporter import Reporter, Silent
from clipdrift.study.engines.jobs import JobOutcome, StudyJob
from clipdrift.sweeping import Sweep, Trial
from clipdrift.sweeping.trials import ranked
from clipdrift.texts import one_decimal


class SweepDisplay(StudyDisplay):
    """A watcher: a study's display over all runs of a sweep, which are planned batch by batch.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        super().__init__("sweep")
        self._quiet = quiet

    def __enter__(self) -> Self:
        return self if self._quiet else super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._quiet:
            super().__exit__(kind, error, trace)

    def expects(self, runs: int) -> None:
        self.expect(runs)

    def plan(self, jobs: tuple[StudyJob, ...]) -> None:
        if not self._quiet:
            self.plan_more(jobs)

    def begins(self, job: StudyJob) -> Reporter:
        return Silent() if self._quiet else super().begins(job)

    def ends(self, job: StudyJob, outcome: JobOutcome) -> None:
        if not self._quiet:
            super().ends(job, outcome)

    def finishing(self) -> Reporter:
        return Silent() if self._quiet else self.between()


def trials_table(found: Sweep) -> None:
    """Print every run: what it gave, at which mix, and what became of it."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("setting", "epochs", "alpha", "accuracy %", "keeps %", "unmixed", "", "run"):
        table.add_column(column, justify="left" if column in ("setting", "", "run") else "right")
    order = ranked(found.trials)
    others = [trial for trial in found.trials if trial not in order]
    for trial in [*order, *others]:
        own = trial.alpha not in (None, 1)
        unmixed = f"{one_decimal(trial.whole_accuracy)}, {one_decimal(trial.whole_kept)}" if own else ""  # type: ignore[arg-type]
        table.add_row(
            trial.name, str(trial.epochs), _number(trial.alpha, "g"), _number(trial.accuracy),
            _number(trial.kept), unmixed, _said(trial, found), trial.key,
            style="bold" if found.chosen is not None and trial.key == found.chosen.key else "",
        )  # fmt: skip
    print_table(table)


def _number(value: float | None, form: str = ".1f") -> str:
    return "" if value is None else f"{value:{form}}"


def _said(trial: Trial, found: Sweep) -> str:
    if found.chosen is not None and trial.key == found.chosen.key:
        return "chosen"
    if trial.status != "done":
        return trial.status
    said = [f"misses by {trial.missed:.1f}"] if trial.missed else []
    return ", ".join([*said, *(["went on"] if trial.promoted else [])])
