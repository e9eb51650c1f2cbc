"""Comparisons of two groups of runs: methods at matched rate, drift or accuracy; penalties; options."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from clipdrift.analysis import effects
from clipdrift.analysis.bootstrap import d_of, interval
from clipdrift.analysis.draws import Draws
from clipdrift.analysis.means import averaged
from clipdrift.analysis.pairing import (
    Pairs,
    Sides,
    methods_side_by_side,
    options_side_by_side,
    penalties_side_by_side,
    same_accuracy,
    same_rate_and_seed,
    same_weight_drift,
)
from clipdrift.analysis.permutation import UndeterminedError
from clipdrift.analysis.rows import Row, filled
from clipdrift.analysis.runs import accuracy, outcomes
from clipdrift.outcomes.keys import Estimand, Group, Matching

TWO_SAMPLES = ((effects.welch, "Welch t"), (effects.mann_whitney, "Mann-Whitney U"))
PAIRED = ((effects.paired_t, "paired t"), (effects.wilcoxon, "Wilcoxon signed rank"))


def methods(runs: pd.DataFrame, blocks: pd.DataFrame | None, draws: Draws) -> Iterator[Row]:
    """Arms of different methods on the same target and backbone, without penalty, two at a time."""
    asked = False
    for sides in methods_side_by_side(runs):
        asked = True
        yield from _at_rates("methods", sides, outcomes(runs), draws)
        yield from _paired("methods", sides, "matched rate", outcomes(runs), same_rate_and_seed(sides))
        yield from _by_block("methods", sides, blocks)
        judge = accuracy(runs)
        others: tuple[tuple[Matching, str, Callable[[Sides], Pairs]], ...] = (
            ("matched weight drift", "weight_drift", same_weight_drift),
            ("matched accuracy", judge, partial(same_accuracy, column=judge)),
        )
        for matched, column, pairs in others:
            if column in outcomes(runs):
                yield from _paired("methods", sides, matched, outcomes(runs), pairs(sides))
            else:
                group = replace(sides.group, matching=matched)
                yield _nothing("methods", group, f"the table has no {column}")
    if not asked:
        yield _nothing("methods", Group(), "no two methods on one target")


def penalties(runs: pd.DataFrame, blocks: pd.DataFrame | None, draws: Draws) -> Iterator[Row]:
    """Compare each penalised arm with the arm that differs in the penalty alone, at the same rates."""
    found = [_against("penalties", sides, "no run without the penalty", runs, blocks, draws)
             for sides in penalties_side_by_side(runs)]  # fmt: skip
    yield from itertools.chain(*found) if found else [_nothing("penalties", Group(), "no run has a penalty")]


def options(runs: pd.DataFrame, blocks: pd.DataFrame | None, draws: Draws) -> Iterator[Row]:
    """Compare each arm with an unusual option with its method's usual arm, without penalty, at the same
    rates."""
    found = [_against("options", sides, "no arm has the usual options", runs, blocks, draws)
             for sides in options_side_by_side(runs)]  # fmt: skip
    yield from itertools.chain(*found) if found else [_nothing("options", Group(), "no option varies")]


def _against(
    question: str, sides: Sides, without: str, runs: pd.DataFrame, blocks: pd.DataFrame | None, draws: Draws
) -> Iterator[Row]:
    """Compare arms with the one that each was derived from; that one may be empty."""
    if sides.second.empty:
        yield _nothing(question, sides.group, without)
        return
    yield from _at_rates(question, sides, outcomes(runs), draws)
    yield from _paired(question, sides, "matched rate", outcomes(runs), same_rate_and_seed(sides))
    yield from _by_block(question, sides, blocks)


def _nothing(question: str, group: Group, why: str) -> Row:
    return Row(question, group, Estimand("difference"), "run", "0", "none", note=why)


def _at_rates(question: str, sides: Sides, measured: list[str], draws: Draws) -> Iterator[Row]:
    """Two samples at each rate in common, and over all of them."""
    if not sides.rates:
        yield _nothing(question, sides.group, "no learning rate in common")
        return
    scopes = [(replace(sides.group, matching="rate", rate=float(rate)), [rate]) for rate in sides.rates]
    if len(sides.rates) > 1:
        scopes.append((replace(sides.group, matching="all rates"), sides.rates))
    for group, rates in scopes:
        a, b = (arm[arm["learning_rate"].isin(rates)] for arm in (sides.first, sides.second))
        for outcome in measured:
            left, right = (arm[outcome].to_numpy(dtype=float) for arm in (a, b))
            cells = None if len(rates) == 1 else (a["cell"].to_numpy(), b["cell"].to_numpy())
            yield from _two_samples(question, group, outcome, (left, right), cells, draws)


def _two_samples(
    question: str,
    group: Group,
    outcome: str,
    values: tuple[np.ndarray, np.ndarray],
    cells: tuple[np.ndarray, np.ndarray] | None,
    draws: Draws,
) -> Iterator[Row]:
    """Both tests with Cohen's d; its interval over cells, where there are several a side."""
    known = [np.isfinite(side) for side in values]
    a, b = (side[there] for side, there in zip(values, known, strict=True))
    size: dict[str, Any] | None = None

    def sized() -> dict[str, Any]:
        d = effects.cohens_d(a, b)
        out = {"effect": d, "effect_name": "Cohen's d"}
        if cells is None:
            return out | _noncentral("d", d, len(a), len(b))
        units = np.concatenate([side[there] for side, there in zip(cells, known, strict=True)])
        first = np.arange(len(units)) < len(a)
        try:
            span = interval(
                d_of(np.concatenate([a, b]), first),
                list(units),
                draws=draws,
                named="cell",
                strata=list(first),
            )
        except UndeterminedError as error:
            return out | {"note": f"no interval: {error}"}
        return out | {"low": span.low, "high": span.high, "interval": f"of d: {span.method}"}

    for test, name in TWO_SAMPLES:
        row = Row(
            question, group, Estimand("outcome", outcome), "run", f"{len(a)}+{len(b)}", name,
            family=f"{question}, matched rate, {name}",
        )  # fmt: skip
        try:
            found = test(a, b)
            size = sized() if size is None else size
        except UndeterminedError as error:
            yield replace(row, note=str(error))
            continue
        said: dict[str, Any] = {
            "statistic": Estimand(found.statistic, outcome),
            "value": found.value,
            "p": found.p,
        }
        yield replace(row, **said, **size)


