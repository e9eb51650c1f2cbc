"""Terminal output of a study: its plan, its progress, how it ended."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from clipdrift.cli.light import print_table
from clipdrift.cli.light_study import results
from clipdrift.cli.show import RunDisplay, console
from clipdrift.runs.reporter import Reporter
from clipdrift.runs.store import Store
from clipdrift.study.engines.estimate import Estimate
from clipdrift.study.engines.jobs import JobOutcome, StudyJob, counted
from clipdrift.study.plan import Study
from clipdrift.texts import age

_STYLE = {"done": "green", "diverged": "yellow", "failed": "red", "elsewhere": "cyan"}
_RECENT = 5


def plan_table(study: Study, jobs: tuple[StudyJob, ...], estimate: Estimate | None, out: Path | None) -> None:
    """Print a study's runs, one line each, and the sums."""
    console.print(Text(f"{study.name}  {study.title}", style="bold"))
    table = Table(box=None, header_style="bold", pad_edge=False)
    timed = estimate is not None
    columns = ["run", "what", "seed", "epochs", *(["trained", "images", "time"] if timed else [])]
    for column in [*columns, *(["status"] if out else [])]:
        right = column in ("seed", "epochs", "trained", "images", "time")
        table.add_column(column, no_wrap=column == "run", justify="right" if right else "left")
    for job in jobs:
        cells = [job.key, job.label, str(job.config.seed), str(job.config.optim.epochs)]
        if estimate is not None:
            one = estimate.runs[job.key]
            cells += [one.trained_text, one.images_text, one.time_text]
        if out is not None:
            cells.append(Store(out).folder(job.key).state().kind)
        table.add_row(*cells)
    print_table(table)
    if study.dropped:
        console.print(f"{study.dropped} runs fell together with others because of --set, and are done once")
    console.print(f"{len(jobs)} runs" + (f", {estimate.summary}" if estimate is not None else ""))
    if estimate is not None:
        for note in estimate.notes:
            console.print(note, style="yellow", soft_wrap=True)


class StudyDisplay:
    """A watcher: a bar over all runs with the time left, the current run, the last finished ones.

    Where output is no terminal: one line per finished run.
    """

    def __init__(self, name: str) -> None:
        self._all = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._task = self._all.add_task(name, total=None, left="")
        self._run = RunDisplay()
        self._title = Text("")
        self._recent: deque[Text] = deque(maxlen=_RECENT)
        self._spent: list[float] = []
        self._open: set[str] = set()
        self._total = 0
        self._expected = 0
        self._live = Live(self, console=console, refresh_per_second=4, transient=True)

    def __rich__(self) -> Group:
        return Group(*self._recent, self._title, self._run.bar, self._all)

    def __enter__(self) -> Self:
        if console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def plan(self, jobs: tuple[StudyJob, ...]) -> None:
        self._open = {job.key for job in jobs}
        self._total = len(jobs)
        self._all.update(self._task, total=len(jobs))

    def expect(self, runs: int) -> None:
        """Show a total before all runs are known."""
        self._expected = runs
        self._all.update(self._task, total=runs)

    def plan_more(self, jobs: tuple[StudyJob, ...]) -> None:
        """Add jobs to those that are known."""
        self._open |= {job.key for job in jobs}
        self._total += len(jobs)
        self._all.update(self._task, total=max(self._total, self._expected))

    def between(self) -> Reporter:
        """Reporter of work that is no run."""
        self._title = Text("")
        return self._run

    def begins(self, job: StudyJob) -> Reporter:
        self._title = Text(f"{job.key}  {job.label}, seed {job.config.seed}", style="bold")
        return self._run

    def ends(self, job: StudyJob, outcome: JobOutcome) -> None:
        if outcome.ending != "elsewhere":
            self._open.discard(job.key)
        self._title = Text("")
        self._run.clear()
        if not outcome.known and outcome.ending in ("done", "diverged"):
            self._spent.append(outcome.seconds)
        left = ""
        waiting = len(self._open) + max(0, self._expected - self._total)
        if self._spent and waiting:  # runs found done took no time and tell nothing
            left = f"some {age(waiting * sum(self._spent) / len(self._spent))} left"
        self._all.update(self._task, completed=self._total - len(self._open), left=left)
        line = Text(f"{outcome.ending:9}", style=_STYLE[outcome.ending])
        line.append(f" {job.key}  {job.label}, seed {job.config.seed}", style="default")
        line.append("  (done before)" if outcome.known else f"  {outcome.seconds:.0f} s", style="dim")
        if outcome.reason:
            line.append(f"  {outcome.reason}", style="default")
        self._recent.append(line)
        if not console.is_terminal and not (outcome.known and outcome.ending == "done"):
            done = self._total - len(self._open)
            console.print(f"{done}/{max(self._total, self._expected)}", line, left, soft_wrap=True)


def study_table(out: Path) -> None:
    """Print the results so far, where there are any."""
    if any(folder.finished for folder in Store(out).runs()):
        results(out)


def ending_text(jobs: tuple[StudyJob, ...], outcomes: tuple[JobOutcome, ...], out: Path) -> Text:
    """Count how many runs ended how, and say what to do about those that did not end well."""
    ends = counted(outcomes)
    known = sum(outcome.known for outcome in outcomes)
    text = Text(f"{ends.get('done', 0)} of {len(jobs)} runs done")
    text.append(f" ({known} found done before)" if known else "")
    if ends.get("elsewhere"):
        text.append(f", {ends['elsewhere']} at work in another process")
    if ends.get("diverged"):
        text.append(f", {ends['diverged']} diverged", style="yellow")
    if ends.get("failed"):
        text.append(f", {ends['failed']} failed", style="red")
        text.append(f"; `clipdrift study status {out}` says why, --retry-failed tries them again")
    text.append(f"\nstudy     {out}\ntable     clipdrift study table {out} --csv runs.csv")
    return text
