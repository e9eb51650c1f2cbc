"""Check what a monitor is asked before anything is read. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clipdrift.errors import ClipdriftError, named_line, one_line
from clipdrift.listing import MEASURES, why_absent
from clipdrift.monitoring import log
from clipdrift.monitoring.errors import MonitorError
from clipdrift.rules import Rule, Rules
from clipdrift.rules.ruling import Outcome, Ruling

FORMAT = 1
"""Of a monitor's state."""

ANOTHER = 1.0
"""Relative change of the weights above which they are hardly the backbone's any more: two models that were
trained apart are some 1.4 from each other."""


def check_options(on_error: str, rules: Rules, optimizer: Any, monitor: str | None) -> None:
    """Refuse options that say nothing, or ask for what is missing.

    Raises:
        MonitorError: in a line what is wrong.
    """
    if on_error not in ("warn", "raise"):
        raise MonitorError(f"on_error = {on_error!r}: warn or raise")
    if rules.reduce_rate_when and optimizer is None:
        raise MonitorError("reduce_rate_when changes an optimiser's rates: say optimizer= too")
    if monitor is not None and monitor.partition("/")[0] not in log.HEADS:
        raise MonitorError(
            f"monitor = {monitor!r}: the key of a row, as in drift/cka, measure/entropy or retention/cifar100"
        )


def check_rules(
    ruling: Ruling, sets: Collection[str], blocks: int, absent: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Refuse rules on a set, a block or a measure that is not there: they would never decide anything.

    Args:
        absent: measures that the model has not, or families of them: why.

    Raises:
        MonitorError: names the rule, and what there is.
    """
    rules = ruling.rules
    asked: Any = (rules.warn_when, rules.stop_when, rules.keep_best_when, rules.reduce_rate_when)
    named = [(str(one), one) for conditions in asked for one in conditions if isinstance(one, Rule)]
    if ruling.watch is not None:
        text = f"monitor = {ruling.watch.key!r}"
        head, _, part = ruling.watch.key.partition("/")
        name = "retention" if head == "retention" else "zero_shot_accuracy"
        if head in ("retention", "zero_shot"):
            named.append((text, Rule(f"{name}/{part}", ">=", 0)))
        elif head in ("drift", "measure"):
            named.append((text, Rule(part, ">=", 0)))
    there = f"the transfer sets are {', '.join(sets)}" if sets else "there is no transfer set: say transfer="
    for text, one in named:
        if reason := why_absent(
            absent, one.name if one.name in MEASURES else one.name.removesuffix("_drift")
        ):
            raise MonitorError(f"{text}: the model has no {one.name}: {reason}")
        by_set = one.name in ("retention", "zero_shot_accuracy")
        if by_set and (one.part not in sets if one.part else not sets):
            raise MonitorError(f"{text}: {there}")
        if one.block is not None and one.block > blocks and not one.name.startswith("text_"):
            raise MonitorError(f"{text}: the image tower has {blocks} blocks")


def another(drift: float, out: Path) -> str | None:
    """What to say where the first measurement finds weights that are hardly those of the backbone.

    Args:
        drift: relative change of the weights.
    """
    if not drift > ANOTHER:
        return None
    return (
        f"the weights differ from the backbone's in {out} by more than their own size ({drift:.2f}): it is "
        "another model, or the training has broken this one (a rate too high, or updates in float16 without "
        "float32 weights); no number means much"
    )


def judge_nan(ruling: Ruling, step: int) -> Outcome:
    """What follows where the model computes nan: what early stopping says, if a number is followed."""
    if ruling.watch is None:
        return Outcome()
    alone = Ruling(Rules(warm_up=ruling.rules.warm_up), ruling.watch)
    return alone.judge({ruling.watch.key: math.nan}, step)


def check_state(state: Mapping[str, Any], images: str | None) -> None:
    """Refuse the state of another release, or of a monitor with other images than those of this digest.

    Raises:
        MonitorError: in a line what is wrong.
    """
    if state.get("format") != FORMAT:
        raise MonitorError(
            f"a monitor's state of format {state.get('format')!r}; this release reads {FORMAT}"
        )
    if images is not None and state["backbone"] not in (None, images):
        raise MonitorError("the state is of a monitor with other images")


def why(error: BaseException) -> str:
    """What went wrong, in a line: without its type where a user can mend it."""
    return one_line(error) if isinstance(error, ClipdriftError) else named_line(error)
