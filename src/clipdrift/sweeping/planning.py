"""What every run of a sweep has in common: data divided into what chooses and what is left, rules, space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipdrift.config import DataSet, RunConfig, load_config, parse_config, put
from clipdrift.data.errors import DataError
from clipdrift.data.sources import open_source
from clipdrift.model.clip import load
from clipdrift.rules.ruling import SEVERE_DRIFT, WARN_DRIFT
from clipdrift.sweeping.errors import SweepError
from clipdrift.sweeping.halving import first_rung, rung_epochs
from clipdrift.sweeping.result import Asked
from clipdrift.sweeping.space import MethodLike, Space, space_of
from clipdrift.training.preparation import resolve

CHOOSING = 20
"""Images of each class of a transfer set that choose, where there are twice as many; else half of them."""
ConfigLike = RunConfig | Mapping[str, Any] | str | Path


@dataclass(frozen=True)
class Plan:
    """A sweep before it begins.

    Attributes:
        base: what every run has in common, apart from method, rate and epochs.
        planned: settings on the first rung.
        rest: transfer sets without the images that choose; of a set that is too small, the set.
    """

    asked: Asked
    base: RunConfig
    space: Space
    planned: int
    rest: tuple[DataSet, ...]
    notes: tuple[str, ...] = ()

    @property
    def epochs(self) -> tuple[int, ...]:
        return self.asked.epochs


def plan_of(
    config: ConfigLike,
    *,
    keep: float,
    budget: float,
    methods: Sequence[MethodLike],
    rates: str | float | Iterable[float],
    ranks: Sequence[int],
    keep_on: str | None,
    eta: int,
    batch: int,
    seed: int,
    mix: bool,
    prune: bool,
    choosing: int | None,
) -> Plan:
    """Check all that was asked for, and look at the data; nothing is trained.

    Raises:
        SweepError, ConfigError, DataError, ModelError: in one line what is wrong.
    """
    if not 0 < keep <= 100:
        raise SweepError(f"--keep {keep:g}: percent of zero-shot accuracy, above 0 and at most 100")
    if not budget > 0:
        raise SweepError(f"--budget {budget:g}: so many whole runs of work, above 0")
    for name, value, least in (("eta", eta, 2), ("batch", batch, 1), ("seed", seed, 0)):
        if value < least:
            raise SweepError(f"--{name} {value}: at least {least}")
    base = _config(config)
    rungs = rung_epochs(base.optim.epochs, eta)
    data = base.model_dump(mode="json")
    rule = _rule(keep, mix) if prune and not base.rules.stop_when else None
    if rule is not None:
        data = put(data, "rules.stop_when", [rule], "--prune")
    space = space_of(data, methods, rates, ranks, rungs[-1])
    planned = first_rung(budget, rungs, space.size, eta)
    base = resolve(base)
    sets = [spec for spec in base.data.transfer if not spec.retrieval]
    if not sets:
        raise SweepError(
            "no transfer set with classes, so nothing says what is kept; name one, as in --transfer cifar100"
        )
    if keep_on is not None and keep_on not in {spec.name for spec in sets}:
        known = ", ".join(spec.name for spec in sets)
        raise SweepError(f"--keep-on {keep_on}: no run is tested on it; there are {known}")
    divided = {spec.name: _divided(spec, base, choosing) for spec in sets}
    chosen = tuple(divided[spec.name][0] if spec.name in divided else spec for spec in base.data.transfer)
    rest = tuple(divided[spec.name][1] for spec in sets)
    notes = [
        f"{spec.name} has too few images of some class to leave any untouched: all of them choose"
        for spec in rest
        if spec.skip_per_class is None
    ]
    base = base.model_copy(update={"data": base.data.model_copy(update={"transfer": chosen})})
    kept_rules = space.base.get("rules")
    shared = base.model_dump(mode="json") | ({"rules": kept_rules} if kept_rules else {})
    told = Asked(
        keep=keep,
        keep_on=keep_on,
        budget=budget,
        methods=tuple(arm.name for arm in space.arms),
        rates=space.rates,
        epochs=rungs,
        eta=eta,
        batch=batch,
        seed=seed,
        mix=mix,
        prune=rule,
        choosing={name: pair[0].per_class for name, pair in divided.items()},
    )
    return Plan(told, base, Space(shared, space.arms, space.rates), planned, rest, tuple(notes))


def _config(given: ConfigLike) -> RunConfig:
    if isinstance(given, RunConfig):
        return given
    if isinstance(given, str | Path):
        return load_config(given)
    return parse_config(given, RunConfig)


def _rule(keep: float, mix: bool) -> str | None:
    """Rule beyond which a training is given up; None where no evidence supports any.

    The thresholds are those of docs/early-warning.md: beyond the first, runs ended below 90 %, beyond the
    second below 50 %. A run that keeps too little can still be mixed with its backbone, so where it will be,
    it is given up by the second alone.
    """
    if keep >= 90 and not mix:
        return f"embedding_drift >= {WARN_DRIFT}"
    return f"embedding_drift >= {SEVERE_DRIFT}" if keep >= 50 else None


def _divided(spec: DataSet, base: RunConfig, choosing: int | None) -> tuple[DataSet, DataSet]:
    """A transfer set as far as it chooses, and the rest of it; twice the set where nothing would be left."""
    if spec.skip_per_class is not None:
        raise SweepError(f"{spec.name}: skip_per_class is set by the sweep, for its last test; leave it out")
    source = open_source(spec, image_size=load(base.model).image_size, parts=("test",))
    if source.test is None:
        raise DataError(f"{spec.name}: a transfer set needs a test split")
    fewest = int(np.bincount(source.test.labels, minlength=len(source.classes)).min())
    wanted = choosing if choosing is not None else spec.per_class
    if wanted is not None and wanted > fewest:
        raise SweepError(
            f"{spec.name}: {wanted} images of each class are to choose, and some class has {fewest}; "
            "take fewer"
        )
    count = wanted if wanted is not None else min(CHOOSING, fewest // 2)
    if not count or count == fewest:
        return spec.model_copy(update={"per_class": count or None}), spec
    return (
        spec.model_copy(update={"per_class": count}),
        spec.model_copy(update={"per_class": None, "skip_per_class": count}),
    )
