"""Numbers of a page: each one a cell of a table of the comparison, printed with the key of that cell.

Keys, parts quoted as in URLs:

- ``comparison.csv:measure/set/block/column``, set and block empty where they are in the table,
- ``heads.csv:measure/block/head/column``,
- ``field:path/of/names``, a field of the Comparison itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pandas as pd

from clipdrift.comparison import Comparison
from clipdrift.texts import change, number, one_decimal

NOTHING = "n/a"


class UnresolvedError(LookupError):
    """A page asks for a number that no table holds: a defect of the page, not of the comparison."""


@dataclass(frozen=True)
class PageCell:
    """A printed number (or word) and where it comes from."""

    text: str
    key: str
    value: float = math.nan


class CellLookup:
    """Looks cells up; what is not there is an error."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        frame = comparison.to_frame()
        self._rows: dict[tuple[str, str, int | None], dict[str, Any]] = {}
        for row in frame.to_dict("records"):
            block = None if pd.isna(row["block"]) else int(row["block"])
            self._rows[row["measure"], row["set"], block] = {str(k): v for k, v in row.items()}

    def table(self, measure: str, column: str, of: str = "", block: int | None = None) -> PageCell:
        """A cell of comparison.csv.

        Args:
            of: transfer set or kind of matrix.

        Raises:
            UnresolvedError: no such row, or an empty cell.
        """
        row = self._rows.get((measure, of, block), {})
        value = row.get(column)
        if value is None or pd.isna(value):
            raise UnresolvedError(f"no {column} of {measure} {of} {'' if block is None else block}")
        key = _key("comparison.csv", measure, of, "" if block is None else block, column)
        unit = str(row["unit"])
        if column == "drift":
            return PageCell(change(value, bool(row["absolute"])), key, value)
        return PageCell(one_decimal(value) if unit == "%" else number(value), key, value)

    def has(self, measure: str, of: str = "") -> bool:
        """Whether there is such a row."""
        return (measure, of, None) in self._rows

    def field(self, *path: str | int) -> PageCell:
        """A field of the comparison, by names, keys and positions.

        Raises:
            UnresolvedError: no such field.
        """
        return field_of(self._comparison, *path)

    def interval(self, *path: str | int) -> tuple[PageCell, PageCell | None, PageCell | None]:
        """An estimate's value and the ends of its interval, where it has one."""
        low, high = self.field(*path, "low"), self.field(*path, "high")
        known = not math.isnan(low.value)
        return self.field(*path, "value"), low if known else None, high if known else None

    def percent(self, *path: str | int) -> PageCell:
        """A field that is in percent, as those are printed."""
        cell = self.field(*path)
        return cell if math.isnan(cell.value) else PageCell(one_decimal(cell.value), cell.key, cell.value)


def field_of(result: object, *path: str | int) -> PageCell:
    """A field of a result, by names, keys and positions; its key begins with ``field:``.

    Raises:
        UnresolvedError: no such field.
    """
    found: Any = result
    for part in path:
        try:
            inside = isinstance(found, Mapping | list | tuple)
            found = found[part] if inside else getattr(found, str(part))
        except (KeyError, IndexError, AttributeError):
            raise UnresolvedError(f"no field {path}") from None
    key = _key("field", *path)
    if found is None:
        return PageCell(NOTHING, key)
    if isinstance(found, list | tuple):
        return PageCell(", ".join(map(str, found)), key)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return PageCell(str(found), key)
    return PageCell(f"{found:,}" if isinstance(found, int) else number(found), key, found)


def head_cell(row: Mapping[str, Any], column: str) -> PageCell:
    """A cell of heads.csv.

    Args:
        row: one of ``heads_frame()``.
    """
    value = row[column]
    key = _key("heads.csv", row["measure"], row["block"], row["head"], column)
    if column in ("block", "head"):
        return PageCell(str(value), key, value)
    if pd.isna(value):
        return PageCell(NOTHING, key)
    if column in ("change", "relative_change"):
        return PageCell(change(value, column == "change"), key, value)
    return PageCell(number(value), key, value)


def _key(table: str, *parts: str | int) -> str:
    return f"{table}:" + "/".join(quote(str(part), safe="") for part in parts)
