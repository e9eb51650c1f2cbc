"""Run selection without transfer labels: each signal's pick and its regret; the Pareto set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from clipdrift.analysis.permutation import UndeterminedError
from clipdrift.analysis.rows import Row
from clipdrift.analysis.runs import accuracy, retentions, text_signals
from clipdrift.outcomes.columns import DIRECTIONS, TEXT_SIGNALS
from clipdrift.outcomes.keys import Estimand, Group
from clipdrift.outcomes.places import places_of

MARGIN = 1.0
"""Runs within so many points of the best validation accuracy are chosen among."""


def choosing(runs: pd.DataFrame) -> Iterator[Row]:
    """Compute, by target and backbone, the regret in points of retention of every signal's pick, and the
    Pareto set."""
    judge = "validation_accuracy" if "validation_accuracy" in runs else accuracy(runs)
    if not retentions(runs) or judge not in runs:
        note = "the table needs a retention and validation_accuracy"
        yield Row("choosing", Group(), Estimand("nothing to choose"), "run", "0", "none", note=note)
        return
    gained = accuracy(runs)
    note = "chosen by test accuracy: optimistic" if judge == "accuracy" else ""
    places = places_of(runs)
    for kept in retentions(runs):
        for place, here in runs.groupby("place", sort=False):
            group = Group("place", places[str(place)])
            whole = here.dropna(subset=[kept, judge])
            if len(whole) < 2:
                why = f"{len(whole)} run{'s' if len(whole) != 1 else ''}; 2 are needed"
                name = Estimand("regret in", kept)
                yield Row("choosing", group, name, "run", str(len(whole)), "none", note=why)
                continue
            yield from _regrets(group, whole, kept, judge, note, text_signals(runs))
            yield from _front(group, whole, kept, gained)


def _regrets(
    group: Group, runs: pd.DataFrame, kept: str, judge: str, note: str, texts: list[str]
) -> Iterator[Row]:
    """Oracle's retention minus that of the pick; as effect, what a pick at random loses on average."""
    near = nearly_best(runs, judge)
    oracle, random = float(near[kept].max()), float(near[kept].max() - near[kept].mean())
    for signal, sign in signs_of(judge, texts).items():
        name = Estimand("regret", kept, signal)
        row: dict[str, Any] = {"unit": "run", "n": str(len(near)), "test": "description"}
        try:
            pick = near.loc[picked(near, signal, sign)]
        except UndeterminedError as error:
            yield Row("choosing", group, name, **row, note=str(error))
            continue
        said = "; ".join(filter(None, [f"picks {pick['run']}", note]))
        value = oracle - float(pick[kept])
        yield Row(
            "choosing", replace(group, run=str(pick["run"])), name, **row, value=value, effect=random,
            effect_name="regret at random", note=said,
        )  # fmt: skip


def signs_of(judge: str, texts: list[str]) -> dict[str, int]:
    """Signals to choose by, validation accuracy (``judge``) first -> 1 where the least of it is picked, else
    -1.

    Args:
        texts: the text tower's that are asked for: most studies train the image tower alone.
    """
    asked = [name for name in DIRECTIONS if name not in TEXT_SIGNALS] + texts
    return {judge: -1} | {name: DIRECTIONS[name] for name in asked}


def nearly_best(runs: pd.DataFrame, judge: str, margin: float = MARGIN) -> pd.DataFrame:
    """The rows within ``margin`` points of the highest value of ``judge``."""
    return runs[runs[judge] >= runs[judge].max() - margin]


def picked(near: pd.DataFrame, signal: str, sign: int, margin: float = MARGIN, what: str = "run") -> Any:
    """The index of the row that a signal picks.

    Args:
        near: the rows to choose from; margin: by which they were found, for the reason.

    Raises:
        UndeterminedError: nothing to choose from, or a row without the signal.
    """
    if len(near) < 2:
        raise UndeterminedError(f"one {what} within {margin:g} points of the best: nothing to choose")
    known = near.dropna(subset=[signal]) if signal in near else near.iloc[:0]
    if known.empty:
        raise UndeterminedError(f"the table has no {signal}")
    if len(known) < len(near):
        raise UndeterminedError(f"{len(near) - len(known)} of the {what}s to choose from have no {signal}")
    return (sign * known[signal]).idxmin()


def _front(group: Group, runs: pd.DataFrame, kept: str, gained: str) -> Iterator[Row]:
    whole = runs.dropna(subset=[gained, kept])
    chosen = pareto(whole[gained].to_numpy(dtype=float), whole[kept].to_numpy(dtype=float))
    for _, run in whole[chosen].sort_values(gained).iterrows():
        yield Row(
            "choosing", replace(group, run=str(run["run"])), Estimand("Pareto set", kept, gained), "run",
            str(len(whole)), "description", value=float(run[kept]), effect=float(run[gained]),
            effect_name=gained, note=f"run {run['run']}",
        )  # fmt: skip


def pareto(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mark which of n pairs no other pair beats: at least as high in both and higher in one. Twins both
    stay."""
    a, b = first[:, None], second[:, None]
    beaten = (first >= a) & (second >= b) & ((first > a) | (second > b))
    return np.asarray(~beaten.any(axis=1))
