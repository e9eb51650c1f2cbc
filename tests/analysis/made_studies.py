"""Generated studies: the rate moves the drift, the drift costs retention, LoRA moves less."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from clipdrift.analysis import analyse
from clipdrift.analysis.rows import COLUMNS

RATES = (1e-6, 5e-6, 1e-5, 5e-5)


def study(
    targets=("eurosat", "pets"),
    methods=("full_ft", "lora"),
    rates=RATES,
    seeds=(7, 11, 19),
    penalty=None,
    noise=0.1,
) -> pd.DataFrame:
    """One row per run, as a tidy table; retention_cifar100 falls with weight drift."""
    draw = np.random.default_rng(5)
    rows = []
    for i, (target, method, rate, seed) in enumerate(itertools.product(targets, methods, rates, seeds)):
        moved = (np.log10(rate) + 6.5) * (2.0 if method == "full_ft" else 0.5) * (0.5 if penalty else 1)
        moved *= 1 + noise * 0.3 * draw.normal()
        e = noise * draw.normal(size=6)
        rows.append(
            {
                "run": f"{penalty or 'r'}{i}", "target": target, "backbone": "b32", "method": method,
                "learning_rate": rate, "seed": seed, "penalty": penalty,
                "penalty_weight": 0.1 if penalty else None,
                "entropy_drift": 1 - 2 * moved + e[0], "gini_drift": 3 * moved + e[1],
                "cka": 1 - 0.1 * moved + 0.01 * e[2],
                "weight_drift": 0.01 * moved, "validation_accuracy": 98 + 0.2 * moved + e[3],
                "accuracy": 97 + 0.2 * moved + e[4], "retention_cifar100": 100 - 20 * moved + 5 * e[5],
                "epoch1_entropy_drift": 0.5 - moved + e[1],
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def named(runs: pd.DataFrame) -> list[str]:
    """The runs' names; a table without them is counted through."""
    return list(runs["run"]) if "run" in runs else [f"run {i + 1}" for i in range(len(runs))]


def with_penalty() -> pd.DataFrame:
    """The same with an arm of full_ft under a penalty."""
    return pd.concat([study(), study(methods=("full_ft",), penalty="apr")], ignore_index=True)


def blocks(runs: pd.DataFrame) -> pd.DataFrame:
    """Late blocks drift more."""
    return pd.DataFrame(
        {"run": run, "measure": "entropy", "block": b, "value": 3.0, "drift": 0.1 * (b % 3) - (b > 8)}
        for run in named(runs)
        for b in range(1, 13)
    )


def history(runs: pd.DataFrame) -> pd.DataFrame:
    """Entropy falls by half a percent every ten steps; accuracy settles."""
    return pd.DataFrame(
        {"run": run, "step": 10 * e, "ends_epoch": e > 0, "epoch": e, "entropy_drift": -0.5 * e,
         "validation_accuracy": 90 - 1 / (e + 1)}
        for run in named(runs) for e in range(6)
    )  # fmt: skip


def paths(runs: pd.DataFrame) -> pd.DataFrame:
    """Retention bulges above the line, most in the middle."""
    return pd.DataFrame(
        {"run": run, "alpha": a, "accuracy": 50 + 40 * a, "retention_cifar100": 100 - 80 * a * a}
        for run in named(runs)
        for a in (0.0, 0.25, 0.5, 0.75, 1.0)
    )


def everything(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Every question, with all tables."""
    return analyse(runs, blocks=blocks(runs), history=history(runs), paths=paths(runs))


def sound(tables: dict[str, pd.DataFrame]) -> None:
    """Each row has a number or says why not; names its unit; intervals and p are in range."""
    for name, table in tables.items():
        assert tuple(table.columns) == COLUMNS
        assert len(table), name
        assert (table.question == name).all()
        assert (table.unit != "").all()
        assert (table.value.notna() | (table.note != "")).all(), name
        assert table.p.dropna().between(0, 1).all()
        assert (table.p_corrected.dropna() >= table.p[table.p_corrected.notna()]).all()
        assert ((table.low <= table.high) | table.low.isna()).all()
        assert (table.interval[table.low.notna()] != "").all()
