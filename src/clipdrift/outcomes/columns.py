"""What a column of a table of runs holds: kind, moment, transfer set, unit, and which way is better.

A column's name is taken apart here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

Kind = Literal["accuracy", "zero-shot", "retention", "drift", "magnitude", "other"]
ReadAt = Literal["", "epoch1", "best", "last", "backbone"]
"""When a number was read; without one, at the epoch chosen on validation."""

RISES_WITH_LOSS = {
    "representation_drift": 1, "embedding_drift": 1, "weight_drift": 1, "zero_shot_kl": 1,
    "entropy_drift": -1, "erf95_drift": -1, "gini_drift": 1, "zero_shot_agreement": -1,
}  # fmt: skip
"""Signal -> 1 where more of it is taken to mean more loss of zero-shot ability, else -1.

Fixed before any data: what moves further from the backbone loses more; attention that narrows (entropy and
field fall, inequality rises) loses more.
"""
MAGNITUDES = {
    "entropy_magnitude": 1, "erf95_magnitude": 1, "gini_magnitude": 1, "entropy_magnitude_of_last_block": 1,
    "cka_of_last_block": -1,
}  # fmt: skip
"""The same for sizes of drifts without their sign, and for the last block alone. Declared later than
:data:`RISES_WITH_LOSS`, so their tests are a family of their own."""

MAGNITUDE_OF = {
    "entropy_magnitude": "entropy_drift", "erf95_magnitude": "erf95_drift", "gini_magnitude": "gini_drift",
    "entropy_magnitude_of_last_block": "entropy_drift_of_last_block",
}  # fmt: skip
"""Magnitude -> the column whose absolute value it is."""
TEXT_SIGNALS = {
    "text_representation_drift": 1, "text_embedding_drift": 1, "text_weight_drift": 1,
    "text_entropy_drift": -1, "text_erf95_drift": -1, "text_gini_drift": 1,
}  # fmt: skip
"""The same of the text tower, of runs that train it. Declared last: their tests are a family of their own."""
DIRECTIONS = RISES_WITH_LOSS | MAGNITUDES | TEXT_SIGNALS
"""Of all signals whose direction was fixed beforehand."""

_ACCURACIES = ("accuracy", "validation_accuracy", "train_accuracy")
_UNITLESS = (
    "representation_drift", "embedding_drift", "weight_drift", "zero_shot_agreement", "zero_shot_kl",
    "cka_of_last_block", "text_representation_drift", "text_embedding_drift", "text_weight_drift",
)  # fmt: skip
_PREFIXES: tuple[tuple[str, ReadAt], ...] = (
    ("epoch1_", "epoch1"), ("best_", "best"), ("last_", "last"), ("backbone_", "backbone"),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Meaning of one column.

    Attributes:
        name: of the column, without its moment: ``entropy_drift``, ``retention_cifar100``.
        kind: what sort of number it is.
        moment: when it was read.
        transfer: the transfer set, of zero-shot accuracy and retention; else empty.
        unit: ``%`` or empty.
        direction: 1 where more is better, -1 where less is, 0 where that was not fixed beforehand.
    """

    name: str
    kind: Kind
    moment: ReadAt = ""
    transfer: str = ""
    unit: str = ""
    direction: int = 0

    @property
    def column(self) -> str:
        return f"{self.moment}_{self.name}" if self.moment else self.name


@cache
def outcome(column: str) -> Outcome:
    """Look up the meaning of a column by its name."""
    for prefix, moment in _PREFIXES:
        if column.startswith(prefix):
            plain = outcome(column[len(prefix) :])
            return Outcome(plain.name, plain.kind, moment, plain.transfer, plain.unit, plain.direction)
    if column in _ACCURACIES:
        return Outcome(column, "accuracy", unit="%", direction=1)
    if column in DIRECTIONS:
        kind: Kind = "magnitude" if column in MAGNITUDES else "drift"
        unit = "" if column in _UNITLESS else "%"
        return Outcome(column, kind, unit=unit, direction=-DIRECTIONS[column])
    for start, kind in (("retention_", "retention"), ("zero_shot_", "zero-shot")):
        if column.startswith(start) and len(column) > len(start):
            return Outcome(column, kind, transfer=column[len(start) :], unit="%", direction=1)
    if column.endswith("_drift"):
        return Outcome(column, "drift", unit="%")
    return Outcome(column, "other", direction=1 if column == "cka" else 0)


def retention_of(transfer: str) -> str:
    """The column of retention on a transfer set."""
    return f"retention_{transfer}"


def zero_shot_of(transfer: str) -> str:
    """The column of zero-shot accuracy on a transfer set."""
    return f"zero_shot_{transfer}"


def chance_p_of(transfer: str) -> str:
    """The column of the p-value that the backbone's zero-shot accuracy on a set is above chance."""
    return f"backbone_chance_p_{transfer}"


def columns_of(kind: Kind, columns: Iterable[object]) -> list[str]:
    """The columns of a kind at the chosen epoch, in their order."""
    found = (outcome(str(column)) for column in columns)
    return [known.column for known in found if known.kind == kind and not known.moment]
