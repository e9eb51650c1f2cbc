"""The table of runs made ready: arms and cells named, signals and outcomes found. Anyone's table will do."""

from __future__ import annotations

import numpy as np
import pandas as pd

from clipdrift.errors import ClipdriftError
from clipdrift.frame import OPTIONS

NEEDED = ("target", "method", "learning_rate")
ARM = ("target", "backbone", "method", *OPTIONS)
"""Columns that tell arms apart: runs of one arm differ in learning rate and seed only."""

RISES_WITH_LOSS = {
    "representation_drift": 1, "embedding_drift": 1, "weight_drift": 1, "zero_shot_kl": 1,
    "entropy_drift": -1, "erf95_drift": -1, "gini_drift": 1, "zero_shot_agreement": -1,
}  # fmt: skip
"""Signal -> 1 where more of it is taken to mean more loss of zero-shot ability, else -1.

Fixed before any data: what moves further from the backbone loses more; attention that narrows (entropy and
field fall, inequality rises) loses more.
"""


class AnalyseError(ClipdriftError):
    """A table that no question can be asked of."""


def prepared(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs that did not diverge, with what their table leaves out filled in.

    Adds ``arm`` and ``cell`` where missing, ``variant`` (the method and the options that vary, in words),
    ``log_rate`` (log10) and ``representation_drift`` (1 - cka), the last at every moment.

    Raises:
        AnalyseError: a needed column is missing, or a run stands twice.
    """
    if missing := [name for name in NEEDED if name not in frame]:
        raise AnalyseError(f"the table of runs has no column {missing[0]}; it needs {', '.join(NEEDED)}")
    runs = frame.copy()
    for name, value in (("backbone", ""), ("seed", 0), ("status", "done")):
        if name not in runs:
            runs[name] = value
    if "run" not in runs:
        runs["run"] = [f"run {i}" for i in range(1, len(runs) + 1)]
    if runs["run"].duplicated().any():
        raise AnalyseError(f"run {runs['run'][runs['run'].duplicated()].iloc[0]} stands twice in the table")
    runs = runs[runs["status"] != "diverged"].reset_index(drop=True)
    known = [name for name in ARM if name in runs]
    runs["arm"] = [" | ".join(map(str, row)) for row in runs[known].itertuples(index=False)]
    if "cell" not in runs:
        runs["cell"] = runs["arm"] + " | " + runs["learning_rate"].map(str)
    runs["variant"] = _variants(runs)
    runs["log_rate"] = np.log10(runs["learning_rate"].astype(float).where(runs["learning_rate"] > 0))
    for name in [c for c in runs if c in ("cka", "epoch1_cka", "last_cka")]:
        runs[f"{name.removesuffix('cka')}representation_drift"] = 1 - runs[name]
    return runs


def _variants(runs: pd.DataFrame) -> list[str]:
    telling = [name for name in OPTIONS if name in runs and runs[name].map(str).nunique() > 1]
    rows = runs[["method", *telling]].to_dict("records")
    return [
        " ".join([str(row["method"]), *(f"{n}={row[n]}" for n in telling if not pd.isna(row[n]))])
        for row in rows
    ]


def signals(runs: pd.DataFrame) -> list[str]:
    """Columns of signals without a prefix: representation drift, agreement and every measure's drift."""
    names = [c for c in runs.select_dtypes("number").columns if c in RISES_WITH_LOSS or c.endswith("_drift")]
    return [c for c in names if not c.startswith(("last_", "best_", "epoch1_", "backbone_"))]


def retentions(runs: pd.DataFrame) -> list[str]:
    """Columns of retention without a prefix, percent."""
    return [c for c in runs.select_dtypes("number").columns if c.startswith("retention_")]


def outcomes(runs: pd.DataFrame) -> list[str]:
    """What methods and penalties are compared in: drift, accuracy, retention, where the table has it."""
    wanted = ["entropy_drift", "representation_drift", "weight_drift", accuracy(runs), *retentions(runs)]
    return [name for name in wanted if name in runs]


def accuracy(runs: pd.DataFrame) -> str:
    """The column of test accuracy, or that of validation accuracy where there is none."""
    return "accuracy" if "accuracy" in runs else "validation_accuracy"


def cell_means(runs: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """One row per cell: what it is, the means of ``columns``; runs without one of them are left out."""
    whole = runs.dropna(subset=columns)
    return whole.groupby("cell", sort=False).agg(
        {"target": "first", "method": "first", "variant": "first"} | dict.fromkeys(columns, "mean")
    )
