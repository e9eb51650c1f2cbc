"""Result of a check: one entry per rule, and what follows for whoever waits for an exit status."""

from __future__ import annotations

import json
from typing import Any, Literal

import pandas as pd
from pydantic import Field, PrivateAttr

from clipdrift.comparison import Comparison
from clipdrift.config import DataSet
from clipdrift.config.base import Frozen
from clipdrift.errors import INTERNAL, ClipdriftError
from clipdrift.rules import Op, Severity
from clipdrift.texts import decimal, percent

Status = Literal["holds", "broken", "not resolved", "not checked"]
HOLDS, BROKEN, NOTHING = 0, 1, 2
"""Exit statuses: every rule holds, one is broken, or it cannot be told."""


class CheckError(ClipdriftError):
    """A check that cannot be made as it was asked for; says what to change."""


class RuleResult(Frozen):
    """One rule and what became of it. Numbers are in the unit of the measure."""

    rule: str
    measure: str
    op: Op
    threshold: float
    unit: str
    severity: Severity
    status: Status
    value: float | None = Field(None, description="None where it was not measured.")
    standard_error: float | None = Field(None, description="Over images; None where it is not estimated.")
    low: float | None = Field(None, description="Lower end of the 95 % interval.")
    high: float | None = None
    method: str = Field("", description="How the interval was made, and over how many images.")
    reason: str = Field("", description="Why it was not checked or not resolved.")

    @property
    def judged(self) -> bool:
        return self.status in ("holds", "broken")

    def number(self, value: float) -> str:
        """A value of the measure as a reader takes it."""
        return percent(value) if self.unit == "%" else decimal(value)

    @property
    def value_text(self) -> str:
        return "" if self.value is None else self.number(self.value)

    @property
    def interval_text(self) -> str:
        """``0.941 to 0.962``; empty where there is none, or it has no width."""
        if self.low is None or self.high is None or self.low == self.high:
            return ""
        low, high = self.number(self.low), self.number(self.high)
        return f"{low.removesuffix(' %')} to {high}"

    def __str__(self) -> str:
        """One line: status, rule, value, interval, method or reason."""
        said = [f"{self.status}{' (warning)' if self.severity == 'warn' else ''}: {self.rule}"]
        if self.value is not None:
            interval = self.interval_text and f" (95 %: {self.interval_text}; {self.method})"
            said.append(f"is {self.value_text}{interval or f' ({self.method})'}")
        if self.reason:
            said.append(self.reason)
        return "; ".join(said)


class Checked(Frozen):
    """What a check found. :attr:`exit_status` is that of the command."""

    schema_version: Literal[1] = 1
    base: str
    tuned: str
    source: str = Field(description="Of the images on which internals were read.")
    images: int
    rules: tuple[RuleResult, ...]
    strict: bool = Field(False, description="A rule that is not resolved counts as broken.")
    error: str = Field("", description="Why nothing could be measured; empty where it was.")
    internal: bool = Field(False, description="The error is a mistake of clipdrift's own.")
    baseline: str = Field(
        "", description="Where BASE was to be kept; empty where that was not all that was asked."
    )
    notes: tuple[str, ...] = ()
    environment: dict[str, Any] = Field(default_factory=dict)
    _comparison: Comparison | None = PrivateAttr(None)

    @property
    def comparison(self) -> Comparison | None:
        """Everything that was measured; not part of the JSON."""
        return self._comparison

    def fails(self, rule: RuleResult) -> bool:
        """Whether a rule alone makes the check fail."""
        beyond = rule.status == "broken" or (self.strict and rule.status == "not resolved")
        return rule.severity == "error" and beyond

    @property
    def exit_status(self) -> int:
        """0: nothing is broken; 1: a rule is; 2: one was not checked, or none is resolved; 70: ours."""
        if self.internal:
            return INTERNAL
        if self.baseline:
            return NOTHING if self.error else HOLDS
        if any(self.fails(rule) for rule in self.rules):
            return BROKEN
        if any(rule.status == "not checked" and rule.severity == "error" for rule in self.rules):
            return NOTHING
        return HOLDS if any(rule.judged for rule in self.rules) else NOTHING

    @property
    def kept(self) -> bool:
        return self.exit_status == HOLDS

    def of(self, *statuses: Status) -> list[RuleResult]:
        return [rule for rule in self.rules if rule.status in statuses]

    @property
    def headline(self) -> str:
        """One sentence: is it kept?"""
        if self.baseline:
            return (
                f"BASE could not be kept: {self.error}" if self.error else f"BASE is kept in {self.baseline}."
            )
        if self.error:
            return f"Could not be checked: {self.error}"
        count = f"{len(self.rules)} rule{'s' if len(self.rules) > 1 else ''}"
        failing = sorted((rule for rule in self.rules if self.fails(rule)), key=lambda rule: rule.status)
        if failing:
            names = [
                f"{rule.rule}, at {rule.value_text}{'' if rule.status == 'broken' else ' not resolved'}"
                for rule in failing
            ]
            verb = "fails" if len(failing) == 1 else "fail"
            return f"Not kept: {len(failing)} of {count} {verb}: {'; '.join(names)}."
        if self.exit_status == NOTHING:
            missing = self.of("not checked")
            if missing:
                return f"Could not be checked: {missing[0].rule}: {missing[0].reason}"
            return (
                f"Could not be told: {self.images} images resolve none of {count}; take more images, or a "
                "threshold further away."
            )
        doubtful = [rule for rule in self.rules if rule.status != "holds"]
        if not doubtful:
            return f"Kept: {'the rule holds' if len(self.rules) == 1 else f'all {count} hold'}."
        said = ", ".join(f"{rule.rule} {_WORDS[rule.status]}" for rule in doubtful)
        return f"Kept: {len(self.of('holds'))} of {count} hold; {said}."

    def summary(self) -> str:
        """The headline, a line for each rule, notes."""
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([self.headline, *map(str, self.rules), *notes])

    def to_frame(self) -> pd.DataFrame:
        """One row per rule."""
        return pd.DataFrame([rule.model_dump() for rule in self.rules])

    def to_json(self) -> str:
        """Everything, with the exit status, as one JSON object."""
        status = {"exit_status": self.exit_status, "kept": self.kept, "headline": self.headline}
        return json.dumps(self.model_dump(mode="json") | status, indent=1, ensure_ascii=False) + "\n"


class Estimate(Frozen):
    """A number with its 95 % interval, both None where there is none."""

    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    method: str = ""


class HeadFacts(Frozen):
    """The classifier beside a tuned model. ``prompts``: of the class texts that it began as, where it did."""

    kind: Literal["linear", "zero_shot"]
    classes: int
    prompts: tuple[str, ...] = ()


class CardFacts(Frozen):
    """What a model card says of a tuned model: measured once, written by :mod:`clipdrift.reporting.card`."""

    comparison: Comparison
    estimates: dict[str, Estimate] = Field(description="By measure, named as in rules.")
    sets: dict[str, DataSet]
    adapter: bool
    head: HeadFacts | None = None


_WORDS = {
    "broken": "is broken (a warning)",
    "not resolved": "is not resolved",
    "not checked": "was not checked (a warning)",
}
