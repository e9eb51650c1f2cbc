"""The tool behind docs/heads.md: its plan in pairs, and tables and a picture of made numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clipdrift.study.plan import load_study

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    sys.path.insert(0, str(TOOLS))
    import heads

    yield heads
    sys.path.remove(str(TOOLS))


def made(seeds: tuple[int, ...] = (7, 11)) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Zero-shot heads: 2 points more accurate, 5 more kept, and a path 4 points above its line."""
    runs, paths = [], []
    for method in ("full_ft", "lora"):
        for rate in (1e-4, 4e-4):
            for seed in seeds:
                for head in ("linear", "zero_shot"):
                    zero = head == "zero_shot"
                    run: dict[str, Any] = {
                        "run": f"{method}{rate}{seed}{head}",
                        "target": "t",
                        "method": method,
                    }
                    run |= {"rate": rate, "seed": seed, "head": head, "cka": 0.9, "entropy_drift": 0.0}
                    run |= {"accuracy": 70.0 + seed / 10 + 2 * zero, "kept": 80.0 + 5 * zero}
                    runs.append(run | {"embedding_drift": 0.3 - 0.1 * zero})
                    for alpha in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
                        above = 4.0 * zero if 0 < alpha < 1 else 0.0
                        point = {name: run[name] for name in ("run", "target", "method", "rate", "seed")}
                        point |= {"head": head, "alpha": alpha, "accuracy": 20 + 50 * alpha + above}
                        paths.append(point | {"kept": 100 - 20 * alpha})
    return pd.DataFrame(runs), pd.DataFrame(paths)


def test_every_run_has_its_twin_with_the_other_head() -> None:
    twins = [
        (run.config.head, run.config.model_copy(update={"head": "linear"}).key)
        for run in load_study("heads").runs
    ]
    linear, begun = ([key for head, key in twins if head == name] for name in ("linear", "zero_shot"))
    assert sorted(linear) == sorted(begun)
    assert len(set(linear)) == len(linear) == 27


def test_heads_are_compared_pair_by_pair(tool: ModuleType) -> None:
    """The seed's own part of accuracy falls out; without a twin there is no pair."""
    rows, _ = made()
    text = "\n".join(tool.differences(rows))
    assert "| t | full_ft | all | 4 | +2.0 | +5.0 | -0.100 |" in text
    alone = "\n".join(tool.differences(rows[rows["run"] != rows["run"].iloc[0]]))
    assert "| t | full_ft | all | 3 | +2.0 | +5.0 | -0.100 |" in alone
    moved = rows.assign(kept=rows["kept"] + rows["seed"].where(rows["head"] == "linear", 0.0))
    (line,) = (row for row in tool.differences(moved) if row.startswith("| t | lora | all"))
    found = line.split(" | ")[5]
    low, high = (float(end) for end in found.partition("[")[2].rstrip("]").split(", "))
    assert low < -4 < high


def test_mixes_that_keep_enough_and_height_above_the_line(tool: ModuleType) -> None:
    _, paths = made()
    found = tool.mixes(paths).groupby("head")[["above", "best", "keeping"]].mean()
    assert found.loc["linear"].to_numpy() == pytest.approx([0, 0, 40])  # alpha 0.4 keeps 92 %
    assert found.loc["zero_shot"].to_numpy() == pytest.approx([4, 0, 44])


def test_all_tables_and_the_picture(tool: ModuleType) -> None:
    rows, paths = made()
    text = "\n".join(tool.tables(rows, paths, 54))
    assert text.startswith("16 of 54 planned runs are finished (seeds 7, 11), 16 paths are walked.")
    assert "| t | lora | 0.0004 | zero_shot | 2 | 20.0 / 100 | 34.0 / 96 |" in text
    assert "nan" not in text
    assert len(tool.picture(paths).axes) == 4
    bare = "\n".join(tool.tables(rows, pd.DataFrame(columns=["run"]), 54))
    assert "path to the backbone" not in bare
    assert np.isfinite(rows["kept"]).all()
