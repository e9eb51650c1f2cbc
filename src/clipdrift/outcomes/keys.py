"""What a row of statistics is about, as data: which runs, and which number of them.

Rows are looked up by these keys. Their words (``clipdrift.analysis.wording``) are written last, for people;
nothing reads them back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from clipdrift.outcomes.columns import ReadAt
from clipdrift.outcomes.places import Place

Population = Literal[
    "all", "place", "method", "within places", "within methods", "arm", "cell", "run", "two arms"
]
"""Which runs: all; of a place; of a method in a place; pooled within either; of an arm; of its cell; one run;
two arms side by side."""
Matching = Literal[
    "", "rate", "all rates", "blocks", "matched rate", "matched weight drift", "matched accuracy"
]
"""How two arms are laid side by side: at one rate, over all rates in common, block by block, or in pairs."""
Name = Literal[
    "Pearson", "Spearman", "correlation", "correlation with", "with", "oriented rho", "AUC", "mean",
    "mean difference", "t", "U", "W", "outcome", "difference", "mixed model", "depth", "early blocks",
    "middle blocks", "late blocks", "late against others", "foremost block", "F by third", "regret",
    "regret in", "nothing to choose", "Pareto set", "onset", "onset step", "steepest step", "spread",
    "spread of last epochs", "above the line", "nothing", "runs left out",
]  # fmt: skip
"""What the number is."""


@dataclass(frozen=True)
class Group:
    """The runs that a row is about.

    Attributes:
        population: what makes them a group.
        place: theirs; None where they are of several.
        method: of the population ``method``.
        arm, against: variants, the second where two arms are laid side by side; ``none`` without a penalty.
        matching: how two arms are matched.
        rate: learning rate, where it is one.
        seed, run: of a single run; of a choice the run that was chosen.
    """

    population: Population = "all"
    place: Place | None = None
    method: str = ""
    arm: str = ""
    against: str = ""
    matching: Matching = ""
    rate: float | None = None
    seed: str = ""
    run: str = ""


@dataclass(frozen=True)
class Estimand:
    """Quantity that the number of a row estimates.

    Attributes:
        name: the statistic.
        outcome: the column it is of, without its moment; of a correlation the second one.
        signal: of a correlation the first column, of a choice what it goes by.
        moment: when the signal was read.
        over: ``run`` for a correlation over runs where those over cells stand beside it.
        term: of a model; of a comparison of signals the other one.
        level: a threshold or count that belongs to the statistic.
    """

    name: Name
    outcome: str = ""
    signal: str = ""
    moment: ReadAt = ""
    over: str = ""
    term: str = ""
    level: float | None = None


KEY_COLUMNS = (
    "population", "place", "target", "backbone", "method", "arm", "against", "matching", "rate", "seed",
    "run", "quantity", "outcome", "signal", "moment", "over", "term", "level",
)  # fmt: skip
"""Columns of a table of rows that hold its keys; ``quantity`` is the statistic's name."""


def columns_of_keys(group: Group, statistic: Estimand) -> dict[str, Any]:
    """Spread keys over :data:`KEY_COLUMNS`: what is missing is empty, of numbers nan."""
    place = group.place
    found: dict[str, Any] = {
        "population": group.population,
        "place": "" if place is None else str(place),
        "target": "" if place is None else place.target,
        "backbone": "" if place is None else place.backbone,
    }
    found |= {name: getattr(group, name) for name in ("method", "arm", "against", "matching", "rate")}
    found |= {"seed": group.seed, "run": group.run, "quantity": statistic.name}
    found |= {n: getattr(statistic, n) for n in ("outcome", "signal", "moment", "over", "term", "level")}
    return {name: math.nan if value is None else value for name, value in found.items()}


def key_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The keys of a row of a table, to be compared and looked up."""
    return tuple(None if row[name] != row[name] else row[name] for name in KEY_COLUMNS)


def key(group: Group, statistic: Estimand) -> tuple[Any, ...]:
    """:func:`key_of` the row with these keys."""
    return key_of(columns_of_keys(group, statistic))


def select(
    rows: pd.DataFrame,
    quantity: Name | None = None,
    *,
    population: Population | None = None,
    matching: Matching | None = None,
    moment: ReadAt | None = None,
    **others: str | float,
) -> pd.DataFrame:
    """The rows whose keys have these values.

    Args:
        others: further columns of :data:`KEY_COLUMNS`, or ``test``, ``unit``.

    Raises:
        KeyError: no such column.
    """
    typed = {"quantity": quantity, "population": population, "matching": matching, "moment": moment}
    wanted = {name: value for name, value in typed.items() if value is not None} | others
    chosen = pd.Series(True, rows.index)
    for name, value in wanted.items():
        chosen &= rows[name] == value
    return rows[chosen]
