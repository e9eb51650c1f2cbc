"""What follows from a row of numbers: warn, stop, keep, reduce the rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from clipdrift.rules.grammar import Rule, RuleError, parse_rule
from clipdrift.rules.rows import fulfils, rule_name, values_for

Condition = str | Rule | Callable[[Mapping[str, Any]], bool]
"""``cka < 0.9``, or a function of a row that says whether it is so."""
Mode = Literal["auto", "min", "max"]

EVIDENCE = "docs/early-warning.md"
WARN_DRIFT, SEVERE_DRIFT = 0.28, 0.71
"""Embedding drift above which runs ended below 90 % and below 50 % of the backbone's zero-shot accuracy."""
DRIFT_BELOW = {90.0: WARN_DRIFT, 50.0: SEVERE_DRIFT}
"""The same by that level of retention, percent."""
TEXT_DRIFT = 0.5
"""Drift of text embeddings above which trainings of the text tower alone ended far below 50 %."""
_WHERE = f"measured on small models, {EVIDENCE}"


def texts_are_near(row: Mapping[str, Any]) -> bool:
    """Whether texts have moved less than ``TEXT_DRIFT``, or not at all."""
    return float(row.get("drift/text_embedding_drift", 0.0)) < TEXT_DRIFT


@dataclass(frozen=True)
class Rules:
    """What to do when.

    Attributes:
        warn_when: said once when it begins to be so, and again after it was not.
        stop_when: the training is asked to stop.
        keep_best_when: only a state for which all of these hold, on every set and block that they name, is
            good, and the last good one is kept.
        reduce_rate_when: the learning rate is multiplied by ``factor``, once whenever it begins to be so.
        patience: measurements in a row in which a condition must hold before anything follows from it.
        warm_up: steps before which nothing is warned of, stopped or reduced.
        factor: of the rate.
        source: where the thresholds are from, for people.
    """

    warn_when: Condition | Sequence[Condition] = ()
    stop_when: Condition | Sequence[Condition] = ()
    keep_best_when: Condition | Sequence[Condition] = ()
    reduce_rate_when: Condition | Sequence[Condition] = ()
    patience: int = 1
    warm_up: int = 0
    factor: float = 0.5
    source: str = "yours"

    def __post_init__(self) -> None:
        for name in ("warn_when", "stop_when", "keep_best_when", "reduce_rate_when"):
            given = getattr(self, name)
            several = [given] if isinstance(given, str | Rule) or callable(given) else list(given)
            object.__setattr__(self, name, tuple(_condition(one, name) for one in several))
        if self.patience < 1 or self.warm_up < 0 or not 0 < self.factor < 1:
            raise RuleError(
                f"rules: patience = {self.patience}, warm_up = {self.warm_up}, factor = {self.factor:g}; at "
                "least one measurement, no fewer than 0 steps, a factor between 0 and 1"
            )

    @classmethod
    def default(cls) -> Rules:
        """Warn where zero-shot ability is likely lost, keep the last state before; never stop unasked."""
        return cls(
            warn_when=(
                f"embedding_drift >= {WARN_DRIFT}",
                f"embedding_drift >= {SEVERE_DRIFT}",
                f"text_embedding_drift >= {TEXT_DRIFT}",
            ),
            keep_best_when=(f"embedding_drift < {WARN_DRIFT}", texts_are_near),
            source=_WHERE,
        )

    @property
    def demands(self) -> tuple[Rule, ...]:
        """The bounds among ``keep_best_when``."""
        return tuple(one for one in _conditions(self.keep_best_when) if isinstance(one, Rule))

    def described(self) -> dict[str, Any]:
        """All of it in plain words and numbers."""
        found: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            found[one.name] = [_named(c) for c in value] if isinstance(value, tuple) else value
        return found


def _named(condition: Any) -> str:
    return (
        str(condition) if isinstance(condition, Rule) else getattr(condition, "__name__", "a rule of yours")
    )


def _condition(given: Any, where: str) -> Rule | Callable[[Mapping[str, Any]], bool]:
    if isinstance(given, Rule) or callable(given):
        return given
    try:
        return parse_rule(rule_name(str(given)))
    except RuleError as error:
        raise RuleError(f"{where}: {error}") from None


@dataclass(frozen=True)
class Said:
    """One thing that followed from a row.

    Attributes:
        kind: warning, stop, rate, kept or note.
        text: in plain words, with the number, the threshold and where it is from.
    """

    kind: str
    text: str


@dataclass
class Outcome:
    """What follows from one row."""

    said: list[Said] = field(default_factory=list)
    stop: bool = False
    reduce: bool = False
    good: bool = True


@dataclass(frozen=True)
class Watch:
    """One number followed as early stopping does it.

    Attributes:
        key: of a row.
        mode: whether it should grow or shrink; auto: by what it is.
        min_delta: smaller changes are none.
        patience: measurements without improvement after which the training is asked to stop; None: never.
        stopping_threshold: reached, the training is asked to stop.
        divergence_threshold: beyond it on the bad side, too.
        check_finite: too, where the number is nan or inf.
    """

    key: str
    mode: Mode = "auto"
    min_delta: float = 0.0
    patience: int | None = None
    stopping_threshold: float | None = None
    divergence_threshold: float | None = None
    check_finite: bool = True

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "min", "max"):
            raise RuleError(f"mode = {self.mode!r}: auto, min or max")
        if self.min_delta < 0 or (self.patience is not None and self.patience < 1):
            raise RuleError(f"min_delta = {self.min_delta:g}, patience = {self.patience}: not below 0 and 1")

    @property
    def grows(self) -> bool:
        if self.mode != "auto":
            return self.mode == "max"
        last = self.key.rpartition("/")[2] if "block_" not in self.key else self.key
        good = ("retention", "zero_shot/", "agreement", "cka")
        return any(word in self.key for word in good) and "kl" not in last

    def better(self, value: float, than: float) -> bool:
        return value > than + self.min_delta if self.grows else value < than - self.min_delta

    def beyond(self, value: float, threshold: float) -> bool:
        """Whether a value is on the good side of a threshold, or at it."""
        return value >= threshold if self.grows else value <= threshold


