"""Summary of a study in sentences, each made from rows of tests.

A difference is stated where its p-value after Holm's correction is below :data:`LEVEL`; else it is called not
resolved. Where a row has no number, the sentence says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from clipdrift.analysis.runs import PRIMARY, accuracy, retentions
from clipdrift.outcomes.chance import measurable
from clipdrift.outcomes.columns import TEXT_SIGNALS, chance_p_of, columns_of, outcome
from clipdrift.outcomes.keys import Matching, key_of
from clipdrift.outcomes.statuses import DONE
from clipdrift.reporting.printed import Printed, p_value
from clipdrift.reporting.sentences import (
    PrintedTables,
    Sentence,
    SentencePart,
    cell_of,
    named,
    rows_with,
    signal_of,
)
from clipdrift.study.tables import Tables
from clipdrift.texts import one_decimal

LEVEL = 0.05
"""Of p-values after correction."""


def summary(tables: Tables, rows: PrintedTables) -> list[Sentence]:
    """The sentences of a study, most important first.

    Args:
        rows: of :func:`clipdrift.reporting.tables.questions_tables`, by question.
    """
    found = [_ends(tables), *_unmeasurable(tables)]
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
    """Say how many runs there are and how they ended."""
    ends = dict(tables.ends)
    planned, done = sum(ends.values()), ends.pop("done", 0)
    rest = ", ".join(f"{n} {kind}" for kind, n in sorted(ends.items()) if n)
    words = f"{done} of {planned} runs are finished"
    if planned == done:
        words = f"All {done} runs are finished" if done > 1 else "The only run is finished"
    left = "; statements below are about those that finished" if rest else ""
    return Sentence((f"{words}{f' ({rest}){left}' if rest else ''}.",))


def _unmeasurable(tables: Tables) -> Iterator[Sentence]:
    """Say on which transfer sets the backbone is not above chance, and in how many runs."""
    runs = tables.runs[tables.runs["status"] == DONE]
    for column in columns_of("zero-shot", runs):
        transfer = outcome(column).transfer
        if (p := chance_p_of(transfer)) not in runs:
            continue
        left = runs[~runs[p].map(measurable)]
        if len(left):
            before = sorted(set(left[f"backbone_{column}"].round(1)))
            said = f"{before[0]:.1f}" if len(before) == 1 else f"{before[0]:.1f} to {before[-1]:.1f}"
            yield Sentence(
                (
                    f"What is kept of {transfer} is not measurable in {len(left)} of {len(runs)} runs: the "
                    f"backbone's zero-shot accuracy there, {said} %, is not above chance (exact binomial "
                    "test). The statistics leave it out.",
                )
            )


def _plain(tables: Tables) -> list[tuple[str, list[str]]]:
    """Place -> the variants that are compared first: each method without penalty, with its usual options."""
    runs = tables.runs
    plain = runs[runs["plain"]].groupby("place", sort=False)
    return [(str(place), list(dict.fromkeys(map(str, part["variant"])))) for place, part in plain]


MATCHED: dict[Matching, str] = {
    "matched rate": "at the same rate and seed",
    "matched weight drift": "at the same weight drift",
    "matched accuracy": "at the same accuracy",
}


def _contrasts(tables: Tables, printed: Printed) -> Iterator[Sentence]:
    """Say for each target what the methods keep and learn at the same rate, drift and accuracy."""
    kept = retentions(tables.runs)
    means = {key_of(row): row for row in rows_with(printed, "mean difference")}
    for place, variants in _plain(tables):
        for matched, words in MATCHED.items():
            here = [
                row
                for row in rows_with(printed, matching=matched, place=place, test="paired t")
                if row["arm"] in variants and row["against"] in variants
            ]
            outcomes = kept if matched == "matched accuracy" else [*kept, accuracy(tables.runs)]
            for wanted in outcomes:
                for row in here:
                    # without two runs that could be compared it was not asked
                    if row["outcome"] == wanted and row["n"] != "0":
                        yield _contrast(printed, row, means.get(_pairs(row)), words)


def _pairs(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Say which pairs of runs a row compares, and in what."""
    return key_of({**row, "quantity": "mean difference"})


