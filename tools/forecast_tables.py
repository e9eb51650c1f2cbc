"""Forecasts beside what then happened: cells, correlations, thresholds left out target by target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from clipdrift.analysis.bootstrap import Statistic, correlation_of, interval
from clipdrift.analysis.draws import Draws
from clipdrift.analysis.permutation import UndeterminedError, correlate
from clipdrift.analysis.warning import best_threshold

BY_RATE = {
    "rate": "the learning rate itself, for comparison",
    "drift": "drift of the first step, target",
    "cka_loss": "1 - CKA of the first step, target",
    "transfer_drift": "drift of the first step, transfer set",
    "drift_8": "drift after eight steps, target",
    "cka_loss_8": "1 - CKA after eight steps, target",
    "transfer_drift_8": "drift after eight steps, transfer set",
}
"""Numbers that every candidate rate has."""
BY_METHOD = {
    "gradient": "gradient norm at initialisation, image tower",
    "gradient_first": "share of the first block in it",
    "gradient_last": "share of the last block in it",
}
BY_TARGET = {
    "zero_shot": "zero-shot accuracy on the target",
    "probe": "accuracy of a linear probe",
    "room": "probe minus zero-shot",
    "entropy": "entropy of the zero-shot distribution",
    "overlap": "CKA between target and transfer embeddings",
}
OUTCOMES = {
    "kept": "zero-shot accuracy kept, %",
    "final_drift": "embedding drift at the end",
    "gained": "accuracy gained over zero-shot, points",
}
COARSE = OUTCOMES | {"best_rate": "best rate that keeps 90 %", "best_gain": "most gained at 90 % kept"}
"""Outcomes of a target and method, over their rates."""
LEVEL = 90.0


@dataclass(frozen=True)
class Found:
    """A rank correlation over units, with its interval and p; ``note`` says why something is missing."""

    number: str
    outcome: str
    units: int
    rho: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    p: float = float("nan")
    beyond: tuple[float, float, float] | None = None
    by_target: Mapping[str, float] | None = None
    note: str = ""


def cells_of(runs: Iterable[tuple[str, Mapping[str, Any], str]], kept: Mapping[str, Any]) -> pd.DataFrame:
    """One row per study, setting and rate: means over seeds of what happened, and what was forecast."""
    rows = []
    for study, record, key in runs:
        if key not in kept:
            continue
        config, last = record["config"], record["last"]
        (transfer,) = list(last["transfer"])[:1]
        rows.append(
            {
                "study": study, "key": key, "target": config["data"]["target"]["name"],
                "method": config["method"]["name"], "rate": config["optim"]["learning_rate"],
                "kept": last["transfer"][transfer]["retention"],
                "final_drift": last["measures"]["embedding_drift"]["mean"],
                "accuracy": record["best"]["test_accuracy"],
            }
        )  # fmt: skip
    table = pd.DataFrame(rows)
    by = ["study", "key", "target", "method", "rate"]
    counts = table.groupby(by).size().rename("runs")
    table = table.groupby(by).mean().join(counts).reset_index()
    told = pd.DataFrame(
        [_forecast(kept[key], rate) for key, rate in zip(table["key"], table["rate"], strict=True)]
    )
    table = pd.concat([table, told], axis=1)
    table["gained"] = table["accuracy"] - table["zero_shot"]
    return table


def _forecast(entry: Mapping[str, Any], rate: float) -> dict[str, float]:
    found = entry["steps"]["1"]
    gradient = found["gradient"]
    (transfer,) = found["transfer"].values()
    row = {
        "zero_shot": found["zero_shot"]["value"], "probe": found["probe"]["value"],
        "room": found["room"]["value"], "entropy": found["entropy"]["value"],
        "overlap": transfer["overlap"], "gradient": gradient["total"],
        "gradient_first": gradient["blocks"][0] / gradient["total"],
        "gradient_last": gradient["blocks"][-1] / gradient["total"],
    }  # fmt: skip
    for steps, entry_of in entry["steps"].items():
        suffix = "" if steps == "1" else f"_{steps}"
        step = next(s for s in entry_of["first_steps"] if s["rate"] == rate)
        # what broke the model moved it further than any number says
        row[f"drift{suffix}"] = np.inf if step["drift"] is None else step["drift"]
        row[f"cka_loss{suffix}"] = np.inf if step["cka_loss"] is None else step["cka_loss"]
        row[f"transfer_drift{suffix}"] = next(iter(step["transfer_drift"].values()), np.inf)
    return row


def groups_of(cells: pd.DataFrame, least: int = 4) -> pd.DataFrame:
    """One row per target and method with several rates: what happened over the rates they all have."""
    main = cells[cells.groupby("key")["rate"].transform("nunique") >= least]
    rates = set.intersection(*(set(group) for _, group in main.groupby("key")["rate"]))
    rows = []
    for _, group in main.groupby("key"):
        common = group[group["rate"].isin(rates)]
        allowed = group[group["kept"] >= LEVEL]
        best = allowed.loc[allowed["accuracy"].idxmax()] if len(allowed) else None
        first = group.iloc[0]
        rows.append(
            {
                "target": first["target"], "method": first["method"],
                **{name: common[name].mean() for name in OUTCOMES},
                "best_rate": np.nan if best is None else best["rate"],
                "best_gain": np.nan if best is None else best["gained"],
                **{name: first[name] for name in (*BY_METHOD, *BY_TARGET)},
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def by_rate(cells: pd.DataFrame, draws: Draws) -> list[Found]:
    """Numbers that each rate has, over cells; and whether they order more than the rate alone."""
    return [_over_cells(cells, number, outcome, draws) for outcome in OUTCOMES for number in BY_RATE]


def _over_cells(cells: pd.DataFrame, number: str, outcome: str, draws: Draws) -> Found:
    # ranks alone count; one beyond all others stands for infinity
    x, y, rate = (_finite(cells[name].to_numpy(float)) for name in (number, outcome, "rate"))
    found = correlate(x, y, "Spearman", draws=draws)
    units, strata = list(cells.index), list(cells["target"])
    span = interval(correlation_of(x, y, "Spearman"), units, draws=draws, named="cell", strata=strata)
    parts = {}
    for target, group in cells.groupby("target"):
        a, b = (_finite(group[name].to_numpy(float)) for name in (number, outcome))
        parts[str(target)] = correlate(a, b, "Spearman", draws=draws).value
    beyond = None
    if number != "rate":
        more = _more(correlation_of(x, y, "Spearman"), correlation_of(rate, y, "Spearman"))
        ends = interval(more, units, draws=draws, named="cell", strata=strata)
        beyond = (float(more(np.ones((1, len(x))))[0]), ends.low, ends.high)
    return Found(number, outcome, len(x), found.value, span.low, span.high, found.p, beyond, parts)


def within(cells: pd.DataFrame, number: str, outcome: str, draws: Draws) -> tuple[float, float, float]:
    """Correlation over the cells of one method, with its interval."""
    x, y = (_finite(cells[name].to_numpy(float)) for name in (number, outcome))
    span = interval(correlation_of(x, y, "Spearman"), list(cells.index), draws=draws, named="cell")
    return correlate(x, y, "Spearman", draws=draws).value, span.low, span.high


def _more(one: Statistic, other: Statistic) -> Statistic:
    """How much larger the first correlation is, either way."""
    return lambda weights: np.abs(one(weights)) - np.abs(other(weights))


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isinf(values), np.nanmax(values[np.isfinite(values)]) * 2 + 1, values)


def coarse(groups: pd.DataFrame, draws: Draws) -> list[Found]:
    """Numbers without a rate: those of a target and method over both, those of a target over targets."""
    found = []
    targets = groups.groupby("target").mean(numeric_only=True)
    for numbers, table in ((BY_METHOD, groups), (BY_TARGET, targets)):
        for outcome in COARSE:
            for number in numbers:
                strata = list(table["method"]) if numbers is BY_METHOD else None
                found.append(_over_groups(table, number, outcome, draws, strata))
    return found


def _over_groups(
    table: pd.DataFrame, number: str, outcome: str, draws: Draws, strata: list[str] | None
) -> Found:
    """Targets are compared within a method, whose gradients are of other parameters than another's."""
    x, y = table[number].to_numpy(float), table[outcome].to_numpy(float)
    known = np.isfinite(x) & np.isfinite(y)
    units = int(known.sum())
    try:
        value = correlate(x, y, "Spearman", draws=draws, strata=strata)
    except UndeterminedError as error:
        return Found(number, outcome, units, note=str(error))
    if strata is not None:
        return Found(number, outcome, units, value.value, p=value.p, note="no interval: within methods")
    try:
        span = interval(
            correlation_of(x[known], y[known], "Spearman"), list(range(units)), draws=draws, named="target"
        )
        return Found(number, outcome, units, value.value, span.low, span.high, value.p)
    except UndeterminedError as error:
        return Found(number, outcome, units, value.value, p=value.p, note=f"no interval: {error}")


