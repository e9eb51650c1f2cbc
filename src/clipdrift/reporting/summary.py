"""What a study found, in sentences: each made from rows of tests, and never saying more than those.

A difference is stated where its p-value after Holm's correction is below :data:`LEVEL`; else it is called not
resolved. Where a row has no number, the sentence says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd

from clipdrift.analysis.runs import PRIMARY, accuracy, retentions
from clipdrift.pages.cells import PageCell, percent_text
from clipdrift.reporting.printed import KEY, Printed, p_value
from clipdrift.reporting.sentences import (
    PrintedTables,
    Sentence,
    SentencePart,
    cell_of,
    find,
    named,
    signal_of,
)
from clipdrift.study.tables import Tables

LEVEL = 0.05
"""Of p-values after correction."""
_MEAN = re.compile(r"mean difference (\S+?)(?:;|$)")


def summary(tables: Tables, rows: PrintedTables) -> list[Sentence]:
    """The sentences of a study, most important first.

    Args:
        rows: of :func:`clipdrift.reporting.tables.questions_tables`, by question.
    """
    found = [_ends(tables)]
    for question, heading, ask in (
        ("methods", "Methods", lambda printed: _contrasts(tables, printed)),
        ("rate", "Learning rate and drift", lambda printed: _rates(tables, printed)),
        ("predictors", "What goes with what is kept", lambda printed: _predictors(tables, printed)),
        ("choosing", "Choosing a run", lambda printed: _choosing(tables, printed)),
        ("penalties", "Penalties", _penalties),
    ):
        if question in rows:
            found += [replace(sentence, heading=heading) for sentence in ask(rows[question])]
    return found


def _ends(tables: Tables) -> Sentence:
    """How many runs there are."""
    ends = dict(tables.ends)
    planned, done = sum(ends.values()), ends.pop("done", 0)
    rest = ", ".join(f"{n} {kind}" for kind, n in sorted(ends.items()) if n)
    words = f"{done} of {planned} runs are finished"
    if planned == done:
        words = f"All {done} runs are finished" if done > 1 else "The only run is finished"
    left = "; statements below are about those that finished" if rest else ""
    return Sentence((f"{words}{f' ({rest}){left}' if rest else ''}.",))


def _plain(tables: Tables) -> list[tuple[str, list[str]]]:
    """Place -> the variants that are compared first: each method without penalty, with its usual options."""
    runs = tables.runs
    plain = runs[runs["plain"]].groupby("place", sort=False)
    return [(str(place), list(dict.fromkeys(map(str, part["variant"])))) for place, part in plain]


MATCHED = {
    "matched rate": "at the same rate and seed",
    "matched weight drift": "at the same weight drift",
    "matched accuracy": "at the same accuracy",
}


def _contrasts(tables: Tables, printed: Printed) -> Iterator[Sentence]:
    """Of each target, what the methods keep and learn at the same rate, drift and accuracy."""
    kept = retentions(tables.runs)
    for place, variants in _plain(tables):
        for matched, words in MATCHED.items():
            groups = [f"{place}: {a} - {b}, {matched}" for a in variants for b in variants]
            outcomes = kept if matched == "matched accuracy" else [*kept, accuracy(tables.runs)]
            for outcome in outcomes:
                for row in find(printed, groups, "paired t", outcome):
                    if row["n"] != "0":  # no two runs that could be compared: not asked
                        yield _contrast(printed, row, outcome, words, matched)


def _contrast(printed: Printed, row: dict[str, Any], outcome: str, words: str, matched: str) -> Sentence:
    place, sides = str(row["group"]).removesuffix(f", {matched}").split(": ", 1)
    first, second = sides.split(" - ", 1)
    what = named(outcome)
    differ = f"what they keep {what}" if outcome.startswith("retention_") else what
    mean = _MEAN.search(str(row["note"]))
    if mean is None or pd.isna(row["p_corrected"]):
        reason = str(row["note"]) or "too few runs"
        return Sentence(
            (f"{place}, {words}: {first} and {second} cannot be compared in {differ} ({reason}).",), False
        )
    value = float(mean[1])
    size = PageCell(percent_text(abs(value)), f"{printed.name}.csv:{row[KEY]}/note", value)
    more = "less" if value < 0 else "more"
    tail: tuple[SentencePart, ...] = (
        f" ({row['n']} pairs, paired t, p after Holm ",
        cell_of(printed, row, "p_corrected", p_value(row["p_corrected"])),
        *_interval(printed, row),
        ").",
    )
    if row["p_corrected"] >= LEVEL:
        head: tuple[SentencePart, ...] = (
            f"{place}, {words}: not resolved whether {first} and {second} differ in {differ}; ",
        )
        return Sentence((*head, "on average ", size, f" points {more} with {first}", *tail), False)
    verb = "keeps" if outcome.startswith("retention_") else "reaches"
    return Sentence(
        (f"{place}, {words}: {first} {verb} ", size, f" points {more} {what} than {second}", *tail), True
    )


def _interval(printed: Printed, row: dict[str, Any]) -> tuple[SentencePart, ...]:
    """``, d_z -1.20 [-1.9, -0.5]``, or without what there is not."""
    if pd.isna(row["effect"]):
        return ()
    parts: tuple[SentencePart, ...] = (f", {row['effect_name']} ", cell_of(printed, row, "effect"))
    if pd.isna(row["low"]):
        return parts
    return (*parts, " [", cell_of(printed, row, "low"), ", ", cell_of(printed, row, "high"), "]")


def _rates(tables: Tables, printed: Printed) -> Iterator[Sentence]:
    """Of each plain arm, whether drift goes with the rate."""
    for place, variants in _plain(tables):
        for variant in variants:
            for signal in ("representation_drift", "entropy_drift"):
                wanted = f"log_rate with {signal}"
                for row in find(printed, [f"{place}: {variant}"], None, wanted, "Spearman"):
                    yield _rate(printed, row, place, variant, signal)


def _rate(printed: Printed, row: dict[str, Any], place: str, variant: str, signal: str) -> Sentence:
    what = named(signal)
    if pd.isna(row["p_corrected"]):
        return Sentence(
            (f"{place}, {variant}: whether {what} goes with the rate cannot be told: {row['note']}.",), False
        )
    resolved = row["p_corrected"] < LEVEL
    way = "rises" if row["value"] > 0 else "falls"
    said = (
        f"{what} {way} with the learning rate"
        if resolved
        else f"a trend of {what} with the rate is not resolved"
    )
    return Sentence(
        (
            f"{place}, {variant}: {said} (Spearman ",
            cell_of(printed, row, "value"),
            f", {row['n']} runs, p after Holm ",
            cell_of(printed, row, "p_corrected", p_value(row["p_corrected"])),
            ").",
        ),
        resolved,
    )


def _predictors(tables: Tables, printed: Printed) -> Iterator[Sentence]:
    """Which of the declared signals goes closest with retention over all cells, and where entropy stands."""
    by = {(row["group"], row["statistic"]): row for row in printed.rows()}
    for outcome in retentions(tables.runs):
        asked = [by.get(("all", f"Spearman of {signal} with {outcome}")) for signal in PRIMARY]
        rows = [row for row in asked if row is not None and pd.notna(row["value"])]
        if not rows:
            what = f"What goes with what is kept {named(outcome)}"
            yield Sentence((f"{what} cannot be told: too few cells.",), False)
            continue
        rows.sort(key=lambda row: -abs(row["value"]))
        best, first = rows[0], signal_of(rows[0])
        resolved = bool(best["p_corrected"] < LEVEL)
        what = f"with what is kept {named(outcome)}"
        start = f"Over all cells, of {len(rows)} declared signals {first} goes closest {what} ("
        if not resolved:
            start = f"Over all cells, not resolved whether any declared signal goes {what}; the closest is "
            start += f"{first} ("
        parts: list[SentencePart] = [start, *_rho(printed, best), ")"]
        entropy = next((row for row in rows if signal_of(row) == "entropy drift"), None)
        if entropy is not None and entropy is not best:
            parts += ["; signed entropy drift: ", *_rho(printed, entropy)]
        near = [row for row in rows[1:] if _overlap(best, row)]
        if near:
            names = ", ".join(signal_of(row) for row in near)
            parts += [f". The interval of {first} overlaps with that of {names}: which goes closest is open"]
        yield Sentence((*parts, "."), resolved)


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the intervals of two correlations overlap, leaving out their signs."""
    (low, high), (from_, to) = _size(one), _size(other)
    return low <= to and from_ <= high


