"""Findings as Markdown: one row each, and below them the rows of the analysis that they rest on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from clipdrift.analysis.wording import group_words, statistic_words
from clipdrift.outcomes.keys import KEY_COLUMNS, columns_of_keys
from clipdrift.replication.checks import Check, EvidenceRow, Finding
from clipdrift.texts import number

COLUMNS = (
    "finding", "verdict", "of", "decides", "side", "part", "question", "group", "statistic", "test", "unit",
    "n", "value", "low", "high", "p_corrected", "note", *KEY_COLUMNS,
)  # fmt: skip


def rows_of(findings: Iterable[Finding]) -> pd.DataFrame:
    """One row per number that a finding states, with the name of the analysis' row that it comes from.

    Columns: ``finding`` (number), ``verdict``, ``of`` (in words), ``decides`` (whether the verdict rests on
    it), ``side`` (``for``, ``against``, ``open``); ``part``, ``question``, ``group``, ``statistic``, ``test``
    name the row; ``unit``, ``n``, ``value``, ``low``, ``high``, ``p_corrected``, ``note`` are the row's own;
    its keys (:mod:`clipdrift.outcomes.keys`) come last.
    A p-value that stands in another row has a row of its own, with the same ``of``.
    """
    found = []
    for finding in findings:
        for check, decides in _checks(finding):
            for source in _sources(check):
                row: dict[str, Any] = {"finding": finding.number, "verdict": finding.verdict, "of": check.of}
                row |= {"decides": decides, "side": check.side if decides else ""}
                row |= {k: getattr(source, k) for k in ("part", "question", "test")}
                row |= {"group": group_words(source.group), "statistic": _statistic(source)}
                row |= columns_of_keys(source.group, source.statistic)
                for name in ("unit", "n", "note"):
                    row[name] = "" if source.row is None else source.row[name]
                for name in ("value", "low", "high", "p_corrected"):
                    row[name] = source.number(name)
                found.append(row)
    return pd.DataFrame(found, columns=list(COLUMNS))


def _checks(finding: Finding) -> Iterator[tuple[Check, bool]]:
    yield from ((check, True) for check in finding.checks)
    yield from ((check, False) for check in finding.shown)


def _sources(check: Check) -> Iterator[EvidenceRow]:
    yield check.source
    if check.tested is not None and check.tested is not check.source:
        yield check.tested


def overview(findings: Sequence[Finding]) -> str:
    """A Markdown table: number, claim, published numbers, ours, verdict."""
    lines = ["| # | finding | published | here | verdict |", "|--:|---|---|---|---|"]
    for finding in findings:
        ours = "<br>".join(map(sentence, finding.checks)) or "no such runs"
        cells = [str(finding.number), finding.claim, finding.published, ours, f"**{finding.verdict}**"]
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def sources(findings: Sequence[Finding]) -> str:
    """Write, as Markdown, each finding's rule and the rows with their names."""
    parts = []
    for finding in findings:
        parts.append(
            f"### {finding.number}. {finding.claim}: {finding.verdict}\n\nCounts for it: {finding.rule}.\n"
        )
        named = list(_checks(finding))
        parts.append(
            "| of | here | says | row of the analysis |\n|---|---|---|---|" if named else "No such runs."
        )
        for check, decides in named:
            said = check.side if decides else "shown"
            cells = [check.of, _numbers(check), said, "; p: ".join(map(_name, _sources(check)))]
            parts.append(_line(cells))
        parts.append("")
    return "\n".join(parts)


def sentence(check: Check) -> str:
    """``land-use-7, rho: −0.97 [−0.99, −0.93], n = 25 runs, p = 0.0003``."""
    return f"{check.of}: {_numbers(check)}"


def _numbers(check: Check) -> str:
    source = check.source
    if source.row is None:
        return "no such runs"
    if math.isnan(source.number("value")):
        return f"no number ({source.row['note']})"
    value, low, high = (source.number(name) for name in ("value", "low", "high"))
    if source.test in ("Welch t", "paired t"):  # of those the interval is that of the effect
        value = source.number("effect")
    text = number(value)
    if math.isfinite(low):
        text += f" [{number(low)}, {number(high)}]"
    text += f" {check.unit}" if check.unit else ""
    text += f", n = {source.row['n']} {_units(source)}"
    p = check.tested.number("p_corrected") if check.tested else math.nan
    return text + (f", p = {number(p)}" if math.isfinite(p) else "")


def _units(source: EvidenceRow) -> str:
    assert source.row is not None
    unit = str(source.row["unit"])
    one, many = {"run": ("run", "runs"), "cell": ("cell", "cells"), "pair of runs": ("pair", "pairs")}.get(
        unit, (unit, unit)
    )
    return one if str(source.row["n"]) == "1" else many


def _statistic(source: EvidenceRow) -> str:
    return statistic_words(source.statistic, source.group)


def _name(source: EvidenceRow) -> str:
    names = (f"`{group_words(source.group)}`", f"`{_statistic(source)}`", source.test or "any test")
    return f"{source.part}: {source.question}; {'; '.join(names)}"
