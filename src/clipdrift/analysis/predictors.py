"""What goes with what: rate with drift, every signal with retention, measures with each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from clipdrift.analysis.bootstrap import Statistic, correlation_of
from clipdrift.analysis.correlations import KINDS, ColumnPair, correlation, span_of
from clipdrift.analysis.draws import Draws
from clipdrift.analysis.permutation import MIN_VALUES, UndeterminedError
from clipdrift.analysis.rows import Row, filled
from clipdrift.analysis.runs import (
    PRIMARY,
    RISES_WITH_LOSS,
    accuracy,
    cell_means,
    outcomes,
    retentions,
    signals,
)

COMPARED, FOREMOST = "entropy_drift", "representation_drift"
"""The signal that others are laid beside in how they order retention, and the first of those."""
LOST_BELOW = 50.0
"""Retention in percent below which a run counts as having lost its transfer."""


def rate(runs: pd.DataFrame, draws: Draws) -> Iterator[Row]:
    """log10 of the rate with every drift, for each arm that has two rates or more; over runs."""
    asked = False
    for _, arm in runs.groupby("arm", sort=False):
        if arm["log_rate"].nunique() < 2:
            continue
        asked = True
        group = f"{arm['place'].iloc[0]}: {arm['variant'].iloc[0]}"
        rates, cells = arm["log_rate"].to_numpy(dtype=float), arm["cell"].to_numpy()
        for signal, kind in itertools.product(signals(runs), KINDS):
            drift = arm[signal].to_numpy(dtype=float)
            both = ColumnPair("log_rate", signal, rates, drift, cells, "run")
            yield correlation("rate", group, both.part(np.isfinite(rates + drift)), kind, draws)
    if not asked:
        yield Row("rate", "all", "correlation", "run", "0", "none", note="no arm has two learning rates")


def predictors(runs: pd.DataFrame, draws: Draws) -> Iterator[Row]:
    """Signals with retention, with accuracy, and which of them orders retention better."""
    yield from _with_retention(runs, draws)
    yield from _with_accuracy(runs, draws)
    yield from _orderings(runs, draws)


def _with_retention(runs: pd.DataFrame, draws: Draws) -> Iterator[Row]:
    """Every signal, chosen epoch and first epoch, with retention: overall, by target and method."""
    missing = [
        name for name, found in (("retention", retentions(runs)), ("drift", signals(runs))) if not found
    ]
    if missing:
        yield Row(
            "predictors", "all", "correlation", "cell", "0", "none", note=f"the table has no {missing[0]}"
        )
    for kept, signal, moment in itertools.product(retentions(runs), signals(runs), ("", "epoch1_")):
        column = f"{moment}{signal}"
        if column not in runs:
            note = f"the table has no {column}"
            yield Row("predictors", "all", f"{column} with {kept}", "cell", "0", "none", note=note)
            continue
        for group, both in _scopes(cell_means(runs, [column, kept]), column, kept):
            for kind in KINDS if both.within is None else KINDS[1:]:
                yield correlation("predictors", group, both, kind, draws)
        yield _auc(runs.dropna(subset=[column, kept]), column, signal, kept, draws)


def _with_accuracy(runs: pd.DataFrame, draws: Draws) -> Iterator[Row]:
    """The declared signals at the chosen epoch with accuracy, in the scopes of retention."""
    gained = accuracy(runs)
    if gained not in outcomes(runs):
        note = f"the table has no {gained}"
        yield Row("predictors", "all", f"correlation with {gained}", "cell", "0", "none", note=note)
        return
    for signal in [name for name in signals(runs) if name in PRIMARY]:
        for group, both in _scopes(cell_means(runs, [signal, gained]), signal, gained):
            for kind in KINDS if both.within is None else KINDS[1:]:
                family = f"predictors, accuracy, {kind}"
                yield correlation("predictors", group, both, kind, draws, family)


def _orderings(runs: pd.DataFrame, draws: Draws) -> Iterator[Row]:
    """Each signal with a direction against :data:`COMPARED`: which orders retention better.

    Over all cells and over those of each target.
    """
    known = [name for name in signals(runs) if name in RISES_WITH_LOSS and name != COMPARED]
    for kept, signal in itertools.product(retentions(runs), [FOREMOST, *(n for n in known if n != FOREMOST)]):
        name = f"oriented rho of {signal} - of {COMPARED}, with {kept}"
        if missing := [column for column in (signal, COMPARED) if column not in signals(runs)]:
            note = f"the table has no {missing[0]}"
            yield Row("predictors", "all", name, "cell", "0", "none", note=note)
            continue
        cells = cell_means(runs, [signal, COMPARED, kept])
        places = list(dict.fromkeys(cells["place"]))
        scopes = [("all", cells)]
        if len(places) > 1:
            scopes += [(str(place), cells[cells["place"] == place]) for place in places]
        for group, part in scopes:
            row = Row("predictors", group, name, "cell", str(len(part)), "description")
            yield filled(row, partial(_better, part, signal, kept, draws))


def _better(cells: pd.DataFrame, signal: str, kept: str, draws: Draws) -> dict[str, Any]:
    """How much higher the signal's oriented rho is than that of :data:`COMPARED`, resampling whole cells."""
    if len(cells) < MIN_VALUES:
        raise UndeterminedError(f"{len(cells)} cell{'s' if len(cells) != 1 else ''}; {MIN_VALUES} are needed")
    one, other = (oriented_rho(cells, name, kept) for name in (signal, COMPARED))

    def statistic(weights: np.ndarray) -> np.ndarray:
        return one(weights) - other(weights)

    found = float(statistic(np.ones((1, len(cells))))[0])
    if not math.isfinite(found):
        raise UndeterminedError("no variance")
    span = span_of(statistic, list(cells.index), draws)
    said = f"above 0: {signal} orders the cells better, in the direction fixed in advance"
    return {"value": found} | span | {"note": "; ".join([said, *filter(None, [span.get("note")])])}


