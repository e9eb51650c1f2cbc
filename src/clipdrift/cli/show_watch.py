"""Watched trainings in the terminal: a table that follows their logs. Loads no torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from clipdrift.cli.light import print_table
from clipdrift.monitoring.course import Course, courses_in, nothing_measured, read_course, value_of
from clipdrift.monitoring.errors import MonitorError
from clipdrift.monitoring.following import Followed, Following, names
from clipdrift.monitoring.log import FAILED, LOG
from clipdrift.texts import age, decimal, drift, percent

REFRESH = 15
"""Seconds after which a page of a living training is loaded again."""
PATIENCE = 600.0
"""Seconds that a first measurement is waited for, where nothing is measured yet in any folder."""
_BARS = "▁▂▃▄▅▆▇█"
_BARS_SHOWN = 16
_WIDE = 100
"""Letters of a terminal in which every column has room."""
_STYLES = {"warning": "yellow", "stop": "bold red", "rate": "magenta", "failed": "yellow"}


def watch_trainings(
    places: Sequence[Path],
    *,
    once: bool = False,
    html: bool = False,
    every: float = 2.0,
    patience: float = PATIENCE,
    console: Console | None = None,
    wait: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Show the trainings in some folders until Ctrl-C.

    Args:
        once: show them as they are now, and end.
        html: write each one's page after each new row.
        every: seconds between two looks.
        patience: seconds until it ends where no training shows up in any of the folders; inf: it waits on.
        wait: how; raises KeyboardInterrupt to end.

    Raises:
        MonitorError: no row is there, at once with ``once``, else when patience is at its end.
    """
    console = console or Console()
    following = Following(places)
    trainings = following.look()
    if once:
        if following.waiting:
            raise MonitorError(_nothing(following.waiting[0]))
        print_table(table_of(trainings, console.width if console.is_terminal else _WIDE))
        for line in _last_words(trainings):
            console.print(line, soft_wrap=True)
        if html:
            _write_pages(trainings, {}, console)
        return
    pages: dict[Path, bool] = {}
    ends = clock() + patience

    def left() -> float:
        """Seconds of patience; inf once there is something to watch."""
        nonlocal ends
        ends = math.inf if trainings else ends
        if clock() >= ends:
            raise MonitorError(
                f"{_nothing(following.waiting[0])} (waited {age(patience)}; --wait says how long)"
            )
        return ends - clock()

    try:
        if console.is_terminal:
            with Live(console=console, auto_refresh=False) as live:
                while True:
                    live.update(_view(trainings, following.waiting, left(), console.width), refresh=True)
                    if html:
                        _write_pages(trainings, pages, None)
                    wait(every)
                    trainings = following.look()
        said: set[Path] = set()
        while True:
            _print_lines(trainings, following.waiting, left(), said, console)
            if html:
                _write_pages(trainings, pages, None)
            wait(every)
            trainings = following.look()
    except KeyboardInterrupt:
        if html and pages:
            _write_pages(trainings, {}, console)


def _nothing(place: Path) -> str:
    if not place.exists():
        return f"{place}: no such folder; give one that a DriftMonitor writes into, its out="
    for course in map(read_course, courses_in(place)):
        if course.failed:
            return nothing_measured(course)
    return f"{place}: no row in a {LOG} there or up to two folders below; is the training measured yet?"


def _awaited(place: Path, left: float) -> str:
    """What is waited for, why it is not there, and for how long."""
    why = "a log without a row yet" if courses_in(place) else "none up to two folders below"
    if not place.exists():
        why = "no such folder yet"
    return f"waiting for {place / LOG}: {why}{f', at most {age(left)} more' if math.isfinite(left) else ''}"


def _view(trainings: Sequence[Followed], waiting: Sequence[Path], left: float, width: int) -> Group:
    parts: list[RenderableType] = [table_of(trainings, width), *_last_words(trainings)] if trainings else []
    parts += [Text(_awaited(place, left), style="dim") for place in waiting]
    return Group(*parts, Text("Ctrl-C ends this; the trainings go on", style="dim"))


