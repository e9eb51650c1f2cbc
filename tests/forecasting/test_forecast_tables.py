"""What the page on forecasts says follows from the records: its rules on made-up cells, and the page."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from clipdrift.analysis.draws import Draws

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tool() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "tools"))
    import forecast as found  # type: ignore[import-not-found, unused-ignore]

    yield found
    sys.path.remove(str(ROOT / "tools"))


def cells(tool: ModuleType) -> pd.DataFrame:
    """Two methods on three targets: what is kept falls with a drift that one method has at larger rates."""
    rows = []
    for place, target in enumerate(("a", "b", "c")):
        for method, slower in (("full_ft", 1), ("lora", 10)):
            for rate in (1e-5, 1e-4, 1e-3, 1e-2):
                drift = (1 + place / 10) * rate / slower
                row = {
                    "study": "s", "key": f"{target}{method}", "target": target, "method": method,
                    "rate": rate,
                    "kept": 100 - 20000 * drift, "final_drift": drift, "runs": 1,
                    "accuracy": 50 - abs(np.log10(rate) + 3), "gained": 40 - abs(np.log10(rate) + 3),
                }  # fmt: skip
                row |= dict.fromkeys(tool.BY_RATE, drift) | {"rate": rate}
                row |= {name: float(place) for name in (*tool.BY_METHOD, *tool.BY_TARGET)}
                rows.append(row)
    return pd.DataFrame(rows)


def test_verdicts_follow_their_rule(tool: ModuleType) -> None:
    table = cells(tool)
    judged = tool.verdicts(table, Draws(np.random.default_rng(0), orders=999, resamples=300))
    said = {(one.number, one.outcome): (verdict, why) for one, _, verdict, why in judged}
    assert said["drift", "kept"][0] == "predicts"
    assert said["drift", "gained"][0] == "does not predict"
    assert said["rate", "kept"] == ("–", "for comparison")
    assert said["entropy", "kept"] == ("cannot be told", "3 targets are too few for any order to be sure")
    assert said["gradient", "kept"][0] == "cannot be told"


def test_a_threshold_is_tested_on_what_it_was_not_chosen_on(tool: ModuleType) -> None:
    table = cells(tool)
    rows = tool.thresholds(table, "drift", "target")
    assert [row.held for row in rows] == ["", "a", "b", "c"]
    assert tool.pooled(rows) == (1.0, 1.0)
    by_rate = tool.pooled(tool.thresholds(table, "rate", "method"))
    assert min(by_rate) < 1  # a rate that full_ft can take is none that lora can
    first = tool.picks(table, "drift")[0]
    assert (first.picked, first.best) == (1e-4, 1e-4)


@pytest.mark.slow
def test_the_page_and_what_ships_are_those_of_the_records(tool: ModuleType) -> None:
    table = tool.cells()
    assert "\n".join(tool.tables(table)) in tool.PAGE.read_text(encoding="utf-8")
    shipped = json.loads(tool.SHIPPED.read_text(encoding="utf-8"))
    assert tool.shipped(table).model_dump(mode="json") == shipped
