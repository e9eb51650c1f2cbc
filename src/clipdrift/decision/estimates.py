"""Numbers of a comparison with their intervals, without a rule: what a model card prints."""

from __future__ import annotations

from collections.abc import Iterable

from clipdrift.comparison import Comparison
from clipdrift.comparison.samples import Samples
from clipdrift.decision.numbers import NotMeasured, number_of
from clipdrift.decision.result import Estimate
from clipdrift.decision.sampling import interval_of
from clipdrift.rules import Rule


def estimates(
    found: Comparison, samples: Samples, measures: Iterable[str], seed: int = 0
) -> dict[str, Estimate]:
    """The measures, named as in rules, that this comparison has."""
    known = {}
    for measure in measures:
        rule = Rule(measure, ">=", 0.0)
        try:
            number = number_of(found, rule)
        except NotMeasured:
            continue
        interval = interval_of(rule, number, samples, seed)
        known[measure] = Estimate(
            value=number.value, unit=rule.unit, low=interval.low, high=interval.high, method=interval.method
        )
    return known
