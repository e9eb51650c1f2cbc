"""Each run for the page: what it was, its curves, its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from clipdrift.reporting.printed import KEY
from clipdrift.study.tables import Tables
from clipdrift.texts import rate

PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("accuracy, %", (("validation_accuracy", "validation"), ("train_accuracy", "training"))),
    ("loss", (("train_loss", "training"),)),
    (
        "drift of attention, % of the backbone's",
        (
            ("entropy_drift", "entropy"),
            ("erf95_drift", "receptive field"),
            ("gini_drift", "Gini"),
            ("head_diversity_drift", "head diversity"),
        ),
    ),
    (
        "representation and weights",
        (("cka", "CKA"), ("embedding_drift", "embedding drift"), ("weight_drift", "weight drift")),
    ),
)
"""Panels of curves: a title, then columns of the history with their names."""
BLOCKS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("drift by block at the chosen epoch, %", (("entropy_drift", "entropy"), ("gini_drift", "Gini"))),
    ("CKA by block at the chosen epoch", (("cka", "CKA"),)),
)
DIGITS = 6
"""That count, of the numbers in the page; the CSV has all."""


def history_table(tables: Tables) -> pd.DataFrame:
    """One row per run and look during training, named ``RUN@STEP``."""
    frame = tables.history
    if frame.empty:
        return frame
    return pd.concat([(frame["run"] + "@" + frame["step"].map(str)).rename(KEY), frame], axis=1)


def blocks_table(tables: Tables) -> pd.DataFrame:
    """One row per run and block at the chosen epoch, named ``RUN@BLOCK``: each measure and its drift."""
    frame = tables.blocks
    if frame.empty:
        return frame
    index = ["run", "block"]
    values = frame.pivot(index=index, columns="measure", values="value")
    drifts = frame.pivot(index=index, columns="measure", values="drift").dropna(axis=1, how="all")
    wide = pd.concat([values, drifts.add_suffix("_drift")], axis=1).reset_index()
    wide.insert(0, KEY, wide["run"] + "@" + wide["block"].map(str))
    return wide


def courses(tables: Tables) -> dict[str, Any]:
    """Data that the page draws of each run, ready for JSON."""
    runs: dict[str, dict[str, Any]] = {}
    for row in tables.runs.to_dict("records"):
        label = f"{row['place']}, {row['variant']}, rate {rate(row['learning_rate'])}, seed {row['seed']}"
        runs[str(row["run"])] = {"label": label}
    for record in tables.records():
        known = runs[record["key"]]
        known["config"] = record["config"]
        if record["status"] != "done":
            known["note"] = f"{record['status']}: {record.get('reason') or 'no reason noted'}"
    for run, part in _by_run(history_table(tables)):
        dense = not bool(part["ends_epoch"].all())
        steps = [int(step) for step in part["step"]]
        place = {
            "axis": "step" if dense else "epoch",
            "x": steps if dense else [int(e) for e in part["epoch"]],
        }
        names = [name for _, panel in PANELS for name, _ in panel if name in part]
        runs[run] |= {"steps": steps, "series": {name: _rounded(part[name]) for name in names}, **place}
    for run, part in _by_run(blocks_table(tables)):
        names = [name for _, panel in BLOCKS for name, _ in panel if name in part]
        found = {name: _rounded(part.sort_values("block")[name]) for name in names}
        runs[run]["blocks"] = {name: values for name, values in found.items() if None not in values}
    return {"runs": runs, "panels": PANELS, "blocks": BLOCKS}


def environments(tables: Tables) -> list[tuple[int, list[tuple[str, str]]]]:
    """Environments of the runs: how many share each, and its facts; the most frequent first."""
    found: dict[tuple[tuple[str, str], ...], int] = {}
    for record in tables.records():
        facts = tuple(_flat(record.get("environment", {})))
        found[facts] = found.get(facts, 0) + 1
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return [(count, list(facts)) for facts, count in ordered]


def _by_run(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [] if frame.empty else [(str(run), part) for run, part in frame.groupby("run", sort=False)]


def _rounded(column: pd.Series) -> list[float | None]:
    return [None if pd.isna(v) else float(f"{v:.{DIGITS}g}") for v in column]


def _flat(tree: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            out += _flat(value, f"{before}{name}.")
        elif value is not None:
            out.append((f"{before}{name}", str(value)))
    return out
