"""Which epoch is kept: the most accurate one, or the most accurate of those that keep enough."""

from __future__ import annotations

from clipdrift.config import EvaluationConfig
from clipdrift.runs.record import Point


def score(point: Point, evaluation: EvaluationConfig) -> float:
    """Order epochs by: validation accuracy (percent), or, below all of these, what lacks to enough retention.

    Args:
        point: an epoch's end.
        evaluation: with ``least_retention``, retention on every transfer set tested after the epoch counts;
            sets on which the backbone has none are left out.
    """
    assert point.validation_accuracy is not None
    least = evaluation.least_retention
    kept = lowest_retention(point)
    if least is None or kept is None or kept >= least:
        return point.validation_accuracy
    return kept - least - 1


def lowest_retention(point: Point) -> float | None:
    """The smallest retention (percent) of a point; None where none was measured."""
    found = [part.retention for part in point.transfer.values() if part.retention is not None]
    return min(found, default=None)
