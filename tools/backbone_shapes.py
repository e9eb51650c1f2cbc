"""Small CLIPs of several shapes for the study ``backbone-shapes``, and the page made from its records.

python tools/backbone_shapes.py make shapes     # pretrains them, minutes each; said again, it goes on
python tools/backbone_shapes.py                 # prints the tables
python tools/backbone_shapes.py --write         # puts them into docs/backbone-shapes.md
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from evidence import finished
from marked import between
from scipy.stats import kendalltau, spearmanr

from clipdrift.analysis.bootstrap import correlation_of, interval
from clipdrift.analysis.draws import Draws
from clipdrift.analysis.permutation import UndeterminedError
from clipdrift.study.frames import runs_frame

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE, PAGE = ROOT / "evidence" / "backbone-shapes", ROOT / "docs" / "backbone-shapes.md"
START, END = "<!-- tables: written by tools/backbone_shapes.py -->", "<!-- end of tables -->"
SHAPES: dict[str, dict[str, int]] = {
    "base": {},
    "patch-28": {"patch_size": 28},
    "depth-3": {"blocks": 3},
    "depth-10": {"blocks": 10},
    "width-64": {"width": 64},
    "width-192": {"width": 192},
}
"""What each differs in from 6 blocks of width 128 on patches of 14 pixels, of which there are 16."""
COURSE: dict[str, Any] = {
    "data.per_class": 300, "images": 90_000, "batch_size": 64, "parts": 1,
    "text_width": 64, "text_blocks": 2, "crop": 1.0, "colour": 0.0, "patch_size": 14,
}  # fmt: skip
"""How all are made."""
SIGNALS = {
    "cka": "CKA", "embedding_drift": "embedding drift", "weight_drift": "weight drift",
    "entropy_drift": "entropy, signed", "entropy_moved": "entropy, either way", "gini_drift": "Gini",
    "erf95_drift": "receptive field", "head_diversity_drift": "head diversity",
    "rollout_entropy_drift": "rollout entropy", "learning_rate": "rate",
}  # fmt: skip
RESAMPLES = 2000


def make(folder: Path) -> None:
    """Pretrain every shape that is not there yet, one after another; stopped, it goes on when said again."""
    clipdrift = Path(sys.executable).with_name("clipdrift")
    for name, shape in SHAPES.items():
        if (folder / name / "config.json").is_file():
            continue
        print(f"{name}: {shape or 'as it is'}", flush=True)
        settings = [f"--set={key}={value}" for key, value in {**COURSE, **shape}.items()]
        command = [
            str(clipdrift),
            "pretrain",
            "--data",
            "objects-100",
            *settings,
            "--out",
            str(folder / name),
        ]
        subprocess.run([*command, "--workers", "1"], check=True)


def read(evidence: Path = EVIDENCE) -> tuple[pd.DataFrame, int]:
    """One row per finished run, at the last epoch, and how many are planned."""
    records, planned = finished(evidence)
    return rows_of(records), planned


def rows_of(records: list[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of records of finished runs."""
    table = runs_frame(records)
    rows = pd.DataFrame({"shape": [_shape(record) for record in records]})
    for name in ("cell", "method", "learning_rate", "seed", "accuracy", "trained_parameters"):
        rows[name] = table[name]
    for name in SIGNALS:
        if f"last_{name}" in table:
            rows[name] = table[f"last_{name}"]
    changes = [record["last"]["measures"]["entropy"]["drift_blocks"] for record in records]
    rows["entropy_moved"] = [float(np.abs(blocks).mean()) for blocks in changes]
    rows["before"] = table["backbone_zero_shot_objects-100"]
    rows["kept"] = table["last_retention_objects-100"]
    return rows


def _shape(record: Mapping[str, Any]) -> str:
    return str(record["config"]["model"]["name"])