def _contrast(printed: Printed, row: dict[str, Any], mean: dict[str, Any] | None, words: str) -> Sentence:
    place, first, second = row["place"], row["arm"], row["against"]
    what, keeps = named(row["outcome"]), outcome(row["outcome"]).kind == "retention"
    differ = f"what they keep {what}" if keeps else what
    if mean is None or pd.isna(mean["value"]) or pd.isna(row["p_corrected"]):
        reason = str(row["note"]) or "too few runs"
        return Sentence(
            (f"{place}, {words}: {first} and {second} cannot be compared in {differ} ({reason}).",), False
        )
    value = float(mean["value"])
    size = cell_of(printed, mean, "value", one_decimal(abs(value)))
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
    verb = "keeps" if keeps else "reaches"
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
    """Say for each plain arm whether drift goes with the rate."""
    for place, variants in _plain(tables):
        for variant in variants:
            for signal in ("representation_drift", "entropy_drift"):
                asked = {"signal": "log_rate", "outcome": signal, "place": place, "arm": variant}
                for row in rows_with(printed, "Spearman", **asked):
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
    """Say which declared signal goes closest with retention over all cells, and where entropy stands."""
    ranks = rows_with(printed, "Spearman", population="all", moment="", over="")
    for kept in retentions(tables.runs):
        by = {row["signal"]: row for row in ranks if row["outcome"] == kept}
        rows = [by[name] for name in PRIMARY if name in by and pd.notna(by[name]["value"])]
        if not rows:
            what = f"What goes with what is kept {named(kept)}"
            yield Sentence((f"{what} cannot be told: too few cells.",), False)
            continue
        rows.sort(key=lambda row: -abs(row["value"]))
        best, first = rows[0], signal_of(rows[0])
        resolved = bool(best["p_corrected"] < LEVEL)
        what = f"with what is kept {named(kept)}"
        start = f"Over all cells, of {len(rows)} declared signals {first} goes closest {what} ("
        if not resolved:
            start = f"Over all cells, not resolved whether any declared signal goes {what}; the closest is "
            start += f"{first} ("
        parts: list[SentencePart] = [start, *_rho(printed, best), ")"]
        entropy = by.get("entropy_drift")
        if entropy is not None and pd.notna(entropy["value"]) and entropy is not best:
            parts += ["; signed entropy drift: ", *_rho(printed, entropy)]
        near = [row for row in rows[1:] if _overlap(best, row)]
        if near:
            names = ", ".join(signal_of(row) for row in near)
            parts += [f". The interval of {first} overlaps with that of {names}: which goes closest is open"]
        yield Sentence((*parts, "."), resolved)
        yield from _of_texts(printed, kept, by)


def _of_texts(printed: Printed, kept: str, by: dict[str, dict[str, Any]]) -> Iterator[Sentence]:
    """Say the same of the text tower, where some run trains it, and how many do not."""
    rows = [by[name] for name in TEXT_SIGNALS if name in by and pd.notna(by[name]["value"])]
    if not rows:
        return
    best = max(rows, key=lambda row: abs(row["value"]))
    resolved = bool(best["p_corrected"] < LEVEL)
    what = f"with what is kept {named(kept)}"
    said = f"goes closest {what}" if resolved else f"is the closest, which is not resolved to go {what}"
    start = f"Of the text tower's {len(rows)} declared signals {signal_of(best)} {said} ("
    rest = f"; {best['note']}" if best["note"] else ""
    yield Sentence((start, *_rho(printed, best), f"){rest}."), resolved)


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
    """Say what is lost by picking runs by accuracy alone, and by the drift of the representation."""
    drift = rows_with(printed, "regret", signal="representation_drift")
    others = {(row["place"], row["outcome"]): row for row in drift}
    for row in rows_with(printed, "regret", signal="validation_accuracy"):
        other = others.get((row["place"], row["outcome"]))
        if other is None or pd.isna(row["value"]) or pd.isna(other["value"]):
            continue
        yield Sentence(
            (
                f"{row['place']}: among runs close to the best validation accuracy, picking by it alone ",
                "loses ",
                cell_of(printed, row, "value", one_decimal(row["value"])),
                f" points {named(row['outcome'])} against the best of them; picking by the smallest "
                "representation drift loses ",
                cell_of(printed, other, "value", one_decimal(other["value"])),
                ". A description of these runs, not a test.",
            )
        )


def _penalties(printed: Printed) -> Iterator[Sentence]:
    """Say which contrasts of penalties hold after the correction."""
    rows = rows_with(printed, test="paired t")
    tested = [row for row in rows if row["matching"] != "blocks" and pd.notna(row["p_corrected"])]
    if not tested:
        return
    found = [row for row in tested if row["p_corrected"] < LEVEL]
    parts: list[SentencePart] = [
        f"{len(found)} of {len(tested)} paired contrasts against none hold after Holm"
    ]
    for i, row in enumerate(found[:3]):
        group, what = f"{row['place']}: {row['arm']}", named(row["outcome"])
        what = f"what is kept {what}" if outcome(row["outcome"]).kind == "retention" else what
        p = cell_of(printed, row, "p_corrected", p_value(row["p_corrected"]))
        parts += ["; " if i else ": ", f"{group} in {what} (p ", p, ")"]
    yield Sentence((*parts, "."), bool(found))
