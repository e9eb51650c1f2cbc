"""Along depth, along training, along the way between two models: descriptions, run by run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from clipdrift.analysis.rows import Row
from clipdrift.analysis.runs import retentions

FALL = 1.0
"""Mean entropy has begun to fall where its drift is at or below minus so many percent."""
LAST_EPOCHS = 3
BLOCKS = "block (descriptive)"


def depth(runs: pd.DataFrame, blocks: pd.DataFrame) -> Iterator[Row]:
    """By cell and measure: drift of early, middle and late blocks, F of their difference, the foremost block.

    Blocks of one tower are no independent samples: F and its p describe, they test nothing.
    """
    known = blocks.merge(runs[["run", "cell", "place", "variant", "learning_rate"]], on="run")
    known = known.dropna(subset=["drift"])
    for (_, measure), part in known.groupby(["cell", "measure"], sort=False):
        one = part.iloc[0]
        group = f"{one['place']}: {one['variant']}, rate {one['learning_rate']:g}"
        drift = part.groupby("block")["drift"].mean().sort_index()
        size = f"{len(drift)} of {part['run'].nunique()} run(s)"
        if len(drift) < 6:
            note = f"{len(drift)} blocks; 6 are needed for thirds"
            yield Row("depth", group, f"{measure} by depth", BLOCKS, size, "none", note=note)
            continue
        thirds = np.array_split(drift.to_numpy(), 3)
        for name, third in zip(("early", "middle", "late"), thirds, strict=True):
            yield Row("depth", group, f"{measure}, {name} blocks, mean drift in %", BLOCKS, size,
                      "description", value=float(third.mean()))  # fmt: skip
        foremost = drift.index[int(np.argmax(np.abs(drift.to_numpy())))]
        yield Row("depth", group, f"{measure}, block of the largest drift", BLOCKS, size, "description",
                  value=float(foremost), effect=float(drift[foremost]), effect_name="drift in %")  # fmt: skip
        yield _anova(group, measure, size, thirds)


def _anova(group: str, measure: str, size: str, thirds: list[np.ndarray]) -> Row:
    row = Row("depth", group, f"F of {measure} by third", BLOCKS, size, "one-way ANOVA, descriptive")
    every = np.concatenate(thirds)
    within = sum(float(((t - t.mean()) ** 2).sum()) for t in thirds)
    total = float(((every - every.mean()) ** 2).sum())
    if within <= 1e-18 * max(1.0, float(np.abs(every).max())):
        return Row(**{**row.__dict__, "note": "no variance within thirds"})
    found = stats.f_oneway(*thirds)
    numbers = {"value": float(found.statistic), "p": float(found.pvalue)}
    return Row(**{**row.__dict__, **numbers, "effect": 1 - within / total, "effect_name": "eta squared"})


def onset(runs: pd.DataFrame, history: pd.DataFrame, fall: float = FALL) -> Iterator[Row]:
    """First step at which entropy has fallen by ``fall`` percent, and the largest change per step, by run."""
    if "entropy_drift" not in history:
        yield Row("onset", "all", "onset", "run", "0", "none", note="the history has no entropy_drift")
        return
    for group, steps, drift in _courses(runs, history, "entropy_drift"):
        size: dict[str, Any] = {"unit": "run", "n": f"1, {len(steps)} moments", "test": "description"}
        name = f"step at which entropy has fallen by {fall:g} %"
        below = np.flatnonzero(drift <= -fall)
        if len(steps) == 0:
            yield Row("onset", group, name, **size, note="no moment of training is recorded")
        elif len(below) == 0:
            yield Row("onset", group, name, **size, note=f"never; at the end {drift[-1]:.4g} %")
        else:
            share = float(steps[below[0]] / steps[-1]) if steps[-1] > 0 else 0.0
            yield Row("onset", group, name, **size, value=float(steps[below[0]]), effect=share,
                      effect_name="share of training")  # fmt: skip
        name = "largest change of entropy per step, % of the backbone's"
        if len(steps) < 2 or np.any(np.diff(steps) <= 0):
            yield Row("onset", group, name, **size, note="two moments at different steps are needed")
        else:
            change = np.diff(drift) / np.diff(steps)
            most = int(np.argmax(np.abs(change)))
            yield Row("onset", group, name, **size, value=float(change[most]), effect=float(steps[most + 1]),
                      effect_name="at step")  # fmt: skip


def convergence(runs: pd.DataFrame, history: pd.DataFrame, last: int = LAST_EPOCHS) -> Iterator[Row]:
    """Highest minus lowest validation accuracy (points) of the last epochs, by run."""
    if "validation_accuracy" not in history:
        note = "the history has no validation_accuracy"
        yield Row("convergence", "all", "spread", "run", "0", "none", note=note)
        return
    ends = history[history["ends_epoch"].astype(bool)] if "ends_epoch" in history else history
    name = f"spread of the last {last} epochs' validation accuracy, points"
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
            yield Row("interpolation", "all", column, "run", "0", "none", note=note)
            continue
        name = f"{column}: most above the line between the ends, points"
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
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Every run with its points in order, where and how much; empty for a run without points."""
    known = points[["run", along, column]].dropna().sort_values(along, kind="stable")
    parts = {
        run: (part[along].to_numpy(dtype=float), part[column].to_numpy(dtype=float))
        for run, part in known.groupby("run", sort=False)
    }
    none = np.empty(0), np.empty(0)
    for run in runs[["run", "place", "variant", "learning_rate", "seed"]].itertuples(index=False):
        name = f"{run.place}: {run.variant}, rate {run.learning_rate:g}, seed {run.seed} ({run.run})"
        yield name, *parts.get(run.run, none)
