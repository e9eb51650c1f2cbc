"""Small runs on captions: coloured pictures, each with two captions that name its colour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipdrift.config import RunConfig, parse_config
from small_runs import merged, picture

COLOURS = ("blue", "green", "red")
COUNT = 60


def write_captions(root: Path, count: int = COUNT) -> Path:
    """Pictures and ``metadata.jsonl`` with two captions each; every text belongs to one picture."""
    root.mkdir(parents=True)
    rows = []
    for number in range(count):
        colour = number % 3
        picture(colour, number).save(root / f"im{number:02}.png")
        for words in ("{} circle {}", "a photo of {} square {}"):
            rows.append({"file_name": f"im{number:02}.png", "text": words.format(COLOURS[colour], number)})
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def settings(model: Path, target: Path, method: Any = "full_ft", **changes: Any) -> dict[str, Any]:
    """Plain data of a run of two epochs; ``changes`` is merged in, table by table."""
    found: dict[str, Any] = {
        "model": {"name": model.name, "path": str(model)},
        "data": {
            "target": str(target),
            "transfer": [{"name": "objects-100", "per_class": 1}],
            "validation_images": 9,
            "probe_images": 6,
            "test_images": 12,
        },
        "method": method,
        "objective": {"name": "contrastive"},
        "optim": {"learning_rate": 1e-3, "epochs": 2, "batch_size": 8},
    }
    return merged(found, changes)


def config_for(model: Path, target: Path, method: Any = "full_ft", **changes: Any) -> RunConfig:
    """:func:`settings` as a RunConfig."""
    return parse_config(settings(model, target, method, **changes), RunConfig)
