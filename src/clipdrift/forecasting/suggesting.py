"""Rates by the drift of the first step: below the drift at which runs of the committed studies forgot."""

from __future__ import annotations

import math
from collections.abc import Sequence

from clipdrift.forecasting.result import FirstStep, Suggestion
from clipdrift.forecasting.tested import Evidence


def suggested(steps: Sequence[FirstStep], count: int, known: Evidence) -> Suggestion | None:
    """The largest rate whose first step drifts less than the threshold, between the candidates.

    Between two candidates the drift is taken as a power of the rate; beyond them nothing is said.

    Args:
        steps: first steps, by rising rate.
        count: steps after which the drift was read.
        known: what the committed studies bear out.

    Returns:
        None where they do not bear out the drift after so many steps.
    """
    threshold = known.threshold(count)
    if threshold is None or not steps:
        return None
    bound = threshold.drift
    rates = [step.rate for step in steps]
    count = max(len(step.drift_draws) for step in steps)
    draws = [crossing(rates, [_draw(step, draw) for step in steps], bound) for draw in range(count)]
    whole = [most for most in draws if most is not None]
    drifts = [math.inf if step.drift is None else step.drift for step in steps]
    return Suggestion(
        level=threshold.level,
        threshold=bound,
        most=crossing(rates, drifts, bound),
        low=min(whole) if len(whole) == len(draws) and whole else None,
        high=max(whole, default=None),
        open_above=max(drifts) < bound,
        sensitivity=threshold.sensitivity,
        methods=threshold.methods,
        source=known.source,
    )


def _draw(step: FirstStep, draw: int) -> float:
    """The drift of one draw; a step that broke some draws counts as above any threshold."""
    return math.inf if step.broken else step.drift_draws[draw]


def crossing(rates: Sequence[float], drifts: Sequence[float], bound: float) -> float | None:
    """The largest rate below which every candidate's drift is below the bound.

    Returns:
        None where the smallest is not; the largest candidate where all are.
    """
    below = list(zip(rates, drifts, strict=True))
    for place, (rate, drift) in enumerate(below):
        if drift < bound:
            continue
        if place == 0:
            return None
        before, least = below[place - 1]
        if least <= 0 or not math.isfinite(drift):
            return before
        share = math.log(bound / least) / math.log(drift / least)
        return before * (rate / before) ** share
    return rates[-1]
