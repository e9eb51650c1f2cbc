"""Logs of monitors that nobody measured: the files, with numbers that follow from the step. For tests."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BLOCKS = 3
RULES = {
    "warn_when": ["embedding_drift >= 0.28", "retention < 80 %"],
    "stop_when": ["retention/objects < 20 %"],
    "keep_best_when": ["embedding_drift < 0.28"],
    "reduce_rate_when": ["a_function_of_mine"],
    "patience": 1,
    "warm_up": 0,
    "factor": 0.5,
    "source": "yours",
}


def made_row(
    step: int, *, at: float | None = None, sets: bool = True, texts: bool = False, **more: Any
) -> dict[str, Any]:
    """A row as a monitor writes it; the model drifts by a hundredth a step.

    Args:
        at: its time; none: a quarter of an hour ago.
    """
    far = step / 100
    row: dict[str, Any] = {"step": step, "time": round(time.time() - 1000 + step, 1) if at is None else at}
    row |= {"drift/entropy": -10 * far, "drift/cka": 1 - far / 2, "measure/entropy": 3 - far}
    for block in range(1, BLOCKS + 1):
        row[f"drift/entropy/block_{block}"] = -5 * far * block
        row[f"drift/cka/block_{block}"] = 1 - far * block / 4
    row |= {"drift/embedding_drift": far, "drift/weight_drift": far / 10}
    row |= {"drift/zero_shot_agreement": 1 - far, "drift/zero_shot_kl": far}
    if texts:
        row |= {
            "drift/text_cka": 1 - far / 5,
            "drift/text_embedding_drift": far / 3,
            "drift/modality_gap": far / 7,
        }
        row |= {f"drift/text_cka/block_{block}": 1 - far * block / 9 for block in (1, 2)}
    if sets:
        row |= {"zero_shot/objects": 60 * (1 - far), "retention/objects": 100 * (1 - far)}
    return row | {"said": [], "good": far < 0.28, "seconds": 0.25} | more


def made_about(*, sets: bool = True, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What stands beside a log."""
    known = {"objects": {"before": 60.0, "images": 500, "classes": 100, "measurable": True}} if sets else {}
    return {
        "backbone": "clipdrift/mini",
        "blocks": BLOCKS,
        "images": {"source": "terrain-10", "count": 64, "notes": [], "bad": []},
        "sets": known,
        "texts": 100 if sets else 0,
        "every": 5,
        "rules": RULES,
        "config": dict(config or {}),
    }


def made_log(
    out: Path,
    steps: range | list[int] = range(5, 45, 5),
    *,
    sets: bool = True,
    texts: bool = False,
    config: Mapping[str, Any] | None = None,
    good: int | None = None,
    ends: str = "",
) -> Path:
    """A monitor's folder; returns it.

    Args:
        good: step of the last good state; None: none was kept.
        ends: after the last row, as it is.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = [made_row(step, sets=sets, texts=texts) for step in steps]
    for row in rows:
        if row["drift/embedding_drift"] >= 0.28:
            row["said"] = [f"warning: drift/embedding_drift is {row['drift/embedding_drift']:.4g} (yours)"]
            break
    (out / "drift.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + ends)
    (out / "monitor.json").write_text(json.dumps(made_about(sets=sets, config=config)))
    if good is not None:
        (out / "good").mkdir()
        facts = {"step": good, "numbers": {"drift/cka": 1 - good / 200}, "kind": "adapter"}
        (out / "good" / "clipdrift.json").write_text(json.dumps(facts))
    return out
