"""The tool behind docs/backbone-shapes.md: its shapes are the study's, and tables of made numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from clipdrift.config import PretrainConfig, parse_config
from clipdrift.study.plan import load_study

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    sys.path.insert(0, str(TOOLS))
    import backbone_shapes

    yield backbone_shapes
    sys.path.remove(str(TOOLS))


def made(tool: ModuleType) -> pd.DataFrame:
    """What is kept falls with CKA's loss in each shape; all else is noise, the same order in both shapes."""
    rng, rows = np.random.default_rng(0), []
    noise = {signal: rng.normal(size=8) for signal in tool.SIGNALS}
    for shape, slope in (("base", 1.0), ("depth-3", 3.0)):
        for number in range(8):
            loss = 0.01 * number
            row = {"shape": shape, "cell": f"{shape}{number}", "seed": 7, "before": 80.0, "accuracy": 50.0}
            row |= {"method": "full_ft", "kept": 100 - slope * 100 * loss, "trained_parameters": 1}
            rows.append(row | {s: values[number] for s, values in noise.items()} | {"cka": 1 - loss})
    return pd.DataFrame(rows)


def test_the_studys_models_are_the_shapes_that_are_made(tool: ModuleType) -> None:
    runs = load_study("backbone-shapes").runs
    assert {run.config.model.name for run in runs} == set(tool.SHAPES)
    assert {run.config.model.path for run in runs} == {f"./shapes/{name}" for name in tool.SHAPES}
    for shape in tool.SHAPES.values():
        flat = {key: value for key, value in tool.COURSE.items() if "." not in key}
        config = parse_config({**flat, **shape, "data": {"name": "objects-100"}}, PretrainConfig)
        assert config.steps > 1000


def test_signals_are_ranked_within_each_shape(tool: ModuleType) -> None:
    """Between shapes what is kept at the same CKA differs; within each, CKA orders it."""
    found = tool.correlations(made(tool))
    assert list(found.columns) == ["base", "depth-3"]
    assert found.loc["cka"].to_numpy() == pytest.approx(1.0)
    assert (found.drop(index="cka").abs() < 1).all(axis=None)
    text = "\n".join(tool.tables(made(tool), 96, resamples=50))
    assert "16 of 96 planned runs are finished" in text
    assert "| CKA | +0.8" in text
    assert "| base | +1.00 | CKA; " in text
