"""Two groups of runs side by side: methods at matched rate, drift, accuracy; penalties against none."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from clipdrift.analysis import effects
from clipdrift.analysis.bootstrap import d_of, interval
from clipdrift.analysis.permutation import UndeterminedError
from clipdrift.analysis.rows import Row
from clipdrift.analysis.runs import ARM, accuracy, outcomes

TwoSamples = Callable[[effects.Values, effects.Values], effects.Tested]
DRIFT_WITHIN = 0.25
"""Runs count as of equal weight drift where the larger exceeds the smaller by at most this share."""
ACCURACY_WITHIN = 1.0
"""Runs count as of equal accuracy within so many points."""


def filled(row: Row, fill: Callable[[], dict[str, Any]]) -> Row:
    """The row with what ``fill`` found, or with the reason why nothing was."""
    try:
        return replace(row, **fill())
    except UndeterminedError as error:
        return replace(row, note=str(error))


def methods(runs: pd.DataFrame, rng: np.random.Generator) -> Iterator[Row]:
    """Arms of different methods on the same target and backbone, without penalty, two at a time."""
    plain = runs[runs["penalty"].isna()] if "penalty" in runs else runs
    asked = False
    for where, here in plain.groupby(["target", "backbone"], sort=False):
        arms = [arm for _, arm in here.groupby("arm", sort=False)]
        for first, second in itertools.combinations(arms, 2):
            if first["method"].iloc[0] != second["method"].iloc[0]:
                asked = True
                yield from _pair(f"{where[0]}: {_name(first)} - {_name(second)}", first, second, rng)
    if not asked:
        yield Row("methods", "all", "difference", "run", "0", "none", note="no two methods on one target")


def penalties(runs: pd.DataFrame, rng: np.random.Generator) -> Iterator[Row]:
    """Each penalised arm against the arm that differs in the penalty alone, at the same rates."""
    penalised = runs[runs["penalty"].notna()] if "penalty" in runs else runs.iloc[:0]
    if penalised.empty:
        yield Row("penalties", "all", "difference", "run", "0", "none", note="no run has a penalty")
    for _, arm in penalised.groupby("arm", sort=False):
        plain = runs[runs["penalty"].isna() & (_without_penalty(runs) == _without_penalty(arm).iloc[0])]
        group = f"{arm['target'].iloc[0]}: {_name(arm)} - none"
        if plain.empty:
            yield Row("penalties", group, "difference", "run", "0", "none", note="no run without the penalty")
        else:
            yield from _at_rates("penalties", group, arm, plain, rng)
            yield from _paired(
                "penalties", group, "matched rate", arm, plain, _same_rate_and_seed(arm, plain)
            )


def _without_penalty(runs: pd.DataFrame) -> pd.Series:
    names = [name for name in ARM if name in runs and name not in ("penalty", "penalty_weight")]
    return runs[names].map(str).agg(" | ".join, axis=1)


def _name(arm: pd.DataFrame) -> str:
    return str(arm["variant"].iloc[0])


def _pair(group: str, first: pd.DataFrame, second: pd.DataFrame, rng: np.random.Generator) -> Iterator[Row]:
    yield from _at_rates("methods", group, first, second, rng)
    yield from _paired("methods", group, "matched rate", first, second, _same_rate_and_seed(first, second))
    for matched, column, distance, most in (
        ("matched weight drift", "weight_drift", np.log, float(np.log1p(DRIFT_WITHIN))),
        ("matched accuracy", accuracy(first), np.asarray, ACCURACY_WITHIN),
    ):
        if column in first:
            pairs = _nearest(first, second, column, distance, most)
            yield from _paired("methods", group, matched, first, second, pairs)
        else:
            note = f"the table has no {column}"
            yield Row("methods", f"{group}, {matched}", "difference", "pair of runs", "0", "none", note=note)


def _at_rates(
    question: str, group: str, first: pd.DataFrame, second: pd.DataFrame, rng: np.random.Generator
) -> Iterator[Row]:
    """Two samples at each rate in common, and over all of them."""
    rates = sorted(set(first["learning_rate"]) & set(second["learning_rate"]))
    if not rates:
        yield Row(question, group, "difference", "run", "0", "none", note="no learning rate in common")
        return
    scopes = [(f"rate {rate:g}", [rate]) for rate in rates]
    if len(rates) > 1:
        scopes.append(("all common rates", rates))
    for (scope, chosen), outcome in itertools.product(scopes, outcomes(first)):
        a, b = (side[side["learning_rate"].isin(chosen)].dropna(subset=[outcome]) for side in (first, second))
        for test, name in ((effects.welch, "Welch t"), (effects.mann_whitney, "Mann-Whitney U")):
            yield _two_samples(question, f"{group}, {scope}", outcome, a, b, test, name, len(chosen) > 1, rng)


def _two_samples(
    question: str,
    group: str,
    outcome: str,
    a: pd.DataFrame,
    b: pd.DataFrame,
    test: TwoSamples,
    name: str,
    several_cells: bool,
    rng: np.random.Generator,
) -> Row:
    size = f"{len(a)}+{len(b)}"
    row = Row(question, group, outcome, "run", size, name, family=f"{question}, matched rate, {name}")

    def fill() -> dict[str, Any]:
        found = test(a[outcome].to_numpy(), b[outcome].to_numpy())
        d = effects.cohens_d(a[outcome].to_numpy(), b[outcome].to_numpy())
        out = {"statistic": f"{found.statistic} of {outcome}", "value": found.value, "p": found.p}
        out |= {"effect": d, "effect_name": "Cohen's d"}
        if several_cells:
            both = pd.concat([a, b])
            is_first = np.arange(len(both)) < len(a)
            try:
                span = interval(
                    d_of(both[outcome].to_numpy(), is_first), list(both["cell"]),
                    rng=rng, named="cell", strata=list(is_first),
                )  # fmt: skip
            except UndeterminedError as error:
                return out | {"note": f"no interval: {error}"}
            return out | {"low": span.low, "high": span.high, "interval": f"of d: {span.method}"}
        return out | _noncentral("d", d, len(a), len(b))

    return filled(row, fill)


def _paired(
    question: str,
    group: str,
    matched: str,
    first: pd.DataFrame,
    second: pd.DataFrame,
    pairs: list[tuple[int, int]],
) -> Iterator[Row]:
    for outcome in outcomes(first):
        differences = np.array([first.at[i, outcome] - second.at[j, outcome] for i, j in pairs], dtype=float)
        differences = differences[np.isfinite(differences)]
        for test, name in ((effects.paired_t, "paired t"), (effects.wilcoxon, "Wilcoxon signed rank")):
            row = Row(
                question, f"{group}, {matched}", outcome, "pair of runs", str(len(differences)), name,
                family=f"{question}, {matched}, {name}",
            )  # fmt: skip
            yield filled(row, lambda t=test, d=differences, o=outcome: _of_differences(t, d, o))  # type: ignore[misc]


def _of_differences(
    test: Callable[[effects.Values], effects.Tested], differences: np.ndarray, outcome: str
) -> dict[str, Any]:
    found, size = test(differences), effects.d_z(differences)
    mean = f"mean difference {differences.mean():.6g}"
    span = _noncentral("d_z", size, len(differences))
    out = {"statistic": f"{found.statistic} of {outcome}", "value": found.value, "p": found.p}
    note = "; ".join(filter(None, [mean, span.get("note", "")]))
    return out | {"effect": size, "effect_name": "d_z"} | span | {"note": note}


def _noncentral(name: str, size: float, first: int, second: int | None = None) -> dict[str, Any]:
    try:
        low, high = effects.d_interval(size, first, second)
    except UndeterminedError as error:
        return {"note": f"no interval: {error}"}
    return {"low": low, "high": high, "interval": f"of {name}: noncentral t"}


def _same_rate_and_seed(first: pd.DataFrame, second: pd.DataFrame) -> list[tuple[int, int]]:
    keys = ["learning_rate", "seed"]
    left = {tuple(row): i for i, row in zip(first.index, first[keys].to_numpy().tolist(), strict=True)}
    right = {tuple(row): i for i, row in zip(second.index, second[keys].to_numpy().tolist(), strict=True)}
    return [(left[key], right[key]) for key in left if key in right]


def _nearest(
    first: pd.DataFrame, second: pd.DataFrame, column: str, scale: Callable[[Any], Any], most: float
) -> list[tuple[int, int]]:
    """Pairs whose scaled values differ least, each run once, none further apart than ``most``."""
    with np.errstate(all="ignore"):
        a, b = (scale(side[column].to_numpy(dtype=float)) for side in (first, second))
        apart = np.abs(a[:, None] - b[None, :])
    pairs: list[tuple[int, int]] = []
    left, right = set(range(len(a))), set(range(len(b)))
    for flat in np.argsort(apart, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(b))
        if i in left and j in right and apart[i, j] <= most:
            pairs.append((first.index[i], second.index[j]))
            left.discard(i)
            right.discard(j)
    return pairs
