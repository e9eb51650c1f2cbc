"""Which arms are compared, and which of their runs form pairs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from clipdrift.analysis.runs import ARM, arm_group
from clipdrift.outcomes.keys import Group

ALL_PAIRS = 4
"""Up to so many arms on one target each is compared with each, beyond that with the reference only."""
REFERENCE = "full_ft"
DRIFT_WITHIN = 0.25
"""Runs count as of equal weight drift where the larger exceeds the smaller by at most this share."""
ACCURACY_WITHIN = 1.0
"""Runs count as of equal accuracy within so many points."""

Pairs = tuple[np.ndarray, np.ndarray]
"""Places of runs in the first arm and of their partners in the second."""


@dataclass(frozen=True)
class Sides:
    """Two arms to compare, and what the comparison is about."""

    group: Group
    first: pd.DataFrame
    second: pd.DataFrame

    @property
    def rates(self) -> list[float]:
        """Learning rates that both arms have."""
        return sorted(set(self.first["learning_rate"]) & set(self.second["learning_rate"]))


def methods_side_by_side(runs: pd.DataFrame) -> Iterator[Sides]:
    """Arms of different methods on the same target and backbone, without penalty.

    Each with each for up to four arms. More are compared with the arm of full_ft (of the first method, if
    there is none), because a family of all pairs would be too large to find anything.
    """
    plain = runs[runs["penalty"].isna()] if "penalty" in runs else runs
    for _, here in plain.groupby("place", sort=False):
        arms = [arm for _, arm in here.groupby("arm", sort=False)]
        pairs = list(itertools.combinations(arms, 2))
        if len(arms) > ALL_PAIRS:
            chosen = next((i for i, arm in enumerate(arms) if _method(arm) == REFERENCE), 0)
            pairs = [(arms[chosen], arm) for i, arm in enumerate(arms) if i != chosen]
        for first, second in pairs:
            if _method(first) != _method(second):
                yield Sides(_against(first, _variant(second)), first, second)


def penalties_side_by_side(runs: pd.DataFrame) -> Iterator[Sides]:
    """Pair each penalised arm with the arm that differs in the penalty alone; that one may be empty."""
    if "penalty" not in runs:
        return
    others = [name for name in ARM if name in runs and name not in ("penalty", "penalty_weight")]
    rest = runs[others].map(str).agg(" | ".join, axis=1) if len(runs) else pd.Series(dtype=str)
    for _, arm in runs[runs["penalty"].notna()].groupby("arm", sort=False):
        plain = runs[runs["penalty"].isna() & (rest == rest[arm.index[0]])]
        yield Sides(_against(arm, "none"), arm, plain)


def options_side_by_side(runs: pd.DataFrame) -> Iterator[Sides]:
    """Each arm with an option that is not the usual one of its method there, beside the arm whose options all
    are; that one may be empty. Arms with a penalty are left out."""
    plain = runs[runs["penalty"].isna()] if "penalty" in runs else runs
    for (_, method), here in plain.groupby(["place", "method"], sort=False):
        is_usual = here["variant"] == str(method)
        for _, arm in here[~is_usual].groupby("arm", sort=False):
            yield Sides(_against(arm, str(method)), arm, here[is_usual])


def _against(arm: pd.DataFrame, other: str) -> Group:
    return replace(arm_group(arm), population="two arms", against=other)


def _method(arm: pd.DataFrame) -> str:
    return str(arm["method"].iloc[0])


def _variant(arm: pd.DataFrame) -> str:
    return str(arm["variant"].iloc[0])


def same_rate_and_seed(sides: Sides) -> Pairs:
    """Runs of equal learning rate and seed."""
    left, right = (
        {key: i for i, key in enumerate(zip(arm["learning_rate"], arm["seed"], strict=True))}
        for arm in (sides.first, sides.second)
    )
    keys = [key for key in left if key in right]
    return np.array([left[k] for k in keys], dtype=int), np.array([right[k] for k in keys], dtype=int)


def same_weight_drift(sides: Sides) -> Pairs:
    """Runs whose weights have moved about as far; runs that have not moved have no partner."""
    return _nearest(sides, "weight_drift", float(np.log1p(DRIFT_WITHIN)), logarithmic=True)


def same_accuracy(sides: Sides, column: str) -> Pairs:
    """Runs of about equal accuracy."""
    return _nearest(sides, column, ACCURACY_WITHIN, logarithmic=False)


def _nearest(sides: Sides, column: str, most: float, logarithmic: bool) -> Pairs:
    """Form as many pairs as possible with no pair further apart than ``most``, and of those the nearest."""
    a, b = (arm[column].to_numpy(dtype=float) for arm in (sides.first, sides.second))
    if logarithmic:
        a, b = (np.log(np.where(v > 0, v, np.nan)) for v in (a, b))
    apart = np.abs(a[:, None] - b[None, :])
    far = ~(apart <= most)
    rows, columns = linear_sum_assignment(np.where(far, 1e6, apart))
    near = ~far[rows, columns]
    return rows[near], columns[near]
