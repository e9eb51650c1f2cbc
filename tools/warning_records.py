"""Records of runs for questions of early warning, and how signals did on runs left out, as tables."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from evidence import unpack

from clipdrift.analysis.warning import Warned, looks, warnings_of
from clipdrift.study.frames import history_frame, records_in, runs_frame

JUDGED = ("sensitivity", "specificity")
KEPT = "last_retention_cifar100"
LEVELS, SHARES = (90.0, 50.0), (0.1, 0.25, 0.5, 1.0)
SIGNALS = {
    "embedding_drift": "embedding drift",
    "cka": "1 - CKA, mean over blocks",
    "cka_embedding": "1 - CKA of the embedding",
    "weight_drift": "weight drift",
    "entropy_fall": "fall of attention entropy, %",
    "entropy_size": "change of attention entropy either way, %",
    "text_embedding_drift": "drift of text embeddings",
    "text_cka": "1 - CKA of the text tower",
    "rate": "*the learning rate, for comparison*",
}


@cache
def read(evidence: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Finished runs, indexed by run, and their histories with every signal rising where more is lost."""
    with tempfile.TemporaryDirectory() as place:
        study = Path(place) / "study"
        unpack(evidence, study)
        records = [record for record in records_in(study) if record["status"] == "done"]
        runs, history = runs_frame(records), history_frame(records)
    ends = history.groupby("run")["step"].max()
    runs["steps"] = runs["run"].map(ends)
    runs["towers"] = [_towers(record) for record in records]
    runs["way"] = runs["method"].where(runs["towers"] == "head", "captions")
    history = history.assign(
        rate=history["run"].map(runs.set_index("run")["learning_rate"]),
        entropy_fall=-history["entropy_drift"],
        entropy_size=history["entropy_drift"].abs(),
    )
    for name in ("cka", "cka_embedding", "text_cka"):
        if name in history:
            history[name] = 1 - history[name]
    runs.index = pd.Index(runs["run"])
    return runs[runs[KEPT].notna()], history


def _towers(record: object) -> str:
    config = record["config"]  # type: ignore[index]
    objective = config.get("objective", {})
    return objective.get("towers", "both") if objective.get("name") == "contrastive" else "head"


def found(evidence: Path, by: str, shares: Sequence[float] = SHARES) -> tuple[int, list[Warned]]:
    runs, history = read(evidence)
    rows = [
        one
        for share in shares
        for level in LEVELS
        for one in warnings_of(
            runs, looks(history, runs, share, [name for name in SIGNALS if name in history]),
            share=share, level=level, kept=KEPT, by=by,
        )
    ]  # fmt: skip
    return len(runs), rows


def number(value: float, digits: int = 2) -> str:
    return "–" if np.isnan(value) else f"{value + 0.0:.{digits}f}"


def pooled(rows: list[Warned]) -> tuple[float, float, list[float]]:
    """Sensitivity and specificity over all held-out runs together, and the thresholds that they met."""
    lost, kept = sum(r.lost for r in rows), sum(r.runs - r.lost for r in rows)
    hits = sum(r.sensitivity * r.lost for r in rows if r.lost)
    quiet = sum(r.specificity * (r.runs - r.lost) for r in rows if r.runs > r.lost)
    return (
        hits / lost if lost else float("nan"),
        quiet / kept if kept else float("nan"),
        [r.threshold for r in rows],
    )


def held_out(rows: list[Warned], share: float, level: float) -> Iterator[str]:
    heads = ("signal", "AUC, all runs", "threshold, all runs", "thresholds without one", *JUDGED)
    yield f"| {' | '.join(heads)} |"
    yield "|---|--:|--:|--:|--:|--:|"
    table = []
    for signal, words in SIGNALS.items():
        of = [r for r in rows if (r.signal, r.share, r.level) == (signal, share, level)]
        if not of:
            continue
        whole, parts = next(r for r in of if not r.held), [r for r in of if r.held]
        if not any(r.runs for r in parts):  # measured in one group alone: nothing to test it on
            continue
        sensitivity, specificity, thresholds = pooled(parts)
        index = sensitivity + specificity
        span = f"{min(thresholds):.3g} to {max(thresholds):.3g}"
        cells = [
            words,
            number(whole.auc),
            f"{whole.threshold:.3g}",
            span,
            number(sensitivity),
            number(specificity),
        ]
        table.append((index, f"| {' | '.join(cells)} |"))
    yield from (line for _, line in sorted(table, key=lambda row: -row[0]))
