"""Paths made up by hand, for what shows and chooses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipdrift.comparison import Compared, ProbeImages, Shape, Side
from clipdrift.repair import Repaired, Step, TransferTest
from clipdrift.runs.record import Transfer

Retention = float | Mapping[str, float | None]


def step(alpha: float, cka: float, retention: Retention = 100.0, **more: Any) -> Step:
    """One point of a path, with the measures that are shown everywhere."""
    rows = retention if isinstance(retention, Mapping) else {"objects-100": retention}
    measures = {
        "entropy": Compared(
            family="attention",
            unit="nats",
            before=2.0,
            after=2.0 - alpha / 10,
            before_blocks=(2.0, 2.0),
            after_blocks=(2.0, 2.0 - alpha / 5),
            drift=-5.0 * alpha,
            drift_blocks=(0.0, -10.0 * alpha),
        ),
        "cka": Compared(family="representation", value=cka, value_blocks=(cka + 0.01, cka - 0.01)),
        "embedding_drift": Compared(family="representation", value=alpha / 10),
        "weight_drift": Compared(family="weights", value=alpha / 5, value_blocks=(alpha / 5, alpha / 5)),
    }
    transfer = {
        name: Transfer(accuracy=0.0 if kept is None else 0.8 * kept, retention=kept)
        for name, kept in rows.items()
    }
    said = {"label": f"alpha {alpha:g}", "alpha": alpha, **more}
    return Step(measures=measures, transfer=transfer, **said)


def made(steps: tuple[Step, ...], kind: Any = "interpolate", **more: Any) -> Repaired:
    sets = steps[0].transfer
    found: dict[str, Any] = {
        "kind": kind,
        "base": Side(name="before", kind="model", library="transformers CLIPModel", parameters=10),
        "tuned": Side(name="after", kind="run", library="transformers CLIPModel", parameters=10),
        "shape": Shape(
            blocks=2, heads=2, width=32, embedding_width=24, image_size=16, grid=(4, 4), reader="class token"
        ),
        "images": ProbeImages(source="somewhere", count=200),
        "accuracy_of": "60 validation images",
        "form": "model",
        "transfer": {n: TransferTest(images=50, classes=10, prompts=("a {}",), before=80.0) for n in sets},
        "steps": steps,
    }
    return Repaired(**{**found, **more})
