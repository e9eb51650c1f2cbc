"""Printed tables: columns, heads, digits, and their files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from clipdrift import texts
from clipdrift.outcomes.chance import NOT_MEASURABLE, measurable
from clipdrift.pages.cells import PageCell
from clipdrift.runs.files import write_text
from clipdrift.texts import number, one_decimal, p_value
from clipdrift.texts import rate as rate_text

KEY = "key"
"""First column of every CSV: names the row. ``TABLE.csv:KEY/COLUMN`` names a number of the page."""


def word(value: Any) -> str:
    """A name as it is; what is missing is empty."""
    return "" if _missing(value) else str(value)


def spoken(value: Any) -> str:
    """A name with spaces for underscores."""
    return word(value).replace("_", " ")


def count(value: Any) -> str:
    return f"{int(value):,}"


def rate(value: Any) -> str:
    """A learning rate: ``1e-5``."""
    return rate_text(float(value))


def change(value: Any) -> str:
    """A drift in percent, with sign and unit."""
    return texts.change(float(value), False)


def signed(value: Any) -> str:
    return texts.change(float(value), True)


def three(value: Any) -> str:
    return texts.three_decimals(value)


@dataclass(frozen=True)
class Column:
    """One printed column.

    Attributes:
        name: in the frame.
        head: what stands above it, with its unit.
        text: how a value is printed.
        spread: the column that holds its standard deviation, printed after ``±``.
        left: whether it is set to the left, as words are.
        chance: the column with the p-value that the backbone is above chance, of a retention.
    """

    name: str
    head: str
    text: Callable[[Any], str] = number
    spread: str | None = None
    left: bool = False
    chance: str | None = None


@dataclass(frozen=True, eq=False)
class Printed:
    """A table to print.

    Attributes:
        name: of its files.
        title: a heading.
        note: what must be known to read it.
        frame: all its values at full precision; the column ``key`` names each row.
        columns: what is printed of it.
    """

    name: str
    title: str
    note: str
    frame: pd.DataFrame
    columns: tuple[Column, ...]

    def place(self, row: Mapping[str, Any]) -> str:
        """The row as the page names it: ``TABLE.csv:KEY``."""
        return f"{self.name}.csv:{quote(str(row[KEY]), safe='')}"

    def cell(self, row: Mapping[str, Any], column: Column) -> PageCell | None:
        """One value as the page prints it; None where there is none."""
        value = row.get(column.name)
        place = f"{self.place(row)}/{column.name}"
        if _missing(value):
            p = row.get(column.chance or "")
            return None if measurable(p) else PageCell(NOT_MEASURABLE, place, math.nan)
        return PageCell(column.text(value), place, value if isinstance(value, int | float) else math.nan)

    def spread(self, row: Mapping[str, Any], column: Column) -> PageCell | None:
        """The standard deviation beside a mean, to as many decimals."""
        if column.spread is None:
            return None
        mean = self.cell(row, column)
        value = row.get(column.spread)
        if mean is None or value is None or _missing(value):
            return None
        text = mean.text.removesuffix(" %")
        decimals = len(text.partition(".")[2])
        return PageCell(
            number(value) if "e" in text else f"{value:.{decimals}f}",
            f"{self.place(row)}/{column.spread}",
            float(value),
        )

    def rows(self) -> list[dict[str, Any]]:
        return [{str(k): v for k, v in row.items()} for row in self.frame.to_dict("records")]

    def texts(self) -> pd.DataFrame:
        """Table as printed: one text per cell, the heads as columns."""
        lines = []
        for row in self.rows():
            line = []
            for column in self.columns:
                cell, spread = self.cell(row, column), self.spread(row, column)
                text = "" if cell is None else cell.text
                line.append(text if spread is None else f"{text} ± {spread.text}")
            lines.append(line)
        return pd.DataFrame(lines, columns=[column.head for column in self.columns])

    def markdown(self) -> str:
        """Table in Markdown; empty without rows."""
        lines = self.texts().map(_markdown).rename(columns=_markdown)
        sides = ["left" if column.left else "right" for column in self.columns]
        return lines.to_markdown(index=False, disable_numparse=True, colalign=sides) if len(lines) else ""

    def write(self, folder: Path) -> list[Path]:
        """``NAME.csv`` with every value at full precision, ``NAME.md`` and ``NAME.tex`` as printed."""
        texts = self.texts()
        latex = texts.map(_tex).rename(columns=_tex)
        letters = "".join("l" if column.left else "r" for column in self.columns)
        body = latex.to_latex(index=False, escape=False, column_format=letters)
        files = {
            "csv": self.frame.to_csv(index=False),
            "md": f"{self.title}. {self.note}\n\n{self.markdown()}\n",
            "tex": f"% {self.title}. {self.note}\n% \\usepackage{{booktabs}}\n{body}",
        }
        return [self._file(folder / f"{self.name}.{kind}", text) for kind, text in files.items()]

    @staticmethod
    def _file(path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        return path


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$",
    "<": "$<$", ">": "$>$", "|": r"\textbar{}",
}  # fmt: skip


def _markdown(text: str) -> str:
    return text.replace("|", r"\|")


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)


__all__ = [
    "KEY",
    "Column",
    "PageCell",
    "Printed",
    "change",
    "count",
    "one_decimal",
    "p_value",
    "rate",
    "word",
]