class Ruling:
    """Applies rules to one row after the other, and remembers what patience needs."""

    def __init__(self, rules: Rules, watch: Watch | None, stopping: str = "the training should stop") -> None:
        self.rules, self.watch, self.stopping = rules, watch, stopping
        self.counts: dict[str, int] = {}
        self.best: float | None = None
        self.waited = 0
        self.missing: set[str] = set()
        self._whole = True

    def judge(self, row: Mapping[str, Any], step: int, whole: bool = True) -> Outcome:
        """What follows from a row that was measured after ``step`` steps.

        Args:
            whole: whether it has everything that is ever measured; of another row nothing is missing.
        """
        found = Outcome()
        self._whole = whole
        warm = step >= self.rules.warm_up
        for number, one in enumerate(_conditions(self.rules.warn_when)):
            if text := self._begins(f"warn {number}", one, row, found, warm):
                found.said.append(Said("warning", text))
        for number, one in enumerate(_conditions(self.rules.reduce_rate_when)):
            if text := self._begins(f"rate {number}", one, row, found, warm):
                found.reduce = True
                found.said.append(
                    Said("rate", f"{text}: the learning rate is multiplied by {self.rules.factor:g}")
                )
        for number, one in enumerate(_conditions(self.rules.stop_when)):
            if text := self._begins(f"stop {number}", one, row, found, warm):
                found.stop = True
                found.said.append(Said("stop", f"{text}: {self.stopping}"))
        found.good = all(self._met(one, row, found) for one in _conditions(self.rules.keep_best_when))
        if self.watch is not None:
            self._followed(self.watch, row, found, warm)
        return found

    def _begins(self, key: str, one: Any, row: Mapping[str, Any], found: Outcome, warm: bool) -> str | None:
        """What to say if a condition has now held as often as patience asks, and had not before.

        Nothing is counted in the warm-up, so that what begins in it is said after it.
        """
        if (isinstance(one, Rule) and not self._measured(one, row, found)) or not warm:
            return None  # what was counted before stays
        text = self._holds(one, row)
        self.counts[key] = self.counts.get(key, 0) + 1 if text else 0
        return text if text and self.counts[key] == self.rules.patience else None

    def _measured(self, rule: Rule, row: Mapping[str, Any], found: Outcome) -> bool:
        """Whether the rule's number is there; if not, said once."""
        if values_for(rule, row):
            return True
        # a text tower that has not moved is not measured, which the default rules take for granted
        expected = self.rules.source == _WHERE and rule.name.startswith("text_")
        if self._whole and not expected and rule.measure not in self.missing:
            self.missing.add(rule.measure)
            text = f"{rule.measure} was not measured, so {rule} judges nothing"
            found.said.append(Said("warning", text))
        return False

    def _holds(self, one: Any, row: Mapping[str, Any]) -> str | None:
        """The condition in words if it holds."""
        if not isinstance(one, Rule):
            return f"{_named(one)} says so" if one(row) else None
        numbers = values_for(one, row)
        key = next((name for name, value in numbers.items() if one.holds(value)), None)
        if key is None:
            return None
        unit = " %" if one.unit == "%" else ""
        return f"{key} is {numbers[key]:.4g}{unit} ({one}; {self.rules.source})"

    def _met(self, one: Any, row: Mapping[str, Any], found: Outcome) -> bool:
        if not isinstance(one, Rule):
            return bool(one(row))
        return self._measured(one, row, found) and fulfils(one, row)

    def _followed(self, watch: Watch, row: Mapping[str, Any], found: Outcome, warm: bool) -> None:
        value = row.get(watch.key)
        if value is None:
            if watch.key not in self.missing:
                self.missing.add(watch.key)
                text = f"{watch.key} was not measured, so it cannot be followed"
                found.said.append(Said("warning", text))
            return
        if not math.isfinite(value):
            found.good = False
            if watch.check_finite and warm:
                _stop(found, f"{watch.key} is {value}: the training should stop")
            return
        if self.best is None or watch.better(value, self.best):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
            found.good = False
        if not warm:
            return
        if watch.stopping_threshold is not None and watch.beyond(value, watch.stopping_threshold):
            _stop(found, f"{watch.key} is {value:.4g} and has reached {watch.stopping_threshold:g}")
        if watch.divergence_threshold is not None and not watch.beyond(value, watch.divergence_threshold):
            _stop(found, f"{watch.key} is {value:.4g}, beyond {watch.divergence_threshold:g}")
        if watch.patience is not None and self.waited >= watch.patience:
            _stop(
                found, f"{watch.key} has not been better than {self.best:.4g} for {self.waited} measurements"
            )

    def state(self) -> dict[str, Any]:
        return {
            "counts": dict(self.counts),
            "best": self.best,
            "waited": self.waited,
            "missing": sorted(self.missing),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.counts = {str(key): int(value) for key, value in state["counts"].items()}
        self.best = None if state["best"] is None else float(state["best"])
        self.waited = int(state["waited"])
        self.missing = set(state["missing"])


def _conditions(given: Any) -> tuple[Any, ...]:
    """Conditions as :class:`Rules` keeps them."""
    return tuple(given)


def _stop(found: Outcome, text: str) -> None:
    found.stop = True
    found.said.append(Said("stop", text))
