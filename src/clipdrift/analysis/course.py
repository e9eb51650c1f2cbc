"""Descriptions run by run: along depth, along training, along the path between two models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from clipdrift.analysis.correlations import ColumnPair, correlation
from clipdrift.analysis.draws import Draws
from clipdrift.analysis.means import averaged
from clipdrift.analysis.rows import Row, filled
from clipdrift.analysis.runs import arm_group, retentions
from clipdrift.outcomes.keys import Estimand, Group, Name
from clipdrift.outcomes.places import places_of

FALL = 1.0
"""Mean entropy has begun to fall where its drift is at or below minus so many percent."""
NEVER = 2.0
"""In place of a share of training where entropy never falls so far: later than any onset."""
ONSET_FAMILY = "onset, Spearman"
LAST_EPOCHS = 3
BLOCKS = "block (descriptive)"


def depth(runs: pd.DataFrame, blocks: pd.DataFrame) -> Iterator[Row]:
    """Describe depth by cell and measure: drift of early, middle and late blocks, F of their difference,
    the foremost block.

    Blocks of one tower are no independent samples: F and its p describe, they test nothing.
    """
    about = ["run", "cell", "target", "backbone", "place", "method", "variant", "learning_rate"]
    known = blocks.merge(runs[about], on="run")
    known = known.dropna(subset=["drift"])
    for (_, measure), part in known.groupby(["cell", "measure"], sort=False):
        rate = float(part["learning_rate"].iloc[0])
        group = replace(arm_group(part), population="cell", rate=rate)
        at, each = _grid(part)
        drift = np.nanmean(each, axis=0)
        size = f"{len(drift)} of {len(each)} run(s)"
        if len(drift) < 6:
            note = f"{len(drift)} blocks; 6 are needed for thirds"
            yield Row("depth", group, Estimand("depth", measure), BLOCKS, size, "none", note=note)
            continue
        thirds = np.array_split(drift, 3)
        yield from _over_runs(group, measure, each)
        most = int(np.argmax(np.abs(drift)))
        yield Row("depth", group, Estimand("foremost block", measure), BLOCKS, size, "description",
                  value=float(at[most]), effect=float(drift[most]), effect_name="drift in %")  # fmt: skip
        yield _anova(group, measure, size, thirds)


def _grid(part: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The blocks, and the drift of each in each run, (runs, blocks); nan where a run has none."""
    runs = pd.factorize(part["run"])[0]
    at, place = np.unique(part["block"].to_numpy(), return_inverse=True)
    flat, size = runs * len(at) + place, (int(runs.max()) + 1) * len(at)
    count = np.bincount(flat, minlength=size)
    total = np.bincount(flat, part["drift"].to_numpy(dtype=float), minlength=size)
    return at, np.where(count > 0, total / np.maximum(count, 1), np.nan).reshape(-1, len(at))


def _over_runs(group: Group, measure: str, drift: np.ndarray) -> Iterator[Row]:
    """Means of blocks within each run, then over the runs, whose spread gives the interval.

    Args:
        drift: (runs, blocks), percent; a run that lacks a block that is asked for is left out.
    """
    thirds = np.array_split(drift, 3, axis=1)
    early, middle, late = (np.abs(third) for third in thirds)
    names: tuple[Name, ...] = ("early blocks", "middle blocks", "late blocks")
    found = {name: third.mean(axis=1) for name, third in zip(names, thirds, strict=True)}
    others = np.concatenate([early, middle], axis=1).mean(axis=1)
    found["late against others"] = late.mean(axis=1) - others
    for name, values in found.items():
        row = Row(
            "depth",
            group,
            Estimand(name, measure),
            "run",
            str(int(np.isfinite(values).sum())),
            "description",
        )
        yield filled(row, partial(averaged, values, "run", "runs"))


def _anova(group: Group, measure: str, size: str, thirds: list[np.ndarray]) -> Row:
    row = Row("depth", group, Estimand("F by third", measure), BLOCKS, size, "one-way ANOVA, descriptive")
    every = np.concatenate(thirds)
    within = sum(float(((t - t.mean()) ** 2).sum()) for t in thirds)
    total = float(((every - every.mean()) ** 2).sum())
    if within <= 1e-18 * max(1.0, float(np.abs(every).max())):
        return Row(**{**row.__dict__, "note": "no variance within thirds"})
    found = stats.f_oneway(*thirds)
    numbers = {"value": float(found.statistic), "p": float(found.pvalue)}
    return Row(**{**row.__dict__, **numbers, "effect": 1 - within / total, "effect_name": "eta squared"})


def onset(runs: pd.DataFrame, history: pd.DataFrame, draws: Draws, fall: float = FALL) -> Iterator[Row]:
    """First step at which entropy has fallen by ``fall`` percent, and the largest change per step, by run.

    For each arm with two rates or more, also whether the fall begins earlier at higher rates.
    """
    if "entropy_drift" not in history:
        yield Row(
            "onset", Group(), Estimand("onset"), "run", "0", "none", note="the history has no entropy_drift"
        )
        return
    begun = []
    for group, steps, drift in _courses(runs, history, "entropy_drift"):
        begun.append(_share(steps, drift, fall))
        size: dict[str, Any] = {"unit": "run", "n": f"1, {len(steps)} moments", "test": "description"}
        name = Estimand("onset step", level=fall)
        below = np.flatnonzero(drift <= -fall)
        if len(steps) == 0:
            yield Row("onset", group, name, **size, note="no moment of training is recorded")
        elif len(below) == 0:
            yield Row("onset", group, name, **size, note=f"never; at the end {drift[-1]:.4g} %")
        else:
            yield Row("onset", group, name, **size, value=float(steps[below[0]]), effect=begun[-1],
                      effect_name="share of training")  # fmt: skip
        name = Estimand("steepest step")
        if len(steps) < 2 or np.any(np.diff(steps) <= 0):
            yield Row("onset", group, name, **size, note="two moments at different steps are needed")
        else:
            change = np.diff(drift) / np.diff(steps)
            most = int(np.argmax(np.abs(change)))
            yield Row("onset", group, name, **size, value=float(change[most]), effect=float(steps[most + 1]),
                      effect_name="at step")  # fmt: skip
    yield from _with_rate(runs, np.array(begun, dtype=float), draws, fall)


