"""Rules on measures, ``cka >= 0.9``: their grammar, names and units.

A rule names one number of a comparison, or of a model in training, and bounds it:

    cka >= 0.9                    mean over blocks
    cka/block_6 >= 0.8            one block, counted from 1
    cka/worst >= 0.7              the block that comes closest to breaking the rule, or is furthest beyond it
    retention/cifar100 >= 90 %    one transfer set; without a set, every set that was tested
    entropy_drift >= -10          change in percent of what the backbone had
    |entropy_drift| <= 10         its size, whichever way
    entropy >= 2.5                the adapted model's own value

Every name is one of ``clipdrift ls measures``, or such a name with ``_drift``; of a model in training
also one of :data:`OF_ROWS`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, cast, get_args

from clipdrift.errors import ClipdriftError
from clipdrift.listing import MEASURES

Op = Literal[">=", ">", "<=", "<"]
Severity = Literal["error", "warn"]

WORST = "worst"
"""Part of a measure: the block that is worst by the rule's own direction."""
BY_SET = frozenset({"retention", "zero_shot_accuracy", "zero_shot_agreement", "zero_shot_kl"})
"""Measures whose part is a transfer set."""
RECALLS = ("recall_at_1", "recall_at_5", "recall_at_10")
"""Retrieval as rules name it; the part is a direction."""
DIRECTIONS = ("image_to_text", "text_to_image")
BY_MATRIX = frozenset({"effective_rank", "intruder_dimensions"})
"""Measures of single matrices: their mean, that of one kind of matrix as part, or the worst."""

_MATRICES = ("q", "k", "v", "out", "fc1", "fc1_g", "fc1_x", "fc2", "conv1", "conv2", "conv3", "conv_dw")

OF_ROWS = ("modality_gap", "modality_gap_change", "logit_scale")
"""Numbers of a model in training alone: the gap between both towers' embeddings, its change from the
backbone's in the same unit, and what cosines are multiplied by."""

_NO_RULE = ("recall_at_k", "subset_sensitivity", "task_vector_cosine")
"""Measures by other names in rules, of no model alone, or of two tuned models."""
_NOT_BLOCKS = BY_SET | BY_MATRIX | {"accuracy", "embedding_drift", "cka_embedding", *RECALLS, *OF_ROWS}
_COMPARISONS = frozenset(
    name
    for name, entry in MEASURES.items()
    if entry.family in ("weights", "ability", "stability") or "cka" in name or name.endswith("_drift")
)
"""Measures that compare two models already, and so have no drift."""
_PERCENTAGES = frozenset({"retention", "zero_shot_accuracy", "accuracy"})
_SHARES = frozenset({"zero_shot_agreement", *RECALLS}) | {name for name in _COMPARISONS if "cka" in name}
_RULE = re.compile(
    r"\s*(?P<bar>\|?)\s*(?P<measure>[^|<>=≥≤!]+?)\s*(?P<end>\|?)\s*"
    r"(?P<op>>=|<=|>|<|≥|≤)\s*(?P<number>[-+]?[\w.+-]+)\s*(?P<percent>%?)\s*"
)
_SIGNS: dict[str, Op] = {"≥": ">=", "≤": "<="}


class RuleError(ClipdriftError, ValueError):
    """A rule that says nothing: what is wrong with it, and how it would be right."""


@dataclass(frozen=True)
class Rule:
    """A bound on one number.

    Attributes:
        measure: with its part: ``cka``, ``cka/block_6``, ``retention/cifar100``.
        op: how the number has to stand to the threshold.
        threshold: in the measure's unit.
        magnitude: the number's size counts, not its sign.
        severity: what a broken rule is, an error or a warning.
    """

    measure: str
    op: Op
    threshold: float
    magnitude: bool = False
    severity: Severity = "error"

    def holds(self, value: float) -> bool:
        """Whether the rule holds for a value of :attr:`measure`, given with its sign; never for nan."""
        size = abs(value) if self.magnitude else value
        match self.op:
            case ">=":
                return size >= self.threshold
            case ">":
                return size > self.threshold
            case "<=":
                return size <= self.threshold
            case "<":
                return size < self.threshold

    @property
    def name(self) -> str:
        """The measure without its part."""
        return self.measure.partition("/")[0]

    @property
    def part(self) -> str:
        """``block_6``, ``worst``, a transfer set, a kind of matrix; empty for the whole."""
        return self.measure.partition("/")[2]

    @property
    def block(self) -> int | None:
        """The block of the part, counted from 1; None where the part is none."""
        found = re.fullmatch(r"block_(\d+)", self.part)
        return int(found[1]) if found and self.name not in _NOT_BLOCKS else None

    @property
    def at_least(self) -> bool:
        """Whether the rule is a lower bound, so that the smallest of several values is the worst."""
        return self.op in (">=", ">")

    @property
    def unit(self) -> str:
        return unit_of(self.name)

    def of(self, part: str) -> Rule:
        """The same bound on another part of the measure."""
        return replace(self, measure=f"{self.name}/{part}")

    def __str__(self) -> str:
        shown = f"|{self.measure}|" if self.magnitude else self.measure
        percent = " %" if self.unit == "%" else ""
        number = f"{self.threshold:.10g}"
        if float(number) != self.threshold:
            number = repr(self.threshold)  # read again, it is the same rule
        return f"{shown} {self.op} {number}{percent}"