def _size(row: dict[str, Any]) -> tuple[float, float]:
    """The interval of a correlation's absolute value: from 0 where it may have either sign."""
    low, high = float(row["low"]), float(row["high"])
    small, large = sorted((abs(low), abs(high)))
    return (0.0 if low < 0 < high else small), large


def _rho(printed: Printed, row: dict[str, Any]) -> tuple[SentencePart, ...]:
    parts: tuple[SentencePart, ...] = ("Spearman ", cell_of(printed, row, "value"))
    if pd.notna(row["low"]):
        parts += (" [", cell_of(printed, row, "low"), ", ", cell_of(printed, row, "high"), "]")
    if pd.notna(row["p_corrected"]):
        parts += (", p after Holm ", cell_of(printed, row, "p_corrected", p_value(row["p_corrected"])))
    return (*parts, f", {row['n']} cells")


def _choosing(tables: Tables, printed: Printed) -> Iterator[Sentence]:
    """What is lost by picking runs by accuracy alone, and by the drift of the representation."""
    rows = {(str(row["group"]), str(row["statistic"])): row for row in printed.rows()}
    for (group, statistic), row in rows.items():
        found = re.fullmatch(r"regret in (\S+) of the pick by validation_accuracy", statistic)
        other = rows.get((group, statistic.replace("validation_accuracy", "representation_drift")))
        if not found or other is None or pd.isna(row["value"]) or pd.isna(other["value"]):
            continue
        yield Sentence(
            (
                f"{group}: among runs close to the best validation accuracy, picking by it alone loses ",
                cell_of(printed, row, "value", percent_text(row["value"])),
                f" points {named(found[1])} against the best of them; picking by the smallest "
                "representation drift loses ",
                cell_of(printed, other, "value", percent_text(other["value"])),
                ". A description of these runs, not a test.",
            )
        )


def _penalties(printed: Printed) -> Iterator[Sentence]:
    """Which contrasts of penalties hold after the correction."""
    rows = [r for r in printed.rows() if r["test"] == "paired t" and "descriptive" not in str(r["unit"])]
    tested = [row for row in rows if pd.notna(row["p_corrected"])]
    if not tested:
        return
    found = [row for row in tested if row["p_corrected"] < LEVEL]
    parts: list[SentencePart] = [
        f"{len(found)} of {len(tested)} paired contrasts against none hold after Holm"
    ]
    for i, row in enumerate(found[:3]):
        group = str(row["group"]).removesuffix(", matched rate").removesuffix(" - none")
        outcome = str(row["statistic"]).rsplit(" ", 1)[-1]
        what = f"what is kept {named(outcome)}" if outcome.startswith("retention_") else named(outcome)
        p = cell_of(printed, row, "p_corrected", p_value(row["p_corrected"]))
        parts += ["; " if i else ": ", f"{group} in {what} (p ", p, ")"]
    yield Sentence((*parts, "."), bool(found))
