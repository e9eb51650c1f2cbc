"""The questions' table: each a function from tables to rows, and :func:`analyse`, which asks them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from clipdrift.analysis.choosing import choosing
from clipdrift.analysis.contrasts import methods, penalties
from clipdrift.analysis.course import convergence, depth, interpolation, onset
from clipdrift.analysis.models import mixed
from clipdrift.analysis.predictors import measures, predictors, rate
from clipdrift.analysis.rows import Row, table
from clipdrift.analysis.runs import AnalyseError, prepared, signals


@dataclass(frozen=True)
class Tables:
    """What is asked: the prepared runs, and tables along depth and training if there are any."""

    runs: pd.DataFrame
    blocks: pd.DataFrame | None
    history: pd.DataFrame | None
    paths: pd.DataFrame | None


def _rate(tables: Tables, rng: np.random.Generator) -> Iterator[Row]:
    if not signals(tables.runs):
        yield Row("rate", "all", "correlation", "run", "0", "none", note="the table has no drift")
        return
    yield from rate(tables.runs, rng)
    for signal in signals(tables.runs):
        yield from mixed(tables.runs, signal)


def _over(
    question: str, wanted: str, found: pd.DataFrame | None, runs: pd.DataFrame,
    ask: Callable[[pd.DataFrame, pd.DataFrame], Iterator[Row]],
) -> Iterator[Row]:  # fmt: skip
    if found is None or found.empty:
        yield Row(question, "all", question, "run", "0", "none", note=f"no table of {wanted} was given")
    else:
        yield from ask(runs, found)


ASKED: dict[str, Callable[[Tables, np.random.Generator], Iterator[Row]]] = {
    "rate": _rate,
    "methods": lambda t, rng: methods(t.runs, rng),
    "penalties": lambda t, rng: penalties(t.runs, rng),
    "depth": lambda t, rng: _over("depth", "blocks", t.blocks, t.runs, depth),
    "predictors": lambda t, rng: predictors(t.runs, rng),
    "choosing": lambda t, rng: choosing(t.runs, rng),
    "onset": lambda t, rng: _over("onset", "the history", t.history, t.runs, onset),
    "measures": lambda t, rng: measures(t.runs, rng),
    "convergence": lambda t, rng: _over("convergence", "the history", t.history, t.runs, convergence),
    "interpolation": lambda t, rng: _over("interpolation", "paths", t.paths, t.runs, interpolation),
}


def analyse(
    frame: pd.DataFrame,
    questions: Iterable[str] | None = None,
    *,
    blocks: pd.DataFrame | None = None,
    history: pd.DataFrame | None = None,
    paths: pd.DataFrame | None = None,
    rng: np.random.Generator | None = None,
) -> dict[str, pd.DataFrame]:
    """Ask questions of a study's runs: a table of tests for each.

    A study half done is analysed as far as it goes: a test that its runs do not determine has a row with a
    ``note`` and no number. Runs that diverged are left out. docs/statistics.md says what each question tests.

    Args:
        frame: one row per run as from :func:`clipdrift.frame.runs_frame`, or anyone's table with ``target``,
            ``method`` and ``learning_rate`` and as many of its other columns as there are.
        questions: keys of ``clipdrift.study.QUESTIONS``; all of them if not given.
        blocks: as from :func:`clipdrift.frame.blocks_frame`, for ``depth``.
        history: as from :func:`clipdrift.frame.history_frame`, for ``onset`` and ``convergence``.
        paths: columns ``run``, ``alpha`` (0 the backbone, 1 the adapted model), ``accuracy`` and
            ``retention_<set>`` (percent), for ``interpolation``.
        rng: for resamples and random orders; the generator with seed 0 if not given, for each question anew,
            so that a table does not depend on what else was asked.

    Returns:
        question -> table with the columns of :class:`clipdrift.analysis.rows.Row`.

    Raises:
        AnalyseError: no such question, a needed column missing, or a run twice.
    """
    chosen = list(ASKED if questions is None else questions)
    if unknown := [name for name in chosen if name not in ASKED]:
        raise AnalyseError(f"no such question: {unknown[0]}; there are {', '.join(ASKED)}")
    tables = Tables(prepared(frame), blocks, history, paths)
    return {name: table(ASKED[name](tables, rng or np.random.default_rng(0))) for name in chosen}
