"""Names of a row's numbers as other libraries know them. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipdrift.monitoring import log
from clipdrift.rules import Watch

_GROW_SMALLER = ("embedding_drift", "weight_drift", "zero_shot_kl")


def underscored(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row by names without a slash: ``drift_cka``, ``retention_cifar100``."""
    return {key.replace("/", "_"): value for key, value in log.numbers(row).items()}


def key_of(name: str) -> str | None:
    """``drift/cka`` of ``drift_cka``; None where no row has such a name."""
    for head in log.HEADS:
        if name.startswith(f"{head}_"):
            return f"{head}/{name.removeprefix(f'{head}_')}"
    return None


def is_key(name: object) -> bool:
    """Whether a name is that of a row's number, ``drift/cka``."""
    head, slash, _ = name.partition("/") if isinstance(name, str) else ("", "", "")
    return bool(slash) and head in log.HEADS


def better_when(key: str) -> str | None:
    """``max`` or ``min``, as a number is better; None where that is a matter of taste, as for entropy."""
    if Watch(key).grows:
        return "max"
    return "min" if any(word in key for word in _GROW_SMALLER) else None
