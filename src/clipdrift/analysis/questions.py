"""Table of questions, each a function from tables to rows, and :func:`analyse`, which asks them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from clipdrift.analysis.choosing import choosing
from clipdrift.analysis.contrasts import methods, options, penalties
from clipdrift.analysis.course import convergence, depth, interpolation, onset
from clipdrift.analysis.draws import Draws
from clipdrift.analysis.means import cell_rows
from clipdrift.analysis.models import mixed
from clipdrift.analysis.predictors import measures, predictors, rate
from clipdrift.analysis.rows import Row, table
from clipdrift.analysis.runs import AnalyseError, prepared, signals
from clipdrift.outcomes.columns import RISES_WITH_LOSS
from clipdrift.outcomes.keys import Estimand, Group


@dataclass(frozen=True)
class QuestionTables:
    """Input of questions: the prepared runs, and tables along depth and training if there are any."""

    runs: pd.DataFrame
    blocks: pd.DataFrame | None
    history: pd.DataFrame | None
    paths: pd.DataFrame | None


def _rate(tables: QuestionTables, draws: Draws) -> Iterator[Row]:
    if signals(tables.runs):
        yield from rate(tables.runs, draws)
        for signal in [name for name in signals(tables.runs) if name in RISES_WITH_LOSS]:
            yield from mixed(tables.runs, signal)
    else:
        yield Row("rate", Group(), Estimand("correlation"), "run", "0", "none", note="the table has no drift")
    yield from cell_rows(tables.runs)


def _over(
    question: str, wanted: str, found: pd.DataFrame | None, runs: pd.DataFrame,
    ask: Callable[[pd.DataFrame, pd.DataFrame], Iterator[Row]],
) -> Iterator[Row]:  # fmt: skip
    if found is None or found.empty:
        yield Row(
            question, Group(), _nothing(question), "run", "0", "none", note=f"no table of {wanted} was given"
        )
    else:
        yield from ask(runs, found)


ASKED: dict[str, Callable[[QuestionTables, Draws], Iterator[Row]]] = {
    "rate": _rate,
    "methods": lambda t, draws: methods(t.runs, t.blocks, draws),
    "penalties": lambda t, draws: penalties(t.runs, t.blocks, draws),
    "options": lambda t, draws: options(t.runs, t.blocks, draws),
    "depth": lambda t, _: _over("depth", "blocks", t.blocks, t.runs, depth),
    "predictors": lambda t, draws: predictors(t.runs, draws),
    "choosing": lambda t, _: choosing(t.runs),
    "onset": lambda t, draws: _over(
        "onset", "the history", t.history, t.runs, lambda runs, found: onset(runs, found, draws)
    ),
    "measures": lambda t, draws: measures(t.runs, draws),
    "convergence": lambda t, _: _over("convergence", "the history", t.history, t.runs, convergence),
    "interpolation": lambda t, _: _over("interpolation", "paths", t.paths, t.runs, interpolation),
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
    ``note`` and no number. Runs that diverged or are not finished are left
    out; a last row counts them. docs/statistics.md says what each question tests.

    Args:
        frame: one row per run as from ``study.frames.runs_frame``, or anyone's table with ``target``,
            ``method`` and ``learning_rate`` and as many of its other columns as there are.
        questions: keys of ``clipdrift.study.plan.QUESTIONS``; all of them if not given.
        blocks: as from :func:`clipdrift.study.frames.blocks_frame`, for ``depth`` and comparisons by block.
        history: as from :func:`clipdrift.study.frames.history_frame`, for ``onset`` and ``convergence``.
        paths: columns ``run``, ``alpha`` (0 the backbone, 1 the adapted model), ``accuracy`` and
            ``retention_<set>`` (percent), for ``interpolation``.
        rng: for resamples and random orders; the generator with seed 0 if not given, for each question anew,
            so that a table does not depend on what else was asked.

    Returns:
        question -> table with the columns of :class:`clipdrift.analysis.rows.Row`.

    Raises:
        AnalyseError: no such question, a needed column missing, or a run twice.
    """
    return answered(QuestionTables(prepared(frame), blocks, history, paths), questions, rng)


def answered(
    tables: QuestionTables, questions: Iterable[str] | None = None, rng: np.random.Generator | None = None
) -> dict[str, pd.DataFrame]:
    """:func:`analyse` of runs that are prepared already, for who asks more than once."""
    chosen = list(ASKED if questions is None else questions)
    if unknown := [name for name in chosen if name not in ASKED]:
        raise AnalyseError(f"no such question: {unknown[0]}; there are {', '.join(ASKED)}")
    return {name: table(_asked(name, tables, rng)) for name in chosen}


def _asked(name: str, tables: QuestionTables, rng: np.random.Generator | None) -> Iterator[Row]:
    rows = list(ASKED[name](tables, Draws(np.random.default_rng(0) if rng is None else rng)))
    yield from rows
    if not rows:
        why = "no finished run" if tables.runs.empty else "no run has what is needed"
        yield Row(name, Group(), _nothing(name), "run", "0", "none", note=why)
    if left_out := tables.runs.attrs["left_out"]:
        why = ", ".join(f"{count} {status}" for status, count in left_out.items())
        total = sum(left_out.values())
        size = str(total + len(tables.runs))
        said = Estimand("runs left out")
        yield Row(name, Group(), said, "run", size, "description", value=float(total), note=why)


def _nothing(question: str) -> Estimand:
    """Row in place of a statistic where a question could not be asked."""
    return Estimand("nothing", term=question)
