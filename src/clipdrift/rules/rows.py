"""Rules on flat rows, where numbers have names such as ``drift/cka`` and ``retention/cifar100``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from clipdrift.rules.grammar import BY_SET, WORST, Rule, compares

_CHANGED_GAP = "modality_gap_change"
"""As tables call it: names that end in _drift are in percent."""


def rule_name(text: str) -> str:
    """A rule or a name with a row's key in place of a measure, as rules name it: ``drift/entropy`` is
    ``entropy_drift``."""
    text = text.strip()
    if text.startswith("|"):
        return f"|{rule_name(text[1:])}"
    head, slash, rest = text.partition("/")
    if text.startswith("drift/modality_gap"):
        return text.replace("drift/modality_gap", _CHANGED_GAP, 1)
    if not slash or head not in ("drift", "measure", "zero_shot"):
        return text
    if head == "zero_shot":
        return f"zero_shot_accuracy/{rest}"
    found = re.match(r"\w+", rest)
    name = found[0] if found else rest
    if head == "measure" or key_of(Rule(name, ">=", 0)) == f"drift/{name}":
        return rest
    return f"{name}_drift{rest[len(name) :]}"


_ALREADY = ("zero_shot_agreement", "zero_shot_kl")
"""Comparisons by name whose part is a set elsewhere, and which have one value here."""


def already_compared(name: str) -> bool:
    """Whether a measure compares two models itself, so that a row has its value and no drift of it."""
    return compares(name) or name in _ALREADY


def key_of(rule: Rule) -> str:
    """Where a row has a rule's number, without blocks and sets."""
    name = rule.name
    if name == "retention":
        return "retention"
    if name == "zero_shot_accuracy":
        return "zero_shot"
    if name == _CHANGED_GAP:
        return "drift/modality_gap"
    if already_compared(name):
        return f"drift/{name}"
    if name.endswith("_drift"):
        return f"drift/{name.removesuffix('_drift')}"
    return f"measure/{name}"


def values_for(rule: Rule, row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row that a condition is about, by key; none where it has not been measured.

    Of blocks, ``worst`` is the one for which the condition is most likely to hold.
    """
    found = _all_values(rule, row)
    if rule.part != WORST or not found:
        return found
    size = (lambda name: abs(found[name])) if rule.magnitude else found.__getitem__
    chosen = max(found, key=size) if rule.at_least else min(found, key=size)
    return {chosen: found[chosen]}


def fulfils(rule: Rule, row: Mapping[str, Any]) -> bool:
    """Whether a demand is met by every number that it is about: all sets, and for ``worst`` all blocks.

    Never where nothing was measured.
    """
    return shortfall(rule, row) == 0


def shortfall(rule: Rule, row: Mapping[str, Any]) -> float:
    """How far a row is from meeting a demand: the largest distance to the threshold, as a share of it.

    0 where it is met, otherwise above 0; inf where nothing was measured. A threshold of 0 counts as 1.
    """
    found = _all_values(rule, row)
    if not found:
        return math.inf
    return max(_distance(rule, value) for value in found.values())


def weakest(rule: Rule, row: Mapping[str, Any]) -> str | None:
    """The number that is furthest from meeting a demand, by key; None where nothing was measured."""
    found = _all_values(rule, row)
    return max(found, key=lambda name: _distance(rule, found[name])) if found else None


def _distance(rule: Rule, value: float) -> float:
    if rule.holds(value):
        return 0.0
    size = abs(value) if rule.magnitude else value
    away = abs(size - rule.threshold) / (abs(rule.threshold) or 1.0)
    return max(away, _LEAST) if math.isfinite(away) else math.inf


_LEAST = 1e-12
"""Distance of a number that lies on a threshold which it has to pass."""


def _all_values(rule: Rule, row: Mapping[str, Any]) -> dict[str, float]:
    """Every number that a rule is about; for ``worst`` all blocks."""
    key = key_of(rule)
    if rule.name in BY_SET and key in ("retention", "zero_shot"):
        wanted = [f"{key}/{rule.part}"] if rule.part else [name for name in row if name.startswith(f"{key}/")]
        return {name: float(row[name]) for name in wanted if name in row}
    if rule.part == WORST:
        return {name: float(v) for name, v in row.items() if name.startswith(f"{key}/block_")}
    if rule.part:
        key = f"{key}/{rule.part}"
    return {key: float(row[key])} if key in row else {}
