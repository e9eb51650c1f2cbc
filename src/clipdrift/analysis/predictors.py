"""Correlations: rate with drift, every signal with retention, measures with each other."""

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
from clipdrift.analysis.permutation import MIN_VALUES, CorrelationKind, UndeterminedError
from clipdrift.analysis.rows import Row, filled
from clipdrift.analysis.runs import (
    PRIMARY,
    accuracy,
    arm_group,
    cell_means,
    outcomes,
    retentions,
    signals,
    text_signals,
)
from clipdrift.outcomes.columns import (
    DIRECTIONS,
    MAGNITUDE_OF,
    MAGNITUDES,
    RISES_WITH_LOSS,
    TEXT_SIGNALS,
    ReadAt,
    columns_of,
)
from clipdrift.outcomes.keys import Estimand, Group
from clipdrift.outcomes.places import Place, places_of

COMPARED, FOREMOST = "entropy_drift", "representation_drift"
"""The signal that others are laid beside in how they order retention, and the first of those."""
MOMENTS: tuple[ReadAt, ...] = ("", "epoch1")
"""When signals are read: at the chosen epoch, and after the first: how early do they say something?"""
ALIKE = "runs of a cell are not independent of each other: see the correlation over cells"
"""Note of correlations over runs."""
LOST_BELOW = 50.0
"""Retention in percent below which a run counts as having lost its transfer."""


def rate(runs: pd.DataFrame, draws: Draws) -> Iterator[Row]:
    """log10 of the rate with every drift, for each arm that has two rates or more; over runs."""
    asked = False
    for _, arm in runs.groupby("arm", sort=False):
        if arm["log_rate"].nunique() < 2:
            continue
        asked = True
        group = arm_group(arm)
        rates, cells = arm["log_rate"].to_numpy(dtype=float), arm["cell"].to_numpy()
        for signal, kind in itertools.product(signals(runs), KINDS):
            drift = arm[signal].to_numpy(dtype=float)
            both = ColumnPair("log_rate", signal, rates, drift, cells, "run")
            yield correlation("rate", group, both.part(np.isfinite(rates + drift)), kind, draws)
    if not asked:
        yield Row(
            "rate",
            Group(),
            Estimand("correlation"),
            "run",
            "0",
            "none",
            note="no arm has two learning rates",
        )


def predictors(runs: pd.DataFrame, draws: Draws) -> Iterator[Row]:
    """Signals with retention, with accuracy, and which of them orders retention better.

    Magnitudes, then signals of the text tower, come last and in families of their own, so that they move no
    p-value of the others.
    """
    for row in _asked(runs, draws):
        yield _told(row, runs)


def _told(row: Row, runs: pd.DataFrame) -> Row:
    """Say how many runs a row about the text tower leaves out because they do not train it."""
    if row.statistic.signal not in TEXT_SIGNALS:
        return row
    without, total = int(runs[row.statistic.signal].isna().sum()), len(runs)
    if not without:
        return row
    note = f"{without} of {total} runs leave the text tower as it is and are left out"
    return replace(row, note="; ".join(filter(None, [row.note, note])))


def _asked(runs: pd.DataFrame, draws: Draws) -> Iterator[Row]:
    yield from _with_retention(runs, draws)
    yield from _with_accuracy(runs, draws)
    known = [name for name in signals(runs) if name in RISES_WITH_LOSS and name not in (COMPARED, FOREMOST)]
    yield from _orderings(runs, [FOREMOST, *known], draws)
    yield from _magnitudes(runs, draws)
    yield from _over_runs(runs)
    yield from _texts(runs, draws)


def _with_retention(runs: pd.DataFrame, draws: Draws) -> Iterator[Row]:
    """Every signal, chosen epoch and first epoch, with retention: overall, by target and method."""
    missing = [
        name for name, found in (("retention", retentions(runs)), ("drift", signals(runs))) if not found
    ]
    if missing:
        note = f"the table has no {missing[0]}"
        yield Row("predictors", Group(), Estimand("correlation"), "cell", "0", "none", note=note)
    places = places_of(runs)
    of_images = [name for name in signals(runs) if name not in TEXT_SIGNALS]
    for kept, signal, moment in itertools.product(retentions(runs), of_images, MOMENTS):
        yield from _one_signal(runs, Estimand("with", kept, signal, moment), places, draws)


