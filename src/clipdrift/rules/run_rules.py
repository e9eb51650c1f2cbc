"""The ``[rules]`` of a run: read, in one spelling, and refused where nothing measures their number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from clipdrift.config import ConfigError, ContrastiveObjective, RulesConfig, RunConfig
from clipdrift.config.rules import CONDITIONS
from clipdrift.listing import MEASURES, why_absent
from clipdrift.rules.grammar import OF_ROWS, RECALLS, Rule, RuleError, parse_rule
from clipdrift.rules.rows import rule_name
from clipdrift.rules.ruling import Rules

SOURCE = "the run's own rule"

_AT_THE_END = frozenset({"cka_minibatch", "effective_rank", "intruder_dimensions", *RECALLS}) | {
    name for name, entry in MEASURES.items() if entry.family in ("flow", "ability", "stability")
}
"""Measures that no look during a training has, zero-shot accuracy and retention apart."""
_ZERO_SHOT = ("retention", "zero_shot_accuracy")


def resolve_rules(config: RunConfig) -> RunConfig:
    """The configuration with each rule in one spelling, so that it does not enter the run's key in several.

    Raises:
        ConfigError: no rule, or one on a number that nothing measures while the run trains; with its key.
    """
    if config.rules == RulesConfig():
        return config
    spelt = {
        name: tuple(str(_read(name, text, config)) for text in getattr(config.rules, name))
        for name in CONDITIONS
    }
    return config.model_copy(update={"rules": config.rules.model_copy(update=spelt)})


def rules_of_run(config: RunConfig, blocks: int, absent: Mapping[str, str] = MappingProxyType({})) -> Rules:
    """What a training follows.

    Args:
        config: a resolved one.
        blocks: of the image tower.
        absent: measures that the image tower has not, or families of them: why.

    Raises:
        ConfigError: a rule on a block or a measure that the model does not have.
    """
    own = config.rules
    read = {name: [parse_rule(text) for text in getattr(own, name)] for name in CONDITIONS}
    for name, several in read.items():
        for rule in several:
            if not rule.name.startswith("text_") and (rule.block or 0) > blocks:
                raise ConfigError(
                    f"rules.{name}: rule '{rule}': {config.model.name} has {blocks} blocks, no {rule.part}"
                )
            measure = rule.name if rule.name in MEASURES else rule.name.removesuffix("_drift")
            if reason := why_absent(absent, measure):
                raise ConfigError(
                    f"rules.{name}: rule '{rule}': {config.model.name} has no {measure}: {reason}"
                )
    return Rules(**read, patience=own.patience, warm_up=own.warm_up, factor=own.factor, source=SOURCE)


def _read(key: str, text: str, config: RunConfig) -> Rule:
    try:
        rule = parse_rule(rule_name(text))
    except RuleError as error:
        raise ConfigError(f"rules.{key}: {error}") from None
    if why := _unmeasured(rule, config):
        raise ConfigError(f"rules.{key}: rule {text!r}: {why}")
    return rule


def _unmeasured(rule: Rule, config: RunConfig) -> str | None:
    """Why no look during the run has the rule's number; None where one has."""
    name = rule.name
    if name in _ZERO_SHOT:
        return _untested(rule, config)
    if name in OF_ROWS:
        return f"{name} is not among the numbers of a run's looks; a DriftMonitor measures it"
    measure = name if name in MEASURES else name.removesuffix("_drift")
    if measure in _AT_THE_END:
        return f"{name} is not measured while a run trains"
    if MEASURES[measure].family == "text":
        objective = config.objective
        if not isinstance(objective, ContrastiveObjective) or "text" not in objective.trained_towers(
            config.method
        ):
            return f"{name} is not measured, as this run does not train the text tower on captions"
    return None


def _untested(rule: Rule, config: RunConfig) -> str | None:
    sets = [spec.name for spec in config.data.transfer if not spec.retrieval]
    if not sets:
        return f"{rule.name} needs a transfer set with classes"
    if not config.evaluation.epoch_transfer_per_class:
        return (
            f"{rule.name} is measured at the end only; set evaluation.epoch_transfer_per_class too, to "
            "test it after each epoch"
        )
    if rule.part and rule.part not in {*sets, *(Path(name).name for name in sets)}:
        return f"no transfer set {rule.part}; there {'is' if len(sets) == 1 else 'are'} {', '.join(sets)}"
    return None
