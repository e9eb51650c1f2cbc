"""Lay a number and its interval beside a rule."""

from __future__ import annotations

from clipdrift.decision.result import RuleResult, Status
from clipdrift.decision.sampling import Interval
from clipdrift.rules import Rule


def judge(rule: Rule, value: float, interval: Interval) -> RuleResult:
    """Judge a rule: it is resolved where both ends of the interval are on the side of the value."""
    return RuleResult(
        **_asked(rule),
        status=_status(rule, value, interval),
        value=value,
        standard_error=interval.standard_error,
        low=interval.low,
        high=interval.high,
        method=interval.method,
    )


def not_checked(rule: Rule, reason: str) -> RuleResult:
    return RuleResult(**_asked(rule), status="not checked", reason=reason)


def _asked(rule: Rule) -> dict[str, object]:
    names = ("measure", "op", "threshold", "unit", "severity")
    return {"rule": str(rule)} | {name: getattr(rule, name) for name in names}


def _status(rule: Rule, value: float, interval: Interval) -> Status:
    if not interval.resolvable:
        return "not resolved"
    ends = [value]
    if interval.low is not None and interval.high is not None:
        ends += [interval.low, interval.high]
        if rule.magnitude and interval.low < 0 < interval.high:
            ends.append(0.0)
    held = {rule.holds(end) for end in ends}
    if len(held) > 1:
        return "not resolved"
    return "holds" if held.pop() else "broken"
