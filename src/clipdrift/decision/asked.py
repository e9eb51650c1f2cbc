"""Rules as they were asked for: texts, a TOML file, what cannot be measured whatever the models are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from clipdrift.config.load import read_toml
from clipdrift.decision.result import CheckError
from clipdrift.listing import MEASURES
from clipdrift.rules import BY_MATRIX, BY_SET, OF_ROWS, Rule, parse_rule, rules_of

RulesLike = str | Rule | Sequence[str | Rule]
"""A rule, ``"cka >= 0.9"``, or several."""


@dataclass(frozen=True)
class Asked:
    """A file of rules: ``[rules]``, and beside it ``transfer`` and ``strict``."""

    rules: tuple[Rule, ...]
    transfer: tuple[str, ...] = ()
    strict: bool = False


def rules_given(given: RulesLike) -> tuple[Rule, ...]:
    """Read rules given as texts or rules.

    Raises:
        RuleError: what is wrong with one.
    """
    several = [given] if isinstance(given, str | Rule) else list(given)
    return tuple(one if isinstance(one, Rule) else parse_rule(one) for one in several)


def read_rules(path: str | Path) -> Asked:
    """Read a file of rules.

    Raises:
        ConfigError, CheckError, RuleError: unreadable, unknown keys, a rule that says nothing; in one line.
    """
    data = read_toml(path)
    legal = ("rules", "transfer", "strict")
    for key in data:
        if key not in legal:
            near = get_close_matches(key, legal, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise CheckError(f"{path}: {key}: unknown key{hint}; legal keys: {', '.join(legal)}")
    table, sets, strict = data.get("rules", {}), data.get("transfer", []), data.get("strict", False)
    if not isinstance(table, dict) or not table:
        raise CheckError(f'{path}: no [rules]; write for example [rules] and below it cka = ">= 0.9"')
    sets = [sets] if isinstance(sets, str) else sets
    if not isinstance(sets, list) or not all(isinstance(one, str) for one in sets):
        raise CheckError(f'{path}: transfer = {sets!r}: write a list of names, as in ["cifar100"]')
    if not isinstance(strict, bool):
        raise CheckError(f"{path}: strict = {strict!r}: write true or false")
    return Asked(rules_of(table, f"{path}: [rules]"), tuple(sets), strict)


def refuse_unmeasurable(rules: Iterable[Rule], sets: Sequence[str]) -> None:
    """Refuse what no model could be measured on, before any is loaded.

    Args:
        sets: names of the transfer sets that will be tested.

    Raises:
        CheckError: the first rule of that kind, and what it lacks.
    """
    for rule in rules:
        if rule.name == "accuracy":
            raise CheckError(
                f"{rule}: accuracy needs a head trained on the target, which a check does not have; "
                "zero_shot_accuracy is measured on transfer sets"
            )
        if rule.name in OF_ROWS:
            raise CheckError(
                f"{rule}: {rule.name} is measured while a model trains, by a DriftMonitor; a check does not"
            )
        if rule.name in BY_SET and not sets:
            raise CheckError(f"{rule}: {rule.name} is measured on transfer sets; name one with --transfer")
        if rule.name in BY_SET and rule.part and rule.part not in sets:
            raise CheckError(
                f"{rule}: {rule.part} is not among the transfer sets: {', '.join(sets)}; name it with "
                "--transfer"
            )


def needs_flow(rules: Iterable[Rule]) -> bool:
    """Whether a rule bounds what whole attention maps are needed for."""
    names = (rule.name if rule.name in MEASURES else rule.name.removesuffix("_drift") for rule in rules)
    return any(name in MEASURES and MEASURES[name].family == "flow" for name in names)


def needs_spectra(rules: Iterable[Rule]) -> bool:
    return any(rule.name in BY_MATRIX for rule in rules)