def oriented_rho(cells: pd.DataFrame, signal: str, kept: str) -> Statistic:
    """Spearman's rho of a signal with retention as a statistic of weights, its sign by the direction.

    Times -1 for a signal that rises with loss: positive where it goes the way that was fixed in advance.
    """
    rho = correlation_of(cells[signal].to_numpy(dtype=float), cells[kept].to_numpy(dtype=float), "Spearman")
    return lambda weights: -RISES_WITH_LOSS[signal] * rho(weights)


def _scopes(cells: pd.DataFrame, column: str, kept: str) -> Iterator[tuple[str, ColumnPair]]:
    """All cells, those of each target, of each target and method, and pooled within both.

    What would be the same cells once more, because there is one target or one method, is not repeated.
    """
    x, y = cells[column].to_numpy(dtype=float), cells[kept].to_numpy(dtype=float)
    whole = ColumnPair(column, kept, x, y, cells.index.to_numpy(), "cell")
    yield "all", whole
    places, methods = cells["place"].to_numpy(dtype=str), cells["method"].to_numpy(dtype=str)
    arms = np.array([f"{place}, {method}" for place, method in zip(places, methods, strict=True)], dtype=str)
    if len(set(places)) > 1:
        yield from ((place, whole.part(places == place)) for place in dict.fromkeys(places.tolist()))
        yield "within target, pooled", replace(whole, within=places.tolist())
    if len(set(arms)) > len(set(places)):
        yield from ((arm, whole.part(arms == arm)) for arm in dict.fromkeys(arms.tolist()))
        yield "within target x method, pooled", replace(whole, within=arms.tolist())


def measures(runs: pd.DataFrame, draws: Draws) -> Iterator[Row]:
    """The correlation matrix of all signals over cell means (over runs, where there is one seed)."""
    pairs = list(itertools.combinations(signals(runs), 2))
    for first, second in pairs:
        cells = cell_means(runs, [first, second])
        x, y = cells[first].to_numpy(dtype=float), cells[second].to_numpy(dtype=float)
        both = ColumnPair(first, second, x, y, cells.index.to_numpy(), "cell")
        for kind in KINDS:
            yield correlation("measures", "all", both, kind, draws)
    if not pairs:
        yield Row("measures", "all", "correlation", "cell", "0", "none", note="fewer than two measures")


def _auc(runs: pd.DataFrame, column: str, signal: str, kept: str, draws: Draws) -> Row:
    """AUC of the signal for retention below :data:`LOST_BELOW`, in the direction fixed in advance."""
    lost = runs[kept].to_numpy() < LOST_BELOW
    statistic = f"AUC of {column} for {kept} < {LOST_BELOW:g} %"
    row = Row("predictors", "all", statistic, "run", f"{lost.sum()}+{(~lost).sum()}", "description")

    def fill() -> dict[str, Any]:
        if lost.all() or not lost.any():
            raise UndeterminedError("all runs on one side of the threshold")
        values = runs[column].to_numpy(dtype=float)
        fixed = RISES_WITH_LOSS.get(signal)
        whole = np.ones((1, len(values)))
        if fixed is None:
            area = float(auc_of(values, lost)(whole)[0])
            note = "in-sample optimum: no direction was fixed in advance"
            return {
                "value": max(area, 1 - area),
                "effect_name": "AUC",
                "effect": max(area, 1 - area),
                "note": note,
            }
        statistic = auc_of(fixed * values, lost)
        area = float(statistic(whole)[0])
        out = {"value": area, "effect": area, "effect_name": "AUC"}
        out |= {"note": f"direction fixed in advance: {'higher' if fixed > 0 else 'lower'} means loss"}
        span = span_of(statistic, list(runs["cell"]), draws)
        return (
            out | span | {"note": "; ".join([str(out["note"]), *([span["note"]] if "note" in span else [])])}
        )

    return filled(row, fill)


def auc_of(values: np.ndarray, lost: np.ndarray) -> Statistic:
    """Share of pairs in which the lost run has the higher value, ties half, as a statistic of weights."""
    wins = (values[lost][:, None] > values[~lost]) + 0.5 * (values[lost][:, None] == values[~lost])

    def statistic(weights: np.ndarray) -> np.ndarray:
        high, low = weights[:, lost], weights[:, ~lost]
        pairs = high.sum(1) * low.sum(1)
        found = np.einsum("ri,ij,rj->r", high, wins, low, optimize=True)
        return np.where(pairs > 0, found / np.where(pairs > 0, pairs, 1), math.nan)

    return statistic