def table_of(trainings: Sequence[Followed], width: int = _WIDE) -> Table:
    """One row per training: how far it is, how far it has moved, what is kept.

    Args:
        width: of the terminal; narrow ones get fewer columns.
    """
    wide = width >= _WIDE
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("training", overflow="fold")
    for head in ("step", "measured", "CKA", "embedding drift", *(["entropy"] if wide else [])):
        table.add_column(head, justify="right", no_wrap=head != "embedding drift")
    table.add_column("zero-shot kept", overflow="fold")
    if wide:
        table.add_column("CKA so far", no_wrap=True)
    for name, one in zip(names(trainings), trainings, strict=True):
        assert one.course is not None
        course = one.course
        ago = f"{age(course.age)} ago" if math.isfinite(course.age) else "?"
        cells = [name, f"{course.last['step']:,}", ago, *_numbers(course)[: 3 if wide else 2], _kept(course)]
        cells += [sparkline(course.series("drift/cka"))] if wide else []
        table.add_row(*cells, style="" if course.alive else "dim")
    return table


def _last_words(trainings: Sequence[Followed]) -> list[Text]:
    """What was said last of each training of which anything was."""
    found = []
    for name, one in zip(names(trainings), trainings, strict=True):
        assert one.course is not None
        if (last := _last_said(one.course)).plain:
            found.append(Text.assemble((f"{name}  ", "bold"), last))
    return found


def _numbers(course: Course) -> list[str]:
    last = course.last
    cka, moved, entropy = (value_of(last, f"drift/{name}") for name in ("cka", "embedding_drift", "entropy"))
    return [
        *("" if math.isnan(value) else decimal(value) for value in (cka, moved)),
        "" if math.isnan(entropy) else drift(entropy),
    ]


def _kept(course: Course) -> str:
    found = [(key.partition("/")[2], value_of(course.last, key)) for key in course.keys("retention/")]
    return ", ".join(f"{name} {percent(value)}" for name, value in found)


def _last_said(course: Course) -> Text:
    spoken = [one for one in course.said if one.kind in _STYLES]
    if not spoken:
        return Text("")
    last = spoken[-1]
    return Text(f"step {last.step}: {last.text}", style=_STYLES[last.kind])


def sparkline(values: Sequence[float], most: int = _BARS_SHOWN) -> str:
    """The last values as bars up to 1, from 0.9 or the lowest if that is less; a gap where there is none."""
    some = list(values)[-most:]
    finite = [value for value in some if math.isfinite(value)]
    if not finite:
        return ""
    low = min(0.9, *finite)
    top = len(_BARS) - 1
    return "".join(
        _BARS[max(0, min(top, round(top * (value - low) / (1 - low))))] if math.isfinite(value) else " "
        for value in some
    )


def _print_lines(
    trainings: Sequence[Followed], waiting: Sequence[Path], left: float, said: set[Path], console: Console
) -> None:
    """For a file or a pipe: a line for each new row."""
    for place in waiting:
        if place not in said:
            said.add(place)
            console.print(_awaited(place, left), soft_wrap=True, highlight=False, markup=False)
    for name, one in zip(names(trainings), trainings, strict=True):
        assert one.course is not None
        for row in one.course.attempts[-one.fresh :] if one.fresh else ():
            if FAILED in row:
                text = f"{name}  step {row['step']}  not measured ({row[FAILED]})"
                console.print(text, soft_wrap=True, highlight=False, markup=False)
                continue
            only = Course(one.out, [row], 0, one.course.about, None)
            cka, moved, entropy = _numbers(only)
            kept, warned = _kept(only), _last_said(only).plain
            parts = [
                f"{name}  step {row['step']}",
                f"CKA {cka}",
                f"embedding drift {moved}",
                *([f"entropy {entropy}"] if entropy else []),
            ]
            parts += [f"kept {kept}"] if kept else []
            console.print("  ".join([*parts, warned]).rstrip(), soft_wrap=True, highlight=False, markup=False)


def _write_pages(trainings: Sequence[Followed], pages: dict[Path, bool], console: Console | None) -> None:
    """Write the page of each training that has changed, or that has ended since its page was written.

    Args:
        pages: whether each page is of a living training; where it is not there, none is written yet.
        console: told where they are, and then they are not loaded again.
    """
    from clipdrift.reporting.monitoring import write_report

    for one in trainings:
        assert one.course is not None
        alive = one.course.alive and console is None
        if one.out in pages and not one.fresh and pages[one.out] == alive:
            continue
        page = write_report(one.out, REFRESH if alive else None)
        pages[one.out] = alive
        if console is not None:
            console.print(f"page {page}", soft_wrap=True, highlight=False)