def _paired(
    question: str, sides: Sides, matched: Matching, measured: list[str], pairs: Pairs
) -> Iterator[Row]:
    """Both paired tests of every outcome, and the mean difference in its own unit."""
    group, unit = replace(sides.group, matching=matched), "pair of runs"
    for outcome in measured:
        left, right = (
            arm[outcome].to_numpy(dtype=float)[places]
            for arm, places in zip((sides.first, sides.second), pairs, strict=True)
        )
        apart = left - right
        yield from _of_differences(question, group, matched, outcome, unit, apart)
        said, size = Estimand("mean difference", outcome), str(int(np.isfinite(apart).sum()))
        row = Row(question, group, said, unit, size, "mean difference")
        yield filled(row, partial(averaged, apart, "pair", "pairs"))


def _of_differences(
    question: str, group: Group, matched: str, outcome: str, unit: str, differences: np.ndarray
) -> Iterator[Row]:
    """Both paired tests with d_z and its interval from the noncentral t."""
    d = differences[np.isfinite(differences)]
    for test, name in PAIRED:
        row = Row(
            question, group, Estimand("outcome", outcome), unit, str(len(d)), name,
            family=f"{question}, {matched}, {name}",
        )  # fmt: skip

        def fill(test: effects.Test = test) -> dict[str, Any]:
            found, size = test(d), effects.d_z(d)
            span = _noncentral("d_z", size, len(d))
            note = "; ".join(filter(None, [f"mean difference {d.mean():.6g}", span.get("note", "")]))
            out = {"statistic": Estimand(found.statistic, outcome), "value": found.value, "p": found.p}
            return out | {"effect": size, "effect_name": "d_z"} | span | {"note": note}

        yield filled(row, fill)


def _by_block(question: str, sides: Sides, blocks: pd.DataFrame | None) -> Iterator[Row]:
    """Entropy drift block by block, at each rate in common: as published, a description.

    The blocks of a model depend on each other, so p says less than it seems to.
    """
    if blocks is None:
        return
    entropy = blocks[blocks["measure"] == "entropy"]
    for rate in sides.rates:
        a, b = (
            entropy[entropy["run"].isin(arm.loc[arm["learning_rate"] == rate, "run"])]
            .groupby("block")["drift"]
            .mean()
            for arm in (sides.first, sides.second)
        )
        yield from _of_differences(
            question, replace(sides.group, matching="blocks", rate=float(rate)), "blocks (descriptive)",
            "entropy_drift",
            "block (descriptive)", (a - b).to_numpy(dtype=float),
        )  # fmt: skip


def _noncentral(name: str, size: float, first: int, second: int | None = None) -> dict[str, Any]:
    try:
        low, high = effects.d_interval(size, first, second)
    except UndeterminedError as error:
        return {"note": f"no interval: {error}"}
    return {"low": low, "high": high, "interval": f"of {name}: noncentral t"}