def _one_signal(
    runs: pd.DataFrame, about: Estimand, places: dict[str, Place], draws: Draws, families: str | None = None
) -> Iterator[Row]:
    """One signal at one moment with one retention, in all scopes, and its AUC.

    Args:
        families: what the families of its tests are named by, if not by the question and the signal alone.
    """
    kept, column = about.outcome, _column(about)
    if column not in runs:
        missing = MAGNITUDE_OF.get(about.signal, about.signal)
        note = f"the table has no {f'{about.moment}_' if about.moment else ''}{missing}"
        yield Row("predictors", Group(), about, "cell", "0", "none", note=note)
        return
    for group, both in _scopes(cell_means(runs, [column, kept]), column, kept, places):
        for kind in KINDS if both.within is None else KINDS[1:]:
            family = None if families is None else f"predictors, {kind}, {families}"
            yield correlation("predictors", group, both, kind, draws, family)
    yield _auc(runs.dropna(subset=[column, kept]), replace(about, name="AUC"), draws)


def _column(about: Estimand) -> str:
    """The column of a signal at its moment."""
    return f"{about.moment}_{about.signal}" if about.moment else about.signal


def _magnitudes(runs: pd.DataFrame, draws: Draws) -> Iterator[Row]:
    """Sizes of drifts without their sign, and the last block alone: as for the other signals."""
    places = places_of(runs)
    for kept, signal, moment in itertools.product(retentions(runs), MAGNITUDES, MOMENTS):
        families = "magnitudes" + (", further signals" if moment else "")
        yield from _one_signal(runs, Estimand("with", kept, signal, moment), places, draws, families)
    yield from _orderings(runs, list(MAGNITUDES), draws)


def _texts(runs: pd.DataFrame, draws: Draws) -> Iterator[Row]:
    """The text tower's signals, where some run trains it: as for the other signals."""
    places = places_of(runs)
    for kept, signal, moment in itertools.product(retentions(runs), text_signals(runs), MOMENTS):
        families = "text tower" + (", further signals" if moment else "")
        yield from _one_signal(runs, Estimand("with", kept, signal, moment), places, draws, families)
    yield from _orderings(runs, text_signals(runs), draws)


def _over_runs(runs: pd.DataFrame) -> Iterator[Row]:
    """The same correlations over runs, as published tables have them: descriptions without p."""
    every = [*signals(runs), *columns_of("magnitude", runs)]
    pairs = [(s, k, m) for k, s, m in itertools.product(retentions(runs), every, MOMENTS)]
    gained = accuracy(runs)
    pairs += [(s, gained, "") for s in every if s in PRIMARY and gained in outcomes(runs)]
    scopes = [(Group(), np.ones(len(runs), dtype=bool))]
    places = places_of(runs)
    if len(places) > 1:
        scopes += [(Group("place", p), (runs["place"] == name).to_numpy()) for name, p in places.items()]
    for signal, wanted, moment in pairs:
        about = Estimand("Pearson", wanted, signal, moment, over="run")
        if _column(about) in runs:
            for group, chosen in scopes:
                yield from over_runs("predictors", group, runs[chosen], about)


def over_runs(question: str, group: Group, runs: pd.DataFrame, about: Estimand) -> Iterator[Row]:
    """Pearson and Spearman of two columns over runs. Those of a cell are alike, so nothing is tested."""
    x, y = (runs[name].to_numpy(dtype=float) for name in (_column(about), about.outcome))
    whole = np.isfinite(x) & np.isfinite(y)
    x, y = x[whole], y[whole]
    for kind in KINDS:
        row = Row(question, group, replace(about, name=kind), "run", str(len(x)), "description")

        def fill(kind: CorrelationKind = kind) -> dict[str, Any]:
            if len(x) < MIN_VALUES:
                raise UndeterminedError(f"{len(x)} run{'s' if len(x) != 1 else ''}; {MIN_VALUES} are needed")
            value = float(correlation_of(x, y, kind)(np.ones((1, len(x))))[0])
            if not math.isfinite(value):
                raise UndeterminedError("no variance")
            return {"value": value, "effect": value, "effect_name": "r" if kind == "Pearson" else "rho"}

        found = filled(row, fill)
        yield replace(found, note="; ".join(filter(None, [found.note, ALIKE])))


def _with_accuracy(runs: pd.DataFrame, draws: Draws) -> Iterator[Row]:
    """The declared signals at the chosen epoch with accuracy, in the scopes of retention."""
    gained = accuracy(runs)
    if gained not in outcomes(runs):
        note = f"the table has no {gained}"
        name = Estimand("correlation with", gained)
        yield Row("predictors", Group(), name, "cell", "0", "none", note=note)
        return
    places = places_of(runs)
    for signal in [name for name in signals(runs) if name in PRIMARY]:
        for group, both in _scopes(cell_means(runs, [signal, gained]), signal, gained, places):
            for kind in KINDS if both.within is None else KINDS[1:]:
                family = f"predictors, accuracy, {kind}"
                yield correlation("predictors", group, both, kind, draws, family)


