"""Which epoch is kept: the most accurate one, or the most accurate of those that keep enough."""

from __future__ import annotations

from collections.abc import Sequence

from clipdrift.config import EvaluationConfig
from clipdrift.rules import Rule, shortfall
from clipdrift.runs.record import Point
from clipdrift.training.rows import row_of

_FAR = 1e9
"""Distance from a demand whose number was not measured."""


def score(point: Point, evaluation: EvaluationConfig, demands: Sequence[Rule] = ()) -> float:
    """Order epochs by: validation accuracy (percent), or, below all of these, what lacks to enough retention.

    With demands, an epoch that does not meet all of them, enough retention included, is below all that do,
    by the largest distance from one, as a share of its threshold.

    Args:
        point: an epoch's end.
        evaluation: with ``least_retention``, retention on every transfer set tested after the epoch counts;
            sets on which the backbone has none are left out.
        demands: rules that the epoch has to meet.
    """
    assert point.validation_accuracy is not None
    least = evaluation.least_retention
    kept = lowest_retention(point)
    if demands:
        missing = [shortfall(rule, row_of(point)) for rule in demands]
        if least is not None and kept is not None:
            missing.append(max(0.0, least - kept) / least)
        return point.validation_accuracy if max(missing) == 0 else -1 - min(max(missing), _FAR)
    if least is None or kept is None or kept >= least:
        return point.validation_accuracy
    return kept - least - 1


def lowest_retention(point: Point) -> float | None:
    """The smallest retention (percent) of a point; None where none was measured."""
    found = [part.retention for part in point.transfer.values() if part.retention is not None]
    return min(found, default=None)
