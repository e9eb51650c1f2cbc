"""Result of a repair: plain data with its tables, one entry per setting. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field

from clipdrift.comparison import Compared, ProbeImages, Shape, Side
from clipdrift.config.base import Frozen
from clipdrift.listing import MEASURES
from clipdrift.repair.arguments import RepairError, blocks_text
from clipdrift.repair.steps import RepairKind, Step, TransferTest
from clipdrift.runs.files import write_text
from clipdrift.runs.frozen import Wording, read_model
from clipdrift.views import view

SCHEMA_VERSION = 1
FILE = "repaired.json"


class Repaired(Frozen):
    """Settings between a backbone (BASE) and what was made of it (TUNED), each with all that was measured.

    ``interpolate``: steps by rising alpha. ``rewind`` and ``soften``: the tuned model first, then what the
    repair makes of it.
    """

    schema_version: Literal[1] = 1
    kind: RepairKind
    base: Side
    tuned: Side
    shape: Shape
    images: ProbeImages
    accuracy_of: str = Field("", description="Which images accuracy is of; empty: there is no head.")
    test_of: str = Field("", description="Which images test accuracy is of.")
    form: Literal["model", "adapter"] = Field(description="What a saved result is.")
    transfer: dict[str, TransferTest] = Field(default_factory=dict)
    steps: tuple[Step, ...]
    chosen: int | None = Field(None, description="Position of the chosen step; it is what was saved.")
    reason: str = Field("", description="Why it was chosen, or why none was.")
    saved: str | None = Field(None, description="Folder of the saved model.")
    notes: tuple[str, ...] = ()
    environment: dict[str, Any] = Field(default_factory=dict)
    timings: dict[str, float] = Field(default_factory=dict)

    @property
    def chosen_step(self) -> Step | None:
        return None if self.chosen is None else self.steps[self.chosen]

    @property
    def failed(self) -> bool:
        """Whether something was to be kept and no alpha keeps it."""
        return self.kind == "interpolate" and bool(self.reason) and self.chosen is None

    def to_frame(self, blocks: bool = False) -> pd.DataFrame:
        """Tidy: one row per step x measure.

        Columns: step, alpha, factor, rewound (as ``9..12``), chosen, family, measure, set (transfer set,
        matrix kind or empty), block (``<NA>``: the mean or the only value), unit, before (the backbone's),
        value, drift (percent of before, unless absolute), absolute.

        Args:
            blocks: a row for each block too.
        """
        rows = [
            {**self._where(index, step), **row}
            for index, step in enumerate(self.steps)
            for row in step_rows(step, self.transfer, blocks)
        ]
        kinds = {"block": "Int64", "alpha": "float", "factor": "float", "absolute": "boolean"}
        return pd.DataFrame(rows).astype({**kinds, "before": "float", "value": "float", "drift": "float"})

    def _where(self, index: int, step: Step) -> dict[str, Any]:
        return {
            "step": step.label,
            "alpha": step.alpha,
            "factor": step.factor,
            "rewound": blocks_text(step.rewound),
            "chosen": index == self.chosen,
        }

    def summary(self) -> str:
        """Summarise what was found in a few lines."""
        return "\n".join(view("Repaired.summary")(self))

    def plot(self) -> Any:
        """A matplotlib Figure: accuracy, retention and CKA along the steps, the chosen one marked."""
        return view("Repaired.plot")(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``repaired.json``, ``repaired.csv`` (every block too) and ``path.png``."""
        place = Path(folder)
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        write_text(place / FILE, text)
        write_text(place / "repaired.csv", self.to_frame(blocks=True).to_csv(index=False))
        return [place / FILE, place / "repaired.csv", view("Repaired.write_plot")(self, place / "path.png")]


def step_rows(step: Step, sets: dict[str, TransferTest], blocks: bool) -> Iterator[dict[str, Any]]:
    """One row per measure of a model: family, measure, set, block, unit, before, value, drift, absolute."""
    for name, value in (("accuracy", step.accuracy), ("test_accuracy", step.test_accuracy)):
        if value is not None:
            yield _row("ability", name, unit="%", value=value)
    for name, row in step.transfer.items():
        yield _row(
            "ability", "zero_shot_accuracy", of=name, unit="%", before=sets[name].before, value=row.accuracy
        )
        if row.retention is not None:
            yield _row("ability", "retention", of=name, unit="%", value=row.retention)
    for name, found in step.measures.items():
        yield from _measured(name, found, blocks)
    for kind, count in step.intruders.items():
        unit = MEASURES["intruder_dimensions"].unit
        yield _row("weights", "intruder_dimensions", of=kind, unit=unit, value=float(count))
    if step.truncated:
        yield _row("weights", "lost_by_rank", unit="", value=step.mean_lost)
    for matrix in step.truncated if blocks else ():
        yield _row("weights", "lost_by_rank", of=matrix.kind, block=matrix.block, unit="", value=matrix.lost)


def _measured(name: str, found: Compared, blocks: bool) -> Iterator[dict[str, Any]]:
    def row(block: int | None, **values: Any) -> dict[str, Any]:
        return _row(found.family, name, block=block, unit=found.unit, **values)

    if found.value is not None:
        yield row(None, value=found.value)
        for block, value in enumerate(found.value_blocks if blocks else (), start=1):
            yield row(block, value=value)
        return
    yield row(None, before=found.before, value=found.after, drift=found.drift, absolute=found.absolute)
    several = zip(found.before_blocks, found.after_blocks, found.drift_blocks, strict=True)
    for block, (before, after, drift) in enumerate(several if blocks else (), start=1):
        yield row(block, before=before, value=after, drift=drift, absolute=found.absolute)


def _row(
    family: str, measure: str, *, of: str = "", block: int | None = None, unit: str, **values: Any
) -> dict[str, Any]:
    blank = {"before": None, "value": None, "drift": None, "absolute": None}
    return {"family": family, "measure": measure, "set": of, "block": block, "unit": unit, **blank, **values}


_WORDING = Wording(
    schema=SCHEMA_VERSION,
    error=RepairError,
    missing="no repair here; `clipdrift interpolate ... --out` makes one, as do rewind and soften",
    foreign=f"not a repair of schema {SCHEMA_VERSION}; make it again",
    again="make it again",
)


def read_repaired(path: str | Path) -> Repaired:
    """Read ``repaired.json``, or that of a folder.

    Raises:
        RepairError: missing, damaged, or of a schema that this version does not know.
    """
    file = Path(path)
    return read_model(file / FILE if file.is_dir() else file, Repaired, _WORDING)
