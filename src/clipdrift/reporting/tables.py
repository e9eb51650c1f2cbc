"""Tables of a report, from a study's results."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from clipdrift.analysis.rows import COLUMNS
from clipdrift.outcomes.chance import measurable
from clipdrift.outcomes.columns import Kind, chance_p_of, columns_of, outcome
from clipdrift.reporting.printed import (
    KEY,
    Column,
    Printed,
    change,
    count,
    p_value,
    rate,
    signed,
    spoken,
    three,
    word,
)
from clipdrift.study.plan import QUESTIONS
from clipdrift.study.tables import Tables
from clipdrift.texts import number, one_decimal

SHOWN = (
    ("accuracy", "accuracy, %", one_decimal),
    ("validation_accuracy", "validation accuracy, %", one_decimal),
    ("zero-shot", "zero-shot {}, %", one_decimal),
    ("retention", "kept of {}, %", one_decimal),
    ("cka", "CKA", three),
    ("embedding_drift", "embedding drift", number),
    ("weight_drift", "weight drift", number),
    ("entropy_drift", "entropy drift", change),
    ("erf95_drift", "ERF drift", change),
    ("gini_drift", "Gini drift", change),
    ("head_diversity_drift", "head diversity drift", change),
)
"""What is printed of runs and cells: a column, or a kind with one for each transfer set; its head."""

_KINDS: dict[str, Kind] = {"zero-shot": "zero-shot", "retention": "retention"}


def numbers(frame: pd.DataFrame) -> list[Column]:
    """The columns of :data:`SHOWN` that a table of runs has; of the accuracies one."""
    found = []
    for name, head, text in SHOWN:
        if name == "validation_accuracy" and "accuracy" in frame:
            continue
        names = columns_of(kind, frame) if (kind := _KINDS.get(name)) else [name]
        for column in names:
            known = outcome(column)
            chance = chance_p_of(known.transfer) if known.kind == "retention" else None
            unmeasured = chance in frame and not frame[chance].map(measurable).all()
            if column in frame and (frame[column].notna().any() or unmeasured):
                found.append(Column(column, head.format(known.transfer), text, chance=chance))
    return found


def _what(runs: pd.DataFrame) -> list[Column]:
    """Columns that say which run or cell it is, those that tell nothing apart left out."""
    found = [Column("place", "target", word, left=True), Column("variant", "method", word, left=True)]
    return [*found, Column("learning_rate", "rate", rate)]


def runs_table(tables: Tables) -> Printed:
    """One row per run."""
    runs = tables.runs.copy()
    frame = pd.concat([runs["run"].rename(KEY), runs], axis=1)
    columns = [Column("run", "run", word, left=True), *_what(runs), Column("seed", "seed", count)]
    columns.append(Column("status", "status", word, left=True))
    if "epoch" in runs and runs["epoch"].notna().any():
        columns.append(Column("epoch", "epoch", count))
    return Printed(
        "runs",
        "Runs",
        "At the epoch chosen on validation images. Drift is in percent of the backbone's value.",
        frame,
        (*columns, *numbers(runs)),
    )


def cells_table(tables: Tables) -> Printed:
    """One row per cell: means over seeds, ± standard deviation (n - 1)."""
    runs = tables.runs
    shown = numbers(runs)
    what = ["place", "variant", "learning_rate"]
    groups = runs.groupby(what, sort=False, dropna=False)
    frame = groups.size().rename("runs").reset_index()
    done = runs[runs["status"] == "done"].groupby(what, sort=False, dropna=False)
    frame["done"] = (
        done.size().reindex(pd.MultiIndex.from_frame(frame[what])).fillna(0).astype(int).to_numpy()
    )
    order = pd.MultiIndex.from_frame(frame[what])
    names = [column.name for column in shown]
    means, spreads = done[names].mean().reindex(order), done[names].std().reindex(order)
    for name in names:
        frame[name] = means[name].to_numpy()
        frame[f"{name}_sd"] = spreads[name].to_numpy()
    for chance in [column.chance for column in shown if column.chance in runs]:
        frame[chance] = groups[chance].first().reindex(order).to_numpy()
    frame.insert(0, KEY, [f"{p}; {v}; {r:g}" for p, v, r in frame[what].itertuples(index=False)])
    columns = [*_what(runs), Column("done", "n", count)]
    columns += [replace(column, spread=f"{column.name}_sd") for column in shown]
    return Printed(
        "cells",
        "Cells",
        "Runs that differ in their seed alone: mean ± standard deviation (n − 1) over n finished runs.",
        frame,
        tuple(columns),
    )


def questions_tables(tables: Tables) -> dict[str, Printed]:
    """Make each question's table, one row per test."""
    found = {}
    asked = (
        list(tables.manifest.questions) if tables.manifest and tables.manifest.questions else list(QUESTIONS)
    )
    tables.ask(asked)
    for question in asked:
        rows = tables.rows(question)
        frame = rows.copy()
        frame.insert(0, KEY, [f"{question}-{i}" for i in range(1, len(rows) + 1)])
        heads = {
            "group": ("of", word), "statistic": ("statistic", spoken), "value": ("value", number),
            "low": ("low", number), "high": ("high", number), "interval": ("interval", word),
            "p": ("p", p_value), "p_corrected": ("p, Holm", p_value), "family": ("family", word),
            "effect": ("effect", signed), "effect_name": ("effect size", word), "n": ("n", word),
            "unit": ("sampled", word), "test": ("test", word), "note": ("note", word),
        }  # fmt: skip
        columns = [
            Column(name, head, text, left=text in (word, spoken))
            for name, (head, text) in heads.items()
            if name in COLUMNS and _any(frame[name])
        ]
        found[question] = Printed(
            f"tests_{question}", QUESTIONS[question], _note(question), frame, tuple(columns)
        )
    return found


def _any(column: pd.Series) -> bool:
    return bool((column.notna() & (column.astype(str) != "")).any())


def _note(question: str) -> str:
    return "Intervals are 95 %. Corrected p: Holm within the family named."