def _share(steps: np.ndarray, drift: np.ndarray, fall: float) -> float:
    """The share of training at which entropy has fallen; :data:`NEVER`; nan without a moment of training."""
    if len(steps) == 0:
        return math.nan
    below = np.flatnonzero(drift <= -fall)
    if len(below) == 0:
        return NEVER
    return float(steps[below[0]] / steps[-1]) if steps[-1] > 0 else 0.0


def _with_rate(runs: pd.DataFrame, begun: np.ndarray, draws: Draws, fall: float) -> Iterator[Row]:
    """log10 of the rate with the onset, for each arm with two rates or more; over runs."""
    for _, arm in runs.assign(begun=begun).groupby("arm", sort=False):
        if arm["log_rate"].nunique() < 2:
            continue
        rates, onsets = (arm[name].to_numpy(dtype=float) for name in ("log_rate", "begun"))
        group = arm_group(arm)
        both = ColumnPair("log_rate", "onset", rates, onsets, arm["cell"].to_numpy(), "run")
        both = both.part(np.isfinite(rates + onsets))
        never, n = int((both.y == NEVER).sum()), len(both.y)
        if never == n:
            note = f"no run's entropy falls by {fall:g} %" if n else "no moment of training is recorded"
            name = Estimand("Spearman", "onset", "log_rate")
            yield Row("onset", group, name, "run", str(n), "Spearman", family=ONSET_FAMILY, note=note)
            continue
        row = correlation("onset", group, both, "Spearman", draws, ONSET_FAMILY)
        last = f"{never} of {n} runs never, ranked last" if never else ""
        yield replace(row, note="; ".join(filter(None, [last, row.note])))


def convergence(runs: pd.DataFrame, history: pd.DataFrame, last: int = LAST_EPOCHS) -> Iterator[Row]:
    """Highest minus lowest validation accuracy (points) of the last epochs, by run."""
    if "validation_accuracy" not in history:
        note = "the history has no validation_accuracy"
        yield Row("convergence", Group(), Estimand("spread"), "run", "0", "none", note=note)
        return
    ends = history[history["ends_epoch"].astype(bool)] if "ends_epoch" in history else history
    name = Estimand("spread of last epochs", level=last)
    for group, steps, course in _courses(runs, ends, "validation_accuracy"):
        size, values = f"1, {len(steps)} epochs", course[-last:]
        if len(values) < last:
            note = f"{len(values)} epochs; {last} are needed"
            yield Row("convergence", group, name, "run", size, "none", note=note)
        else:
            yield Row("convergence", group, name, "run", size, "description", value=float(np.ptp(values)),
                      effect=float(values.std(ddof=1)), effect_name="standard deviation")  # fmt: skip


def interpolation(runs: pd.DataFrame, paths: pd.DataFrame) -> Iterator[Row]:
    """Height of the path above the line between its ends, by run, for accuracy and every retention."""
    for column in ["accuracy", *retentions(paths)]:
        if column not in paths:
            note = f"the paths have no {column}"
            yield Row("interpolation", Group(), Estimand("outcome", column), "run", "0", "none", note=note)
            continue
        name = Estimand("above the line", column)
        for group, alpha, value in _courses(runs, paths, column, along="alpha"):
            size = f"1, {len(alpha)} steps"
            if len(alpha) < 3 or float(np.ptp(alpha)) == 0:
                note = "three steps of the path are needed"
                yield Row("interpolation", group, name, "run", size, "none", note=note)
                continue
            above = value - np.interp(alpha, alpha[[0, -1]], value[[0, -1]])
            most = int(np.argmax(above))
            yield Row("interpolation", group, name, "run", size, "description", value=float(above[most]),
                      effect=float(alpha[most]), effect_name="at alpha")  # fmt: skip


def _courses(
    runs: pd.DataFrame, points: pd.DataFrame, column: str, along: str = "step"
) -> Iterator[tuple[Group, np.ndarray, np.ndarray]]:
    """Every run with its points in order, where and how much; empty for a run without points."""
    known = points[["run", along, column]].dropna().sort_values(along, kind="stable")
    parts = {
        run: (part[along].to_numpy(dtype=float), part[column].to_numpy(dtype=float))
        for run, part in known.groupby("run", sort=False)
    }
    none = np.empty(0), np.empty(0)
    places = places_of(runs)
    about = ["run", "place", "method", "variant", "learning_rate", "seed"]
    for run in runs[about].itertuples(index=False):
        yield (
            Group(
                "run",
                places[run.place],
                str(run.method),
                str(run.variant),
                rate=float(run.learning_rate),
                seed=str(run.seed),
                run=str(run.run),
            ),
            *parts.get(run.run, none),
        )
