"""What goes with what: rate with drift, every signal with retention, measures with each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from clipdrift.analysis.bootstrap import Statistic, correlation_of, interval
from clipdrift.analysis.contrasts import filled
from clipdrift.analysis.permutation import Kind, UndeterminedError, correlate
from clipdrift.analysis.rows import Row
from clipdrift.analysis.runs import RISES_WITH_LOSS, cell_means, retentions, signals

KINDS: tuple[Kind, Kind] = ("Pearson", "Spearman")
LOST_BELOW = 50.0
"""Retention in percent below which a run counts as having lost its transfer."""


def rate(runs: pd.DataFrame, rng: np.random.Generator) -> Iterator[Row]:
    """log10 of the rate with every drift, for each arm that has two rates or more; over runs."""
    asked = False
    for _, arm in runs.groupby("arm", sort=False):
        if arm["log_rate"].nunique() < 2:
            continue
        asked = True
        group = f"{arm['target'].iloc[0]}: {arm['variant'].iloc[0]}"
        for signal, kind in itertools.product(signals(runs), KINDS):
            part = arm.dropna(subset=["log_rate", signal])
            yield _correlation("rate", group, part, "log_rate", signal, kind, "run", rng)
    if not asked:
        yield Row("rate", "all", "correlation", "run", "0", "none", note="no arm has two learning rates")


def predictors(runs: pd.DataFrame, rng: np.random.Generator) -> Iterator[Row]:
    """Every signal, chosen epoch and first epoch, with retention: overall, by target and method."""
    if not retentions(runs):
        yield Row("predictors", "all", "correlation", "cell", "0", "none", note="the table has no retention")
    for kept, signal, moment in itertools.product(retentions(runs), signals(runs), ("", "epoch1_")):
        column = f"{moment}{signal}"
        if column not in runs:
            note = f"the table has no {column}"
            yield Row("predictors", "all", f"{column} with {kept}", "cell", "0", "none", note=note)
            continue
        cells = cell_means(runs, [column, kept])
        scopes = [("all", cells), *((str(t), part) for t, part in cells.groupby("target", sort=False))]
        both = cells.groupby(["target", "method"], sort=False)
        scopes += [(f"{target}, {method}", part) for (target, method), part in both]
        for (group, part), kind in itertools.product(scopes, KINDS):
            yield _correlation("predictors", group, part, column, kept, kind, "cell", rng)
        for by in (["target"], ["target", "method"]):
            strata = list(cells[by].agg(" ".join, axis=1))
            group = f"within {' x '.join(by)}, pooled"
            yield _correlation("predictors", group, cells, column, kept, "Spearman", "cell", rng, strata)
        yield _auc(runs.dropna(subset=[column, kept]), column, signal, kept, rng)


def measures(runs: pd.DataFrame, rng: np.random.Generator) -> Iterator[Row]:
    """The correlation matrix of all signals over cell means (over runs, where there is one seed)."""
    pairs = list(itertools.combinations(signals(runs), 2))
    for first, second in pairs:
        cells = cell_means(runs, [first, second])
        for kind in KINDS:
            yield _correlation("measures", "all", cells, first, second, kind, "cell", rng)
    if not pairs:
        yield Row("measures", "all", "correlation", "cell", "0", "none", note="fewer than two measures")


def _correlation(
    question: str,
    group: str,
    part: pd.DataFrame,
    first: str,
    second: str,
    kind: Kind,
    unit: str,
    rng: np.random.Generator,
    strata: list[str] | None = None,
) -> Row:
    name = f"{kind} of {first} with {second}"
    row = Row(question, group, name, unit, str(len(part)), kind, family=f"{question}, {kind}")
    x, y = part[first].to_numpy(dtype=float), part[second].to_numpy(dtype=float)

    def fill() -> dict[str, Any]:
        found = correlate(x, y, kind, rng=rng, strata=strata)
        out = {"value": found.value, "p": found.p, "test": f"{kind}, {found.method}"}
        out |= {"effect": found.value, "effect_name": "r" if kind == "Pearson" else "rho"}
        if strata is not None:
            return out | {"note": "no interval: pooled over strata"}
        units = part["cell"] if unit == "run" else part.index
        return out | _span(correlation_of(x, y, kind), list(units), rng)

    return filled(row, fill)


def _span(statistic: Statistic, units: list[object], rng: np.random.Generator) -> dict[str, Any]:
    try:
        span = interval(statistic, units, rng=rng, named="cell")
    except UndeterminedError as error:
        return {"note": f"no interval: {error}"}
    return {"low": span.low, "high": span.high, "interval": span.method}


def _auc(runs: pd.DataFrame, column: str, signal: str, kept: str, rng: np.random.Generator) -> Row:
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
        span = _span(statistic, list(runs["cell"]), rng)
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
