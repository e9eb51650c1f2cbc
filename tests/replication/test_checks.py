"""Verdicts follow from intervals and corrected p-values, and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from clipdrift.outcomes.keys import Estimand, Group
from clipdrift.replication.checks import (
    Check,
    EvidenceRow,
    above,
    below,
    rises,
    stated,
    unresolved,
    verdict,
    within,
)

GROUP, R = Group(), Estimand("Pearson", "entropy_drift", "log_rate")


def source(low: float, high: float, p: float = 0.01) -> EvidenceRow:
    row = {"value": (low + high) / 2, "low": low, "high": high, "p_corrected": p, "effect": 0.0}
    return EvidenceRow("sweep", "rate", GROUP, R, "test", row)


NOTHING = EvidenceRow("sweep", "rate", GROUP, R, "test")


@pytest.mark.parametrize(
    ("sides", "wanted"),
    [
        (["for", "for"], "holds"),
        (["for", "open"], "holds in part"),
        (["for", "against"], "holds in part"),
        (["against", "open"], "does not hold"),
        (["against"], "does not hold"),
        (["open", "open"], "cannot be told"),
        ([], "cannot be told"),
    ],
)
def test_the_verdict(sides: list[str], wanted: str) -> None:
    assert verdict(sides) == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("check", "wanted"),
    [
        (above(source(0.1, 0.3), "x"), "for"),
        (above(source(-0.1, 0.3), "x"), "open"),
        (above(source(-0.3, -0.1), "x"), "against"),
        (above(source(-0.3, 0.1), "x", than=-0.5), "for"),
        (above(source(-0.9, -0.6), "x", than=-0.5), "against"),
        (below(source(-0.3, -0.1), "x"), "for"),
        (below(source(-0.3, 0.1), "x"), "open"),
        (below(source(0.1, 0.3), "x"), "against"),
        (within(source(-0.3, 0.3), 0.5, "x"), "for"),
        (within(source(-0.3, 0.6), 0.5, "x"), "open"),
        (within(source(0.6, 0.9), 0.5, "x"), "against"),
        (within(source(-0.9, -0.6), 0.5, "x"), "against"),
        (within(source(-0.9, 0.9), 0.5, "x"), "open"),
        (unresolved(source(0, 1, p=0.2), "x"), "for"),
        (unresolved(source(0, 1, p=0.01), "x"), "against"),
        (stated(source(0.1, 0.3), "x"), "open"),
    ],
)
def test_sides(check: Check, wanted: str) -> None:
    assert check.side == wanted


@pytest.mark.parametrize("make", [above, below])
def test_a_side_needs_its_p_value_where_one_is_asked_for(make: Callable[..., Check]) -> None:
    sign = 1 if make is above else -1
    row = source(*sorted((sign * 0.1, sign * 0.3)))
    assert make(row, "x", tested=source(0, 1, p=0.049)).side == "for"
    assert make(row, "x", tested=source(0, 1, p=0.05)).side == "open"
    assert make(row, "x", tested=source(0, 1, p=math.nan)).side == "open"
    assert make(row, "x", tested=NOTHING).side == "open"


@pytest.mark.parametrize(
    "check", [above(NOTHING, "x"), below(NOTHING, "x"), within(NOTHING, 1, "x"), unresolved(NOTHING, "x")]
)
def test_what_is_not_there_leaves_it_open(check: Check) -> None:
    assert check.side == "open"


def test_a_rise_is_one_where_the_intervals_are_apart() -> None:
    falling = [source(0.8, 1.2), source(0.5, 0.9), source(-0.2, 0.1)]
    assert not rises(falling)
    assert not rises([*falling, source(0.0, 0.3)])
    assert rises([*falling, source(0.2, 0.3)])
    assert not rises([*falling, NOTHING])
    assert not rises(falling[:1])
