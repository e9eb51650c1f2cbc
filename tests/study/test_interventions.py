"""The tool behind docs/interventions.md: kinds of runs by its own plan, and tables of made numbers."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from clipdrift.study.plan import load_study

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    sys.path.insert(0, str(TOOLS))
    import interventions

    yield interventions
    sys.path.remove(str(TOOLS))


def made() -> pd.DataFrame:
    """What is kept falls by 100 points per unit of embedding drift; forced runs lose 5 points beyond that."""
    rng, rows = np.random.default_rng(0), []
    plan = [("plain", "task, nothing held", rate, 0.0) for rate in (1, 2, 3)]
    plan += [("held", f"apr {weight}", 2, 0.0) for weight in (1, 2)]
    plan += [("forced", f"entropy to {r}, {b}", 1, 5.0) for r in (0.6, 0.8, 1.1) for b in ("all", "some")]
    for number, (group, arm, rate, cost) in enumerate(plan):
        for seed in (7, 11, 19):
            drift = 0.2 * rate if group == "plain" else rng.uniform(0.1, 0.5)
            kept, moved = 100 * (1 - drift) - cost, 20 * drift + rng.normal()
            row = {"group": group, "arm": arm, "rate": rate, "seed": seed, "cell": f"c{number}"}
            row |= {"ratio": float(arm.split(",")[0].split()[-1]) if group == "forced" else np.nan}
            row |= {"blocks": arm.split(", ")[-1] if group == "forced" else "", "accuracy": 50.0}
            rows.append(row | {"entropy": -moved, "cka": 0.9, "drift": drift, "kept": kept, "moved": moved})
    return pd.DataFrame(rows)


def test_every_planned_run_has_its_kind(tool: ModuleType) -> None:
    records = [{"config": run.config.model_dump(mode="json")} for run in load_study("interventions").runs]
    kinds = [tool._kind(record) for record in records]
    groups = Counter(kind["group"] for kind in kinds)
    assert groups == {"plain": 18, "held": 39, "forced": 54, "projection": 9}
    assert len({kind["arm"] for kind in kinds}) == 1 + 13 + 9 + 1
    assert {kind["blocks"] for kind in kinds} == {"", "all blocks", "blocks 1 to 3", "blocks 4 to 6"}


def test_runs_are_laid_beside_plain_ones_at_equal_drift(tool: ModuleType) -> None:
    away = tool.beyond(made())
    assert away.loc[away["group"] == "held", "kept_beyond"].abs().max() < 1e-9
    assert away.loc[away["group"] == "forced", "kept_beyond"].to_numpy() == pytest.approx(-5)
    far = made()
    far.loc[far["group"] == "held", "drift"] = 0.9
    assert tool.beyond(far).query("group == 'held'")["kept_beyond"].isna().all()
    assert "outside plain's range" in "\n".join(tool.at_equal_drift(far))


def test_all_tables_and_the_picture(tool: ModuleType) -> None:
    """Drift settles what is kept: given moved attention its partial correlation is -1 among task runs."""
    text = "\n".join(tool.tables(made(), 40, resamples=50))
    assert text.startswith("33 of 40 planned runs are finished (seeds 7, 11, 19)")
    (task,) = (line for line in text.splitlines() if line.startswith("| task, held or not"))
    assert task.split(" | ")[3].startswith("-1.00")
    assert task.split(" | ")[5].startswith("-1.00")
    assert sum(line.startswith("| entropy to 0.6, all") for line in text.splitlines()) == 2
    assert "nan" not in text
    assert len(tool.picture(made()).axes) == 2
