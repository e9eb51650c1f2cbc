"""Sentences with numbers that name their row, and the rows that they are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipdrift.pages.cells import PageCell, number
from clipdrift.reporting.printed import KEY, Printed

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


def find(
    printed: Printed, groups: Sequence[str], test: str | None, of: str, kind: str | None = None
) -> list[dict[str, Any]]:
    """Rows of these groups whose statistic is of ``of``."""
    return [
        row
        for row in printed.rows()
        if row["group"] in groups
        and (test is None or row["test"] == test)
        and (str(row["statistic"]).endswith(f" of {of}") or row["statistic"] == of)
        and (kind is None or str(row["statistic"]).startswith(kind))
    ]


def cell_of(printed: Printed, row: dict[str, Any], column: str, text: str | None = None) -> PageCell:
    value = float(row[column])
    return PageCell(text or number(value), f"{printed.name}.csv:{row[KEY]}/{column}", value)


def signal_of(row: dict[str, Any]) -> str:
    return named(str(row["statistic"]).removeprefix("Spearman of ").split(" with ", 1)[0])


def named(column: str) -> str:
    """A column in words."""
    if column.startswith("retention_"):
        return f"of the backbone's zero-shot accuracy on {column.removeprefix('retention_')}"
    return {
        "representation_drift": "representation drift (1 − CKA)",
        "accuracy": "accuracy",
        "validation_accuracy": "validation accuracy",
    }.get(column, column.replace("_", " "))
