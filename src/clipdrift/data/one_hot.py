"""Labels that a table spreads over a column for each class, with a one in that of the row's class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from clipdrift.data.errors import DataError
from clipdrift.data.images import shown
from clipdrift.data.metadata import Table

_VALUES = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "False": 0, "True": 1}


def one_hot(table: Table, others: Sequence[str | None]) -> tuple[Table, str] | None:
    """The table with one column of labels in place of a column for each class, and that column's name.

    ``None`` where not all columns but ``others`` hold zeros and ones, or fewer than two do.

    Raises:
        DataError: A row with no one or several ones.
    """
    columns = [column for column in table.columns if column not in others]
    values = [[_VALUES.get(str(row.get(column))) for column in columns] for row in table.rows]
    if len(columns) < 2 or not values or any(None in row for row in values):
        return None
    for row, ones in zip(table.rows, values, strict=True):
        if (count := ones.count(1)) != 1:
            first = next(iter(row.values()), "")
            raise DataError(
                f"{shown(table.file)}: the row of {shown(str(first))[:80]} has {count or 'no'} ones in "
                f"{named(columns)}; sets with several labels an image, or none, are not supported"
            )
    label = f"one of {named(columns)}"
    rows = [{**row, label: columns[ones.index(1)]} for row, ones in zip(table.rows, values, strict=True)]
    unused = [column for i, column in enumerate(columns) if not any(ones[i] for ones in values)]
    said = [f"{shown(table.file)}: the columns {named(columns)} are read as classes, a one in each row's own"]
    if unused:
        said.append(f"{shown(table.file)}: no image is {named(unused)}: no class is made of it")
    return replace(table, rows=tuple(rows), notes=(*table.notes, *said)), label


def named(columns: Sequence[str], most: int = 12) -> str:
    """Names of columns, the first of many."""
    more = f" and {len(columns) - most} more" if len(columns) > most else ""
    return ", ".join(shown(column)[:40] for column in columns[:most]) + more
