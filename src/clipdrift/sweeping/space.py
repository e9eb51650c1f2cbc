"""Settings that a sweep may try: methods with their options, and a grid of rates. Loads no torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipdrift.config import ConfigError, RunConfig, parse_config, put
from clipdrift.sweeping.errors import SweepError
from clipdrift.texts import option
from clipdrift.texts import rate as rate_text

RATES = "1e-6:1e-2"
METHODS = ("full_ft", "lora")
_STEPS = (1, 2, 5)
"""Rates of a range within a power of ten: few, so that sweeps and studies meet at the same runs."""

MethodLike = str | Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """A method with its options, as the configuration takes it, and in words."""

    method: Mapping[str, Any]
    name: str


@dataclass(frozen=True)
class Choice:
    """One setting: positions among the arms and the rates of a space."""

    arm: int
    rate: int


@dataclass(frozen=True)
class Space:
    """Settings that may be tried.

    Attributes:
        base: configuration of every run, as plain data.
        rates: rising.
    """

    base: Mapping[str, Any]
    arms: tuple[Arm, ...]
    rates: tuple[float, ...]

    @property
    def size(self) -> int:
        return len(self.arms) * len(self.rates)

    @property
    def choices(self) -> tuple[Choice, ...]:
        return tuple(Choice(*one) for one in itertools.product(range(len(self.arms)), range(len(self.rates))))

    def config(self, choice: Choice, epochs: int) -> RunConfig:
        """Raises ConfigError for a method that does not go together with the base."""
        data = put(self.base, "method", dict(self.arms[choice.arm].method), "--method")
        data = put(data, "optim.learning_rate", self.rates[choice.rate], "--rates")
        return parse_config(put(data, "optim.epochs", epochs, "epochs"), RunConfig)

    def name(self, choice: Choice) -> str:
        """In words: ``lora rank=4 at 1e-4``."""
        return f"{self.arms[choice.arm].name} at {rate_text(self.rates[choice.rate])}"


def space_of(
    base: Mapping[str, Any],
    methods: Sequence[MethodLike],
    rates: str | float | Iterable[float],
    ranks: Sequence[int],
    epochs: int,
) -> Space:
    """A space whose every setting is a legal run.

    Args:
        ranks: of every method that has a rank and for which none is given.

    Raises:
        SweepError, ConfigError: no methods, one twice, a rank for methods without one, no rates.
    """
    if not methods:
        raise SweepError("no method: name one at least, as in --method lora")
    arms: list[Arm] = []
    ranked = False
    for given in methods:
        table = {"name": given} if isinstance(given, str) else dict(given)
        options = parse_config(put(base, "method", table, "--method"), RunConfig).method
        several: list[dict[str, Any]] = [table]
        if ranks and "rank" in type(options).model_fields and "rank" not in table:
            several, ranked = [table | {"rank": rank} for rank in ranks], True
        arms += [Arm(one, _named(one)) for one in several]
    if ranks and not ranked:
        names = ", ".join(arm.name for arm in arms)
        raise SweepError(f"--rank: none of the methods has a rank that is open ({names}); add --method lora")
    for arm in arms:
        if [other.method for other in arms].count(arm.method) > 1:
            raise SweepError(f"--method {arm.name}: named twice")
    found = Space(base, tuple(arms), parse_rates(rates))
    for index in range(len(arms)):
        try:
            found.config(Choice(index, 0), epochs)
        except ConfigError as error:
            raise SweepError(f"--method {arms[index].name}: {error}") from None
    return found


def _named(method: Mapping[str, Any]) -> str:
    def said(value: Any) -> str:
        return "+".join(map(str, value)) if isinstance(value, list | tuple) else option(value)

    return " ".join([str(method["name"]), *(f"{k}={said(v)}" for k, v in method.items() if k != "name")])


def parse_rates(given: str | float | Iterable[float]) -> tuple[float, ...]:
    """Rates in rising order, each once.

    Args:
        given: ``1e-5:1e-2`` (1, 2 and 5 of each power of ten, both ends among them if they are such), or a
            list, as ``1e-5,3e-5``.

    Raises:
        SweepError: no number, a rate that is not above 0, an empty range.
    """
    if isinstance(given, str) and ":" in given:
        ends = [_number(part, given) for part in given.split(":")]
        if len(ends) != 2 or not 0 < ends[0] < ends[1]:
            raise SweepError(f"--rates {given}: write lowest:highest, as in {RATES}, or a list")
        powers = range(math.floor(math.log10(ends[0])) - 1, math.ceil(math.log10(ends[1])) + 1)
        grid = [float(f"{step}e{power}") for power in powers for step in _STEPS]
        inside = [rate for rate in grid if ends[0] * (1 - 1e-9) <= rate <= ends[1] * (1 + 1e-9)]
        if not inside:
            raise SweepError(f"--rates {given}: no 1, 2 or 5 of a power of ten lies between; give a list")
        return tuple(inside)
    if isinstance(given, str):
        found = [_number(part, given) for part in given.split(",")]
    else:
        found = [float(rate) for rate in ([given] if isinstance(given, int | float) else given)]
    if not found:
        raise SweepError(f"no rates were given; write --rates {RATES}, or a list")
    if wrong := [rate for rate in found if not (math.isfinite(rate) and rate > 0)]:
        raise SweepError(f"--rates: {wrong[0]:g} is no learning rate; it must be above 0")
    return tuple(sorted(set(found)))


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SweepError(f"--rates {whole}: {text.strip() or 'nothing'} is not a number") from None
