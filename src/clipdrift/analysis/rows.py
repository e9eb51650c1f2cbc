"""One row per test: keys, the number, its uncertainty, and the reason where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from clipdrift.analysis.permutation import UndeterminedError
from clipdrift.analysis.wording import group_words, statistic_words
from clipdrift.outcomes.keys import KEY_COLUMNS, Estimand, Group, columns_of_keys


@dataclass(frozen=True)
class Row:
    """The result of one test or one description.

    Attributes:
        question: key of ``clipdrift.study.plan.QUESTIONS``.
        group: the runs it is about.
        statistic: what ``value`` is, with the measures it is of.
        unit: what was sampled: ``run``, ``cell`` or ``pair of runs``; ``block (descriptive)`` where blocks of
            runs are described, which are no independent samples.
        n: how many units (``3+3`` for two samples).
        test: name of the test, ``description`` where there is none.
        value: the statistic; nan where ``note`` says why there is none.
        low, high: interval, 95 % unless ``interval`` says otherwise.
        interval: how the interval was found.
        p: two-sided.
        p_corrected: by Holm over ``family``.
        effect: effect size, named by ``effect_name``.
        note: why there is no number, or what must be known to read it.
    """

    question: str
    group: Group
    statistic: Estimand
    unit: str
    n: str
    test: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    interval: str = ""
    p: float = math.nan
    p_corrected: float = math.nan
    family: str = ""
    effect: float = math.nan
    effect_name: str = ""
    note: str = ""

    @property
    def found(self) -> bool:
        """Whether there is a number."""
        return math.isfinite(self.value)


COLUMNS = (*(field.name for field in fields(Row)), *KEY_COLUMNS)
"""Of a table of rows: ``group`` and ``statistic`` in words, at the end the keys that they are made from."""


def table(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a table with :data:`COLUMNS`, p-values corrected by Holm within each family."""
    return pd.DataFrame([_columns(row) for row in corrected(list(rows))], columns=list(COLUMNS))


def _columns(row: Row) -> dict[str, Any]:
    words = {"group": group_words(row.group), "statistic": statistic_words(row.statistic, row.group)}
    return vars(row) | words | columns_of_keys(row.group, row.statistic)


def filled(row: Row, fill: Callable[[], dict[str, Any]]) -> Row:
    """The row with what ``fill`` found, or with the reason why nothing was."""
    try:
        return replace(row, **fill())
    except UndeterminedError as error:
        return replace(row, note=str(error))


def corrected(rows: list[Row]) -> list[Row]:
    """The rows with ``p_corrected``; a family counts those of its rows that have a p-value."""
    adjusted: dict[int, float] = {}
    for family in {row.family for row in rows if row.family}:
        members = [i for i, row in enumerate(rows) if row.family == family and math.isfinite(row.p)]
        adjusted |= dict(zip(members, holm([rows[i].p for i in members]), strict=True))
    return [replace(row, p_corrected=adjusted[i]) if i in adjusted else row for i, row in enumerate(rows)]


def holm(p_values: Iterable[float]) -> list[float]:
    """p-values corrected by Holm's step-down method, in their order.

    The k-th smallest of m is multiplied by m - k + 1, made monotone and cut at 1 (Holm 1979). Not by
    ``statsmodels.multipletests``, which gives the same (a test holds it) but collects all garbage at each
    call: a third of the time of a study with 41 families.

    Raises:
        ValueError: a value outside [0, 1].
    """
    given = np.asarray(list(p_values), dtype=float)
    if not ((given >= 0) & (given <= 1)).all():
        raise ValueError(f"p-values lie between 0 and 1, not {given.tolist()}")
    order = np.argsort(given, kind="stable")
    out = np.empty_like(given)
    out[order] = np.minimum(1.0, np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1)))
    return out.tolist()