def parse_rule(text: str, severity: Severity = "error") -> Rule:
    """Read a rule such as ``cka >= 0.9``.

    Raises:
        RuleError: no rule, an unknown measure or part, a threshold in another unit or beyond the measure's
            range; in one line.
    """
    found = _RULE.fullmatch(text)
    if found is None or bool(found["bar"]) != bool(found["end"]):
        raise RuleError(
            f"rule {text!r}: write a measure, one of >= > <= <, and a number, as in `cka >= 0.9`, "
            "`retention/cifar100 >= 90` or `|entropy_drift| <= 10`"
        )
    try:
        threshold = float(found["number"])
    except ValueError:
        raise RuleError(f"rule {text!r}: {found['number']} is not a number") from None
    op = cast(Op, _SIGNS.get(found["op"], found["op"]))
    rule = Rule(found["measure"], op, threshold, bool(found["bar"]), severity)
    try:
        _check(rule, bool(found["percent"]))
    except RuleError as error:
        raise RuleError(f"rule {text!r}: {error}") from None
    return rule


def rules_of(table: Mapping[str, Any], where: str = "[rules]") -> tuple[Rule, ...]:
    """Read a table of rules, as of a TOML file.

    A key names the measure; its value is a bound (``">= 0.9"``) or a table with ``min``, ``max`` or both, and
    ``severity``: ``error`` (the default) or ``warn``.

    Raises:
        RuleError: in one line, with the key.
    """
    return tuple(rule for key, value in table.items() for rule in _rules_of_key(key, value, where))


def _rules_of_key(key: str, value: Any, where: str) -> list[Rule]:
    if isinstance(value, str):
        return [_located(f"{key} {value}", "error", where)]
    legal = ("min", "max", "severity")
    if not isinstance(value, Mapping):
        raise RuleError(
            f'{where} {key} = {value!r}: write a bound, as in {key} = ">= 0.9", or {{ min = 0.9, severity = '
            '"warn" }'
        )
    for name in value:
        if name not in legal:
            raise RuleError(
                f"{where} {key}.{name}: unknown key{_near(name, legal)}; legal: min, max, severity"
            )
    severity = value.get("severity", "error")
    if severity not in get_args(Severity):
        raise RuleError(f"{where} {key}.severity = {severity!r}: legal are error and warn")
    bounds = [f"{sign} {value[name]}" for name, sign in (("min", ">="), ("max", "<=")) if name in value]
    if not bounds:
        raise RuleError(f"{where} {key}: no bound; give min, max or both")
    return [_located(f"{key} {bound}", severity, where) for bound in bounds]


def _located(text: str, severity: Severity, where: str) -> Rule:
    try:
        return parse_rule(text, severity)
    except RuleError as error:
        raise RuleError(f"{where} {error}") from None


@cache
def rule_measures() -> tuple[str, ...]:
    """Every name that a rule may have before its part."""
    own = [name for name in MEASURES if name not in _NO_RULE]
    drifts = [f"{name}_drift" for name in own if name not in _COMPARISONS]
    return (*own, *RECALLS, *(name for name in drifts if name not in own), *OF_ROWS)


def compares(name: str) -> bool:
    """Whether a measure compares two models already, and so has no drift."""
    return name in _COMPARISONS


def unit_of(name: str) -> str:
    """The unit of a rule's number: of a drift %, else the measure's."""
    if name in MEASURES:
        return MEASURES[name].unit
    return "%" if name.endswith("_drift") else ""


def _check(rule: Rule, percent: bool) -> None:
    known = rule_measures()
    name, part = rule.name, rule.part
    if name not in known:
        raise RuleError(
            f"unknown measure {name}{_near(name, known)}; `clipdrift ls measures` lists them, and their "
            "changes end in _drift"
        )
    if "/" in rule.measure and not part:
        raise RuleError(f"nothing after {name}/; {_parts(name)}")
    if part and name not in BY_SET and not _is_part(name, part):
        raise RuleError(f"{name} has no part {part}; {_parts(name)}")
    if not math.isfinite(rule.threshold):
        raise RuleError(f"{rule.threshold:g} bounds nothing")
    if percent and rule.unit != "%":
        unit = f"in {rule.unit}" if rule.unit else "a plain number"
        raise RuleError(f"{name} is {unit}, not a percentage")
    if name in _PERCENTAGES and 0 < abs(rule.threshold) <= 1 and not percent:
        raise RuleError(
            f"{name} is in percent: did you mean {100 * rule.threshold:g}? Else write {rule.threshold:g} %"
        )
    if name in _SHARES and abs(rule.threshold) > 1:
        raise RuleError(f"{name} is never above 1, so {rule.threshold:g} decides nothing")


def _is_part(name: str, part: str) -> bool:
    if name in RECALLS:
        return part in DIRECTIONS
    if name in BY_MATRIX:
        return part == WORST or part in _MATRICES
    if name in _NOT_BLOCKS:
        return False
    return part == WORST or re.fullmatch(r"block_[1-9]\d*", part) is not None


def _parts(name: str) -> str:
    if name in BY_SET:
        return f"name a transfer set, as in {name}/cifar100"
    if name in RECALLS:
        return f"it has {' and '.join(DIRECTIONS)}"
    if name in BY_MATRIX:
        return f"it has the kinds of matrix {', '.join(_MATRICES)}, and worst"
    return "it has none" if name in _NOT_BLOCKS else "it has blocks, as in block_6, and worst"


def _near(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" (near: {', '.join(near)})" if near else ""