@dataclass(frozen=True)
class Held:
    """A threshold chosen without one group of cells and tested on it."""

    number: str
    held: str
    threshold: float
    cells: int
    lost: int
    hits: int
    quiet: int


def thresholds(cells: pd.DataFrame, number: str, by: str) -> list[Held]:
    """Thresholds of a number on ``kept < 90``, each chosen without one group; the first on all cells."""
    values = _finite(cells[number].to_numpy(float))
    lost = (cells["kept"] < LEVEL).to_numpy()
    rows = []
    for held in ("", *sorted(cells[by].unique())):
        test = (cells[by] == held).to_numpy() if held else np.ones(len(cells), bool)
        chosen = ~test if held else test
        if not (lost[chosen].any() and (~lost[chosen]).any()):
            continue
        bound = best_threshold(values[chosen], lost[chosen])
        above = values >= bound
        rows.append(
            Held(
                number, held, bound, int(test.sum()), int(lost[test].sum()),
                int((above & lost & test).sum()), int((~above & ~lost & test).sum()),
            )
        )  # fmt: skip
    return rows


def pooled(rows: Iterable[Held]) -> tuple[float, float]:
    """Sensitivity and specificity over all held-out cells; nan where there is none to judge."""
    held = [row for row in rows if row.held]
    lost, kept = sum(r.lost for r in held), sum(r.cells - r.lost for r in held)
    hits, quiet = sum(r.hits for r in held), sum(r.quiet for r in held)
    return hits / lost if lost else float("nan"), quiet / kept if kept else float("nan")


