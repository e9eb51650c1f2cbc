"""Sentences whose numbers name their row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipdrift.outcomes.columns import TEXT_SIGNALS, outcome
from clipdrift.outcomes.keys import Name, select
from clipdrift.pages.cells import PageCell
from clipdrift.reporting.printed import KEY, Printed
from clipdrift.texts import number

SentencePart = str | PageCell
PrintedTables = Mapping[str, Printed]
"""The tables of tests by question."""


@dataclass(frozen=True)
class Sentence:
    """Words, and numbers with the key of their row.

    Attributes:
        resolved: False where the tests do not tell; None where nothing was tested.
        heading: what it is about.
    """

    parts: tuple[SentencePart, ...]
    resolved: bool | None = None
    heading: str = ""

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)


def rows_with(printed: Printed, quantity: Name | None = None, **keys: Any) -> list[dict[str, Any]]:
    """The rows whose keys have these values: see :func:`clipdrift.outcomes.keys.select`."""
    chosen = select(printed.frame, quantity, **keys)
    return [{str(k): v for k, v in row.items()} for row in chosen.to_dict("records")]


def cell_of(printed: Printed, row: dict[str, Any], column: str, text: str | None = None) -> PageCell:
    value = float(row[column])
    return PageCell(text or number(value), f"{printed.name}.csv:{row[KEY]}/{column}", value)


def signal_of(row: dict[str, Any]) -> str:
    """The signal of a correlation in words."""
    return named(str(row["signal"]))


def named(column: str) -> str:
    """A column in words."""
    if outcome(column).kind == "retention":
        return f"of the backbone's zero-shot accuracy on {outcome(column).transfer}"
    if column in TEXT_SIGNALS:
        return f"{named(column.removeprefix('text_'))} of the text tower"
    return {
        "representation_drift": "representation drift (1 − CKA)",
        "accuracy": "accuracy",
        "validation_accuracy": "validation accuracy",
    }.get(column, column.replace("_", " "))
