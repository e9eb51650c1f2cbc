"""Draw a study's figures, in this process or in several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from clipdrift.figures.registry import FIGURES, FigureEntry, draw, write
from clipdrift.figures.source import NotDrawnError
from clipdrift.pages.study import Shown
from clipdrift.study.plan import QUESTIONS
from clipdrift.study.tables import Tables

DPI = 150
"""Of the page's pictures: twice what a screen of usual sharpness shows."""

DrawnFigure = tuple[list[Path], str]
"""The files, or none and why not."""


def draw_one(tables: Tables, name: str, folder: Path, formats: tuple[str, ...]) -> DrawnFigure:
    """One figure as PNG and in other formats."""
    try:
        figure = draw(name, tables)
    except NotDrawnError as error:
        return [], str(error)
    kinds = dict.fromkeys(("png", *formats))
    return [write(figure, folder / f"{name}.{kind}", kind, DPI) for kind in kinds], ""


class Drawing:
    """Figures being drawn. What needs no statistics is begun at once in other processes, the rest later.

    Args:
        place: as :meth:`Tables.open` takes it.
        processes: that draw; 1: this one, when :meth:`finish` is called.
    """

    def __init__(
        self, tables: Tables, place: Path, folder: Path, formats: tuple[str, ...], processes: int
    ) -> None:
        self._tables, self._folder, self._formats = tables, folder, formats
        self._pool: ProcessPoolExecutor | None = None
        self._begun: dict[str, Future[DrawnFigure]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if processes > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(processes, context, _open, (place,))
            for name, entry in FIGURES.items():
                if not _asks(entry):
                    self._begin(name, {})

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _begin(self, name: str, answers: Mapping[str, pd.DataFrame]) -> None:
        assert self._pool is not None
        self._begun[name] = self._pool.submit(_work, name, self._folder, self._formats, answers)

    def finish(self, progress: Callable[[str, int], None]) -> tuple[dict[str, Shown], list[Path]]:
        """Every figure, or why it was not drawn, in the order of the table; and all files."""
        if self._pool is not None:
            for name in (n for n in FIGURES if n not in self._begun):
                self._begin(name, {q: self._tables.rows(q) for q in _asks(FIGURES[name])})
        shown: dict[str, Shown] = {}
        files: list[Path] = []
        for i, (name, entry) in enumerate(FIGURES.items()):
            progress(f"figure {name}", i)
            if name in self._begun:
                found, reason = self._begun[name].result()
            else:
                found, reason = draw_one(self._tables, name, self._folder, self._formats)
            files += found
            shown[name] = Shown(name, entry.title, entry.text, found[0] if found else None, reason)
        return shown, files


@contextmanager
def figures_of(
    tables: Tables, place: Path, folder: Path, formats: tuple[str, ...], processes: int
) -> Iterator[Drawing]:
    """A :class:`Drawing` whose processes end with it."""
    found = Drawing(tables, place, folder, formats, processes)
    try:
        yield found
    finally:
        found.close()


def _asks(entry: FigureEntry) -> list[str]:
    """The questions whose rows a figure draws from."""
    return [name for name in entry.needs if name in QUESTIONS]


_OPENED: list[Tables] = []
"""In a worker: the tables that it draws from."""


def _open(place: Path) -> None:
    _OPENED[:] = [Tables.open(place)]


def _work(
    name: str, folder: Path, formats: tuple[str, ...], answers: Mapping[str, pd.DataFrame]
) -> DrawnFigure:
    tables = _OPENED[0]
    for question, rows in answers.items():
        tables.answer(question, rows)
    return draw_one(tables, name, folder, formats)
