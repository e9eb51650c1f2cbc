"""One correlation as a row: two columns, the permutation p, the interval over cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clipdrift.analysis.bootstrap import Statistic, correlation_of, interval
from clipdrift.analysis.draws import Draws
from clipdrift.analysis.permutation import CorrelationKind, UndeterminedError, correlate
from clipdrift.analysis.rows import Row, filled
from clipdrift.analysis.runs import PRIMARY
from clipdrift.outcomes.columns import outcome
from clipdrift.outcomes.keys import Estimand, Group

KINDS: tuple[CorrelationKind, ...] = ("Pearson", "Spearman")


@dataclass(frozen=True)
class ColumnPair:
    """Two columns of numbers, their names, and the cell of each pair of values.

    Attributes:
        unit: what a pair of values is of: ``run`` or ``cell``.
        within: a label for each pair, where values are compared with those of the same label only.
    """

    first: str
    second: str
    x: np.ndarray
    y: np.ndarray
    cells: np.ndarray
    unit: str
    within: list[str] | None = None

    def part(self, chosen: np.ndarray) -> ColumnPair:
        """Select those pairs for which ``chosen`` is true."""
        return replace(self, x=self.x[chosen], y=self.y[chosen], cells=self.cells[chosen])


def correlation(
    question: str,
    group: Group,
    both: ColumnPair,
    kind: CorrelationKind,
    draws: Draws,
    family: str | None = None,
) -> Row:
    """The row of a correlation: permutation p, interval over cells.

    Args:
        family: its family; if not given that of the question and the kind, the declared signals apart.
    """
    first = outcome(both.first)
    name = Estimand(kind, both.second, first.name, first.moment)
    if family is None:
        family = f"{question}, {kind}" + ("" if _primary(both) else ", further signals")
    row = Row(question, group, name, both.unit, str(len(both.x)), kind, family=family)

    def fill() -> dict[str, Any]:
        found = correlate(both.x, both.y, kind, draws=draws, strata=both.within)
        out = {"value": found.value, "p": found.p, "test": f"{kind}, {found.method}"}
        out |= {"effect": found.value, "effect_name": "r" if kind == "Pearson" else "rho"}
        if both.within is not None:
            return out | {"note": "no interval: pooled over strata"}
        return out | span_of(correlation_of(both.x, both.y, kind), list(both.cells), draws)

    return filled(row, fill)


def _primary(both: ColumnPair) -> bool:
    """Whether all signals of a correlation are declared ones, read at the chosen epoch."""
    others = ("log_rate",)
    names = [n for n in (both.first, both.second) if n not in others and outcome(n).kind != "retention"]
    return all(name in PRIMARY for name in names)


def span_of(statistic: Statistic, units: list[object], draws: Draws) -> dict[str, Any]:
    """The fields of a statistic's interval over cells, or the note that there is none."""
    try:
        span = interval(statistic, units, draws=draws, named="cell")
    except UndeterminedError as error:
        return {"note": f"no interval: {error}"}
    return {"low": span.low, "high": span.high, "interval": span.method}