def _orderings(runs: pd.DataFrame, asked: list[str], draws: Draws) -> Iterator[Row]:
    """Compare each signal that has a direction with :data:`COMPARED`: which orders retention better.

    Over all cells and over those of each target.
    """
    known = {*signals(runs), *columns_of("magnitude", runs)}
    for kept, signal in itertools.product(retentions(runs), asked):
        name = Estimand("oriented rho", kept, signal, term=COMPARED)
        if missing := [column for column in (signal, COMPARED) if column not in known]:
            note = f"the table has no {MAGNITUDE_OF.get(missing[0], missing[0])}"
            yield Row("predictors", Group(), name, "cell", "0", "none", note=note)
            continue
        cells = cell_means(runs, [signal, COMPARED, kept])
        places = {name: place for name, place in places_of(runs).items() if name in set(cells["place"])}
        scopes = [(Group(), cells)]
        if len(places) > 1:
            scopes += [(Group("place", p), cells[cells["place"] == name]) for name, p in places.items()]
        for group, part in scopes:
            row = Row("predictors", group, name, "cell", str(len(part)), "description")
            yield filled(row, partial(_better, part, signal, kept, draws))


def _better(cells: pd.DataFrame, signal: str, kept: str, draws: Draws) -> dict[str, Any]:
    """Difference of the signal's oriented rho from that of :data:`COMPARED`, resampling whole cells."""
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
    return lambda weights: -DIRECTIONS[signal] * rho(weights)


def _scopes(
    cells: pd.DataFrame, column: str, kept: str, known: dict[str, Place]
) -> Iterator[tuple[Group, ColumnPair]]:
    """List the scopes: all cells, each target, each target and method, and pooled within both.

    What would be the same cells once more, because there is one target or one method, is not repeated.
    """
    x, y = cells[column].to_numpy(dtype=float), cells[kept].to_numpy(dtype=float)
    whole = ColumnPair(column, kept, x, y, cells.index.to_numpy(), "cell")
    yield Group(), whole
    places, methods = cells["place"].to_numpy(dtype=str), cells["method"].to_numpy(dtype=str)
    pairs = list(zip(places.tolist(), methods.tolist(), strict=True))
    number = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
    arms = np.array([number[pair] for pair in pairs])
    if len(set(places)) > 1:
        for place in dict.fromkeys(places.tolist()):
            yield Group("place", known[place]), whole.part(places == place)
        yield Group("within places"), replace(whole, within=places.tolist())
    if len(number) > len(set(places)):
        for (place, method), i in number.items():
            yield Group("method", known[place], method), whole.part(arms == i)
        yield Group("within methods"), replace(whole, within=[f"{p}, {m}" for p, m in pairs])


def measures(runs: pd.DataFrame, draws: Draws) -> Iterator[Row]:
    """The correlation matrix of all signals over cell means (over runs, where there is one seed)."""
    pairs = list(itertools.combinations(signals(runs), 2))
    for first, second in pairs:
        cells = cell_means(runs, [first, second])
        x, y = cells[first].to_numpy(dtype=float), cells[second].to_numpy(dtype=float)
        both = ColumnPair(first, second, x, y, cells.index.to_numpy(), "cell")
        for kind in KINDS:
            yield correlation("measures", Group(), both, kind, draws)
    for first, second in pairs:
        if first in PRIMARY and second in PRIMARY:
            yield from over_runs("measures", Group(), runs, Estimand("Pearson", second, first, over="run"))
    if not pairs:
        yield Row(
            "measures", Group(), Estimand("correlation"), "cell", "0", "none", note="fewer than two measures"
        )


def _auc(runs: pd.DataFrame, about: Estimand, draws: Draws) -> Row:
    """AUC of the signal for retention below :data:`LOST_BELOW`, in the direction fixed in advance."""
    kept, signal = about.outcome, about.signal
    column = _column(about)
    lost = runs[kept].to_numpy() < LOST_BELOW
    row = Row(
        "predictors",
        Group(),
        replace(about, level=LOST_BELOW),
        "run",
        f"{lost.sum()}+{(~lost).sum()}",
        "description",
    )

    def fill() -> dict[str, Any]:
        if lost.all() or not lost.any():
            raise UndeterminedError("all runs on one side of the threshold")
        values = runs[column].to_numpy(dtype=float)
        fixed = DIRECTIONS.get(signal)
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
        area_of = auc_of(fixed * values, lost)
        area = float(area_of(whole)[0])
        out = {"value": area, "effect": area, "effect_name": "AUC"}
        out |= {"note": f"direction fixed in advance: {'higher' if fixed > 0 else 'lower'} means loss"}
        span = span_of(area_of, list(runs["cell"]), draws)
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
