"""What a signal that needs no transfer labels would have picked, beside the best allowed setting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from clipdrift.advice.asked import Asked
from clipdrift.advice.judging import Judged
from clipdrift.advice.settings import Setting
from clipdrift.analysis.choosing import MARGIN, nearly_best, picked, signs_of
from clipdrift.analysis.permutation import UndeterminedError
from clipdrift.analysis.runs import text_signals


@dataclass(frozen=True)
class Pick:
    """A signal's pick among the cells that are nearly as accurate as the best.

    Attributes:
        signal: a column. setting: its pick; None where ``note`` says why there is none.
        missed: points by which the pick breaks the constraint; 0: it is allowed.
        regret: points of the objective that the best allowed setting has more; None where the pick breaks
            the constraint, or none is allowed.
    """

    signal: str
    setting: Setting | None = None
    missed: float | None = None
    regret: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Picks:
    """Every signal's pick, and what they chose from.

    Attributes:
        judge: the accuracy that candidates were found by. margin: how far below the best, in points.
        candidates: how many cells; allowed: how many of them satisfy the constraint.
    """

    judge: str
    margin: float
    candidates: int
    allowed: int
    picks: tuple[Pick, ...]


def picks_of(runs: pd.DataFrame, judged: Judged, asked: Asked, gained: str) -> Picks:
    """Pick among cells within ``max_drop`` points (else 1) of the best validation accuracy, by means over
    seeds.

    Args:
        runs: prepared runs of one place. gained: its column of accuracy, the judge where runs have no
            validation accuracy.
    """
    known = "validation_accuracy" in runs and runs["validation_accuracy"].notna().any()
    judge = "validation_accuracy" if known else gained
    margin = MARGIN if asked.max_drop is None else asked.max_drop
    by_cell = {setting.cell: setting for setting in judged.settings}
    whole = runs[runs["run"].isin({run for s in judged.settings for run in s.runs})]
    numbers = whole.select_dtypes("number").columns
    means = whole.groupby("cell", sort=False)[list(numbers)].mean()
    near = nearly_best(means.dropna(subset=[judge]), judge, margin)
    allowed = sum(by_cell[str(cell)] in judged.allowed for cell in near.index)
    found = tuple(_picked(near, signs_of(judge, text_signals(runs)), margin, by_cell, judged, asked))
    return Picks(judge, margin, len(near), allowed, found)


def _picked(
    near: pd.DataFrame,
    signs: dict[str, int],
    margin: float,
    by_cell: dict[str, Setting],
    judged: Judged,
    asked: Asked,
) -> Iterator[Pick]:
    for signal, sign in signs.items():
        try:
            setting = by_cell[str(picked(near, signal, sign, margin, "cell"))]
        except UndeterminedError as error:
            yield Pick(signal, note=str(error))
            continue
        missed, regret = judged.missed_by(setting), None
        if judged.best is not None and not missed:
            regret = judged.best.mean(asked.objective) - setting.mean(asked.objective)
        yield Pick(signal, setting, missed, regret)
