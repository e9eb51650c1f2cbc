"""The tables and the figure of docs/interventions.md from the records of the study of that name.

python tools/interventions.py           # prints the tables
python tools/interventions.py --write   # puts them into the page, and draws docs/images/interventions.png
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from evidence import finished
from marked import between
from matplotlib.figure import Figure

from clipdrift.analysis.bootstrap import Statistic, correlation_of, interval
from clipdrift.analysis.draws import Draws
from clipdrift.analysis.means import averaged
from clipdrift.analysis.mediation import beyond_curve, partial_of, slope_of
from clipdrift.analysis.permutation import UndeterminedError
from clipdrift.study.frames import runs_frame

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE, PAGE = ROOT / "evidence" / "interventions", ROOT / "docs" / "interventions.md"
PICTURE = ROOT / "docs" / "images" / "interventions.png"
START, END = "<!-- tables: written by tools/interventions.py -->", "<!-- end of tables -->"
GROUPS = {
    "plain": "task, nothing held",
    "held": "task, held",
    "forced": "no task",
    "projection": "projection",
}
RESAMPLES = 2000
Numbers = np.ndarray


def read(evidence: Path = EVIDENCE) -> tuple[pd.DataFrame, int]:
    """One row per finished run, and how many are planned.

    All at the last epoch, so that all have been trained as long; accuracy is that of the chosen one, as the
    test images are read once. ``moved`` is the mean over blocks of the change of entropy, either way.
    """
    records, planned = finished(evidence)
    return rows_of(records), planned


def rows_of(records: list[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of records of finished runs."""
    table = runs_frame(records)
    rows = pd.DataFrame([_kind(record) for record in records])
    for name, column in (
        ("rate", "learning_rate"),
        ("seed", "seed"),
        ("cell", "cell"),
        ("accuracy", "accuracy"),
        ("entropy", "last_entropy_drift"),
        ("cka", "last_cka"),
        ("drift", "last_embedding_drift"),
        ("kept", "last_retention_cifar100"),
    ):
        rows[name] = table[column]
    changes = [record["last"]["measures"]["entropy"]["drift_blocks"] for record in records]
    rows["moved"] = [float(np.abs(blocks).mean()) for blocks in changes]
    rows.loc[rows["group"] == "forced", "accuracy"] = np.nan  # of a head that was not trained
    return rows


def _kind(record: Mapping[str, Any]) -> dict[str, Any]:
    config = record["config"]
    penalty = next(iter(config.get("penalty") or ()), None)
    if penalty is None:
        group = "plain" if config["method"]["name"] == "full_ft" else "projection"
        return {"group": group, "arm": GROUPS[group], "ratio": np.nan, "blocks": ""}
    if config.get("objective", {}).get("name") == "no_task":
        chosen = penalty.get("blocks")
        blocks = "all blocks" if chosen is None else f"blocks {min(chosen)} to {max(chosen)}"
        arm = f"entropy to {penalty['ratio']:g}, {blocks}"
        return {"group": "forced", "arm": arm, "ratio": penalty["ratio"], "blocks": blocks}
    arm = f"{penalty['name']} {penalty['weight']:g}"
    return {"group": "held", "arm": arm, "ratio": np.nan, "blocks": ""}


def mean(values: pd.Series, digits: int, sign: str = "") -> str:
    known = values.dropna()
    return "–" if known.empty else f"{known.mean():{sign}.{digits}f}"


def cells(rows: pd.DataFrame) -> Iterator[str]:
    yield "| runs | rate | n | accuracy % | entropy % | moved % | CKA | embedding drift | kept % |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for group in GROUPS:
        for (arm, rate), cell in rows[rows["group"] == group].groupby(["arm", "rate"], sort=False):
            shown = [mean(cell["accuracy"], 1), mean(cell["entropy"], 1, "+"), mean(cell["moved"], 1)]
            shown += [mean(cell["cka"], 3), mean(cell["drift"], 3), mean(cell["kept"], 1)]
            yield f"| {arm} | {rate:g} | {len(cell)} | {' | '.join(shown)} |"


def beyond(rows: pd.DataFrame) -> pd.DataFrame:
    """What ``kept`` and ``moved`` of each run lie above those of its seed's plain runs at equal drift.

    The plain runs' curve begins at the backbone, which has not moved and keeps all; nan beyond its end.
    """
    found = rows[rows["group"] != "plain"].copy()
    for column, start in (("kept", 100.0), ("moved", 0.0)):
        found[f"{column}_beyond"] = np.nan
        for seed, own in found.groupby("seed"):
            plain = rows[(rows["group"] == "plain") & (rows["seed"] == seed)]
            if plain.empty:
                continue
            curve = np.append(0.0, plain["drift"]), np.append(start, plain[column])
            away = beyond_curve(curve, own["drift"].to_numpy(float), own[column].to_numpy(float))
            found.loc[own.index, f"{column}_beyond"] = away
    return found