@dataclass(frozen=True)
class Pick:
    """The rate that a threshold chosen on other targets lets through, beside the best allowed one."""

    study: str
    target: str
    method: str
    picked: float | None
    kept: float
    accuracy: float
    best: float | None
    best_accuracy: float


def picks(cells: pd.DataFrame, number: str) -> list[Pick]:
    """For every target and method with several rates: the largest rate below the threshold of the others."""
    bounds = {row.held: row.threshold for row in thresholds(cells, number, "target")}
    found = []
    for (target, method, study, _), group in cells.groupby(["target", "method", "study", "key"]):
        if len(group) < 4 or target not in bounds:
            continue
        below = group[group[number] < bounds[str(target)]]
        taken = below.loc[below["rate"].idxmax()] if len(below) else None
        allowed = group[group["kept"] >= LEVEL]
        best = allowed.loc[allowed["accuracy"].idxmax()] if len(allowed) else None
        nan = float("nan")
        found.append(
            Pick(
                str(study), str(target), str(method), None if taken is None else float(taken["rate"]),
                nan if taken is None else float(taken["kept"]),
                nan if taken is None else float(taken["accuracy"]),
                None if best is None else float(best["rate"]),
                nan if best is None else float(best["accuracy"]),
            )
        )  # fmt: skip
    return found
