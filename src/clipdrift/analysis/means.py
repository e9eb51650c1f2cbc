"""Means with their t intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from clipdrift.analysis.effects import flat
from clipdrift.analysis.permutation import UndeterminedError
from clipdrift.analysis.rows import Row, filled
from clipdrift.analysis.runs import arm_group, outcomes
from clipdrift.outcomes.keys import Estimand

LEVEL = 0.95


def averaged(values: np.ndarray, unit: str, over: str) -> dict[str, Any]:
    """The fields of a row that is a mean: ``value``, and the ends of Student's t interval where there is one.

    Args:
        values: one per unit, (n,); those that are not finite are left out.
        unit: what one value is of, for the note where one is all there is.
        over: the units in the plural, for the interval's name.

    Raises:
        UndeterminedError: no value.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        raise UndeterminedError(f"no {unit} with a value")
    mean = float(known.mean())
    if len(known) == 1:
        return {"value": mean, "note": f"no interval: one {unit}"}
    if flat(known):
        return {"value": mean, "note": "no interval: no variance"}
    half = float(stdtrit(len(known) - 1, (1 + LEVEL) / 2) * known.std(ddof=1) / math.sqrt(len(known)))
    return {"value": mean, "low": mean - half, "high": mean + half, "interval": f"t over {over}"}


def cell_rows(runs: pd.DataFrame) -> Iterator[Row]:
    """The mean of every outcome at each rate of each arm, over its seeds; rows of the question ``rate``."""
    measured = outcomes(runs)
    for _, arm in runs.groupby("arm", sort=False):
        for rate, cell in arm.groupby("learning_rate", sort=False):
            group = replace(arm_group(cell), population="cell", rate=float(rate))
            for outcome in measured:
                values = cell[outcome].to_numpy(dtype=float)
                size = str(int(np.isfinite(values).sum()))
                row = Row("rate", group, Estimand("mean", outcome), "run", size, "description")
                yield filled(row, partial(averaged, values, "run", "seeds"))