def at_equal_drift(rows: pd.DataFrame) -> Iterator[str]:
    yield "| runs | rate | embedding drift | moved, points beyond plain | kept, points beyond plain | n |"
    yield "|---|--:|--:|--:|--:|--:|"
    away = beyond(rows)
    for group in list(GROUPS)[1:]:
        for (arm, rate), cell in away[away["group"] == group].groupby(["arm", "rate"], sort=False):
            spans = [span(cell[f"{name}_beyond"].to_numpy(float)) for name in ("moved", "kept")]
            n = int(cell["kept_beyond"].notna().sum())
            yield f"| {arm} | {rate:g} | {mean(cell['drift'], 3)} | {' | '.join(spans)} | {n} |"


def span(values: Numbers) -> str:
    """Mean over seeds with its t interval."""
    try:
        found = averaged(values, "run", "seeds")
    except UndeterminedError:
        return "outside plain's range"
    ends = f" [{found['low']:+.1f}, {found['high']:+.1f}]" if "low" in found else ""
    return f"{found['value']:+.1f}{ends}"


def number(statistic: Statistic, of: pd.DataFrame, draws: Draws, digits: int = 2) -> str:
    """A statistic with its bootstrap interval over cells."""
    value = float(statistic(np.ones((1, len(of))))[0]) if len(of) > 2 else float("nan")
    if not np.isfinite(value):
        return "–"
    try:
        found = interval(statistic, of["cell"].tolist(), draws=draws, named="cell")
    except UndeterminedError:
        return f"{value:+.{digits}f} (no interval)"
    return f"{value:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"


def columns(of: pd.DataFrame) -> tuple[Numbers, Numbers, Numbers]:
    """Moved attention, embedding drift and what is kept."""
    moved, drift, kept = (of[name].to_numpy(float) for name in ("moved", "drift", "kept"))
    return moved, drift, kept


def mediation(rows: pd.DataFrame, draws: Draws) -> Iterator[str]:
    yield "| runs | cells | moved | drift | moved, given drift | drift, given moved |"
    yield "|---|--:|--:|--:|--:|--:|"
    task, forced = rows["group"].isin(["plain", "held"]), rows["group"] == "forced"
    for words, chosen in (("task, held or not", task), ("no task", forced), ("both", task | forced)):
        of = rows[chosen].dropna(subset=["moved", "drift", "kept"])
        moved, drift, kept = columns(of)
        statistics = [correlation_of(one, kept, "Spearman") for one in (moved, drift)]
        statistics += [partial_of(moved, kept, drift), partial_of(drift, kept, moved)]
        shown = [number(statistic, of, draws) for statistic in statistics]
        yield f"| {words} | {of['cell'].nunique()} | {' | '.join(shown)} |"


def slopes(rows: pd.DataFrame, draws: Draws) -> Iterator[str]:
    yield "| entropy | cells | kept, points per % moved | the same, given drift |\n|---|--:|--:|--:|"
    forced = rows[rows["group"] == "forced"].dropna(subset=["moved", "drift", "kept"])
    parts = {"lowered": forced["ratio"] < 1, "raised": forced["ratio"] > 1}
    parts |= {f"either way, {blocks}": forced["blocks"] == blocks for blocks in forced["blocks"].unique()}
    for words, chosen in parts.items():
        moved, drift, kept = columns(of := forced[chosen])
        shown = [number(slope_of(moved, kept, given), of, draws) for given in (None, drift)]
        yield f"| {words} | {of['cell'].nunique()} | {' | '.join(shown)} |"


def tables(rows: pd.DataFrame, planned: int, resamples: int = RESAMPLES) -> Iterator[str]:
    draws = Draws(np.random.default_rng(0), resamples=resamples)
    seeds = ", ".join(str(seed) for seed in sorted(rows["seed"].unique()))
    yield f"{len(rows)} of {planned} planned runs are finished (seeds {seeds}). Means over seeds.\n"
    yield "### Every cell\n"
    yield from cells(rows)
    yield "\n### Beside plain fine-tuning at equal embedding drift\n"
    yield from at_equal_drift(rows)
    yield "\n### What goes with what is kept\n"
    yield from mediation(rows, draws)
    yield "\n### Attention moved without a task\n"
    yield from slopes(rows, draws)


def picture(rows: pd.DataFrame) -> Figure:
    """What is kept against embedding drift, and against moved attention: one point per run."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    marks = dict(zip(GROUPS, "os^D", strict=True))
    for axis, (name, words) in zip(
        axes, (("drift", "embedding drift"), ("moved", "entropy moved, mean over blocks, %")), strict=True
    ):
        for group, title in GROUPS.items():
            own = rows[rows["group"] == group]
            axis.scatter(own[name], own["kept"], s=18, alpha=0.75, marker=marks[group], label=title)
        plain = rows[rows["group"] == "plain"].groupby("rate")[[name, "kept"]].mean().sort_values(name)
        line = np.vstack([[0.0, 100.0], plain.to_numpy(float)])
        axis.plot(line[:, 0], line[:, 1], color="grey", linewidth=1, zorder=0)
        axis.set_xlabel(words)
    axes[0].set_ylabel("zero-shot accuracy kept, %")
    axes[1].legend(frameon=False)
    return figure


def main() -> None:
    rows, planned = read()
    text = "\n".join(tables(rows, planned))
    if "--write" in sys.argv[1:]:
        PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), START, END, text), encoding="utf-8")
        picture(rows).savefig(PICTURE, dpi=120)
    else:
        print(text)


if __name__ == "__main__":
    main()
