"""Which epoch is kept: the most accurate one, or the most accurate of those that keep enough.

Without a task accuracy says nothing: the last one then stands for the most accurate.
"""

from __future__ import annotations

from collections.abc import Sequence

from clipdrift.config import EvaluationConfig, NoTask, RunConfig
from clipdrift.rules import Rule, shortfall
from clipdrift.runs.record import Point
from clipdrift.training.rows import row_of

_FAR = 1e9
"""Distance from a demand whose number was not measured."""


def takes_last(config: RunConfig) -> bool:
    """Whether later epochs are better, as nothing is learnt that validation could judge."""
    return isinstance(config.objective, NoTask)


def score(
    point: Point, evaluation: EvaluationConfig, demands: Sequence[Rule] = (), *, latest: bool = False
) -> float:
    """Order epochs by: validation accuracy (percent), or, below all of these, what lacks to enough retention.

    With demands, an epoch that does not meet all of them, enough retention included, is below all that do,
    by the largest distance from one, as a share of its threshold.

    Args:
        point: an epoch's end.
        evaluation: with ``least_retention``, retention on every transfer set tested after the epoch counts;
            sets on which the backbone has none are left out.
        demands: rules that the epoch has to meet.
        latest: the epoch's number stands for validation accuracy.
    """
    assert point.validation_accuracy is not None
    merit = float(point.epoch) if latest else point.validation_accuracy
    least = evaluation.least_retention
    kept = lowest_retention(point)
    if demands:
        missing = [shortfall(rule, row_of(point)) for rule in demands]
        if least is not None and kept is not None:
            missing.append(max(0.0, least - kept) / least)
        return merit if max(missing) == 0 else -1 - min(max(missing), _FAR)
    if least is None or kept is None or kept >= least:
        return merit
    return kept - least - 1


def lowest_retention(point: Point) -> float | None:
    """The smallest retention (percent) of a point; None where none was measured."""
    found = [part.retention for part in point.transfer.values() if part.retention is not None]
    return min(found, default=None)
