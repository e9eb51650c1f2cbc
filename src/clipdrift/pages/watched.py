"""The page of a watched training: one HTML file with everything inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdrift.pages.cells import PageCell
from clipdrift.pages.compare import environment_of, part
from clipdrift.pages.study import Shown
from clipdrift.runs.files import write_text


@dataclass(frozen=True)
class RuleLine:
    """A condition of the rules: what follows from it, its text, its number now, whether it holds now."""

    kind: str
    text: str
    now: PageCell | None
    holds: str


@dataclass(frozen=True)
class MeasureLine:
    """A number of the log: its key, its name, what it is, its first and its last value."""

    key: str
    name: str
    about: str
    first: PageCell | None
    last: PageCell | None


@dataclass(frozen=True)
class RowsTable:
    """Rows of the log.

    Attributes:
        heads: key and heading of each column.
        lines: number of the row (none: measuring failed), step, cells, whether its state was good, seconds.
        left: of rows that are not here.
    """

    heads: Sequence[tuple[str, str]]
    lines: Sequence[tuple[int | None, int, Sequence[PageCell | None], str, str]]
    left: str


@dataclass(frozen=True, eq=False)
class WatchedPage:
    """Contents of the page.

    Attributes:
        title: name of the training.
        facts: what is measured on what. notes: what must be known before anything is read.
        sentences: parts, words and cells.
        said: what rules and monitor said, with row, step, kind and text.
        how: names and values.
        refresh: seconds until a browser loads the page again; None: never.
    """

    title: str
    facts: Sequence[str]
    sentences: Sequence[Any]
    notes: Sequence[str]
    figures: Sequence[Shown]
    rules: Sequence[RuleLine]
    said: Sequence[Any]
    measures: Sequence[MeasureLine]
    rows: RowsTable
    how: Sequence[tuple[str, str]]
    refresh: int | None


def write_watched_page(page: WatchedPage, path: Path) -> Path:
    """Write the page: one file that loads nothing, runs no script, and works in narrow windows and print."""
    environment = environment_of()
    text = environment.get_template("watched.html.j2").render(page=page, css=part(environment, "compare.css"))
    write_text(path, text)
    return path