def shapes(rows: pd.DataFrame) -> Iterator[str]:
    yield "| shape | runs | zero-shot % | rate | full_ft: accuracy %, kept % | lora: accuracy %, kept % |"
    yield "|---|--:|--:|--:|--:|--:|"
    for shape in _present(rows):
        own = rows[rows["shape"] == shape]
        for rate, at in own.groupby("learning_rate"):
            both = []
            for method in ("full_ft", "lora"):
                cell = at[at["method"] == method]
                both.append(
                    "–" if cell.empty else f"{cell['accuracy'].mean():.1f}, {cell['kept'].mean():.1f}"
                )
            yield f"| {shape} | {len(own)} | {own['before'].iloc[0]:.1f} | {rate:g} | {' | '.join(both)} |"


def _present(rows: pd.DataFrame) -> list[str]:
    there = set(rows["shape"])
    return [shape for shape in SHAPES if shape in there]


def correlations(rows: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of each signal (rows) with what is kept, for each shape (columns), over runs."""
    found: dict[str, dict[str, float]] = {}
    for shape in _present(rows):
        own = rows[rows["shape"] == shape]
        found[shape] = {
            signal: float(spearmanr(own[signal], own["kept"]).statistic)
            for signal in SIGNALS
            if signal in own
        }
    return pd.DataFrame(found)


def signals(rows: pd.DataFrame, draws: Draws) -> Iterator[str]:
    table = correlations(rows)
    order = table.abs().mean(axis=1).sort_values(ascending=False).index
    yield f"| signal | all shapes | {' | '.join(table.columns)} |"
    yield f"|---|--:|{'--:|' * len(table.columns)}"
    for signal in order:
        own = rows.dropna(subset=[signal, "kept"])
        values, kept = own[signal].to_numpy(float), own["kept"].to_numpy(float)
        statistic = correlation_of(values, kept, "Spearman")
        pooled = f"{float(spearmanr(values, kept).statistic):+.2f}"
        try:
            ends = interval(statistic, own["cell"].tolist(), draws=draws, named="cell")
            pooled += f" [{ends.low:+.2f}, {ends.high:+.2f}]"
        except UndeterminedError:
            pooled += " (no interval)"
        yield f"| {SIGNALS[signal]} | {pooled} | {' | '.join(f'{v:+.2f}' for v in table.loc[signal])} |"


def agreement(rows: pd.DataFrame) -> Iterator[str]:
    """Whether signals rank alike: of each shape with the mean of all others, by the size of correlation."""
    sizes = correlations(rows).abs()
    yield "| shape | tau with the others' ranking | first three signals |"
    yield "|---|--:|---|"
    for shape in sizes.columns:
        tau = kendalltau(sizes[shape], sizes.drop(columns=shape).mean(axis=1)).statistic
        best = "; ".join(SIGNALS[name] for name in sizes[shape].sort_values(ascending=False).index[:3])
        yield f"| {shape} | {tau:+.2f} | {best} |"


def tables(rows: pd.DataFrame, planned: int, resamples: int = RESAMPLES) -> Iterator[str]:
    draws = Draws(np.random.default_rng(0), resamples=resamples)
    seeds = ", ".join(str(seed) for seed in sorted(rows["seed"].unique()))
    yield f"{len(rows)} of {planned} planned runs are finished (seeds {seeds}); values at the last epoch.\n"
    yield "### Every shape and rate\n"
    yield from shapes(rows)
    yield "\n### Each signal with what is kept\n"
    yield "Spearman's correlation over runs; for all shapes with an interval over cells.\n"
    yield from signals(rows, draws)
    yield "\n### Do the signals rank alike?\n"
    yield "Kendall's tau between the sizes of a shape's correlations and the mean of the other shapes'.\n"
    yield from agreement(rows)


def main() -> None:
    match sys.argv[1:]:
        case ["make", folder]:
            make(Path(folder))
        case [] | ["--write"]:
            text = "\n".join(tables(*read()))
            print(text)
            if sys.argv[1:]:
                page = PAGE.read_text(encoding="utf-8")
                PAGE.write_text(between(page, START, END, f"\n{text}\n"), encoding="utf-8")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
