"""Made-up tables of runs whose best setting is known beforehand."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from clipdrift.study.tables import Tables

RATES = (1e-5, 1e-4, 1e-3)
LEVELS = {
    ("full_ft", 1e-5): (50.0, 98.0), ("full_ft", 1e-4): (80.0, 85.0), ("full_ft", 1e-3): (84.0, 30.0),
    ("lora", 1e-5): (20.0, 100.0), ("lora", 1e-4): (60.0, 99.0), ("lora", 1e-3): (78.0, 93.0),
}  # fmt: skip
"""Method and rate -> accuracy and what is kept, percent, before the seeds scatter."""


def runs(
    levels: dict[tuple[str, float], tuple[float, float]] = LEVELS,
    seeds: tuple[int, ...] = (7, 11, 19),
    targets: tuple[str, ...] = ("eurosat",),
    noise: float = 0.5,
) -> pd.DataFrame:
    """One row per run; accuracy and retention scatter by ``noise`` points, validation accuracy less."""
    draw = np.random.default_rng(3)
    rows: list[dict[str, object]] = []
    for target, ((method, rate), (gained, kept)), seed in itertools.product(targets, levels.items(), seeds):
        e = noise * draw.normal(size=4)
        rows.append(
            {
                "run": f"r{len(rows)}", "target": target, "method": method, "learning_rate": rate,
                "seed": seed, "accuracy": gained + e[0], "validation_accuracy": gained + 0.1 * e[1],
                "retention_cifar100": kept + e[2], "embedding_drift": (101 - kept) / 100 + 0.001 * e[3],
                "entropy_drift": 0.1 * (kept - 100) + 0.001 * e[3], "cka": kept / 101,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def table(frame: pd.DataFrame, folder: Path) -> Path:
    """The runs as a CSV made elsewhere."""
    path = folder / "runs.csv"
    frame.to_csv(path, index=False)
    return path


def tables(frame: pd.DataFrame, folder: Path) -> Tables:
    return Tables.from_csv(table(frame, folder))
