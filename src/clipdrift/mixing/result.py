"""Result of a mix: plain data with its tables. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field

from clipdrift.comparison import ProbeImages, Shape, Side
from clipdrift.config.base import Frozen
from clipdrift.repair import RepairError, Step, TransferTest
from clipdrift.repair.result import step_rows
from clipdrift.runs.files import write_text
from clipdrift.runs.frozen import Wording, read_model
from clipdrift.views import view

SCHEMA_VERSION = 1
FILE = "mixed.json"

MixKind = Literal["uniform", "greedy", "stock"]
TITLES: dict[MixKind, str] = {"uniform": "uniform soup", "greedy": "greedy soup", "stock": "Model Stock"}


class MixedRun(Frozen):
    """A run that was mixed, and what was measured of it alone."""

    number: int = Field(description="From 1, in the order given; tables name the run by it.")
    side: Side
    key: str
    method: str
    learning_rate: float
    seed: int
    form: Literal["model", "adapter"] = Field(
        description="What it had saved; adapters are merged to be mixed."
    )
    step: Step

    @property
    def label(self) -> str:
        return self.step.label


class GreedyTry(Frozen):
    """One run that was tried in the greedy soup, in order. Percent."""

    run: int = Field(description="Its number.")
    accuracy: float = Field(description="Of the soup with it, on validation images.")
    kept: float | None = Field(None, description="Retention that counts, where --keep asks for it.")
    stays: bool


class StockRatio(Frozen):
    """Model Stock's ratio of one tensor: 1 the mean of the runs, 0 the backbone."""

    name: str
    cosine: float = Field(description="Between the runs' task vectors, the mean over all pairs.")
    ratio: float


class TaskCosine(Frozen):
    """Cosine of two runs' task vectors in the image tower, and by block. None: one did not move."""

    one: int = Field(description="Number of a run.")
    other: int
    value: float | None
    blocks: tuple[float | None, ...]


class MixAt(Frozen):
    """One way of mixing, and what was measured of it."""

    runs: tuple[int, ...] = Field(description="Numbers of the runs that are in it.")
    step: Step


class Mixed(Frozen):
    """Runs on one backbone and what comes of mixing them, all measured in one way."""

    schema_version: Literal[1] = 1
    base: Side
    shape: Shape
    images: ProbeImages
    accuracy_of: str = Field(description="Which images accuracy is of; they choose.")
    test_of: str = Field(description="Which images test accuracy is of.")
    transfer: dict[str, TransferTest] = Field(default_factory=dict)
    backbone: Step
    runs: tuple[MixedRun, ...]
    mixes: dict[MixKind, MixAt]
    greedy: tuple[GreedyTry, ...] = Field(description="The runs as the greedy soup took them or left them.")
    ratios: tuple[StockRatio, ...] = Field(
        description="Of every tensor that differs between runs and backbone."
    )
    cosines: tuple[TaskCosine, ...] = Field(description="Of every pair of runs.")
    keep: float | None = Field(None, description="Least retention of what may be chosen, in percent.")
    keep_on: str | None = Field(None, description="The transfer set that counts; none: the worst of all.")
    chosen: MixKind | None = None
    reason: str = ""
    saved: str | None = Field(None, description="Folder of the saved model.")
    notes: tuple[str, ...] = ()
    environment: dict[str, Any] = Field(default_factory=dict)
    timings: dict[str, float] = Field(default_factory=dict)

    @property
    def steps(self) -> dict[str, Step]:
        """Backbone, runs and mixes in the order of the tables, by their labels."""
        steps = [self.backbone, *(run.step for run in self.runs), *(mix.step for mix in self.mixes.values())]
        return {step.label: step for step in steps}

    @property
    def failed(self) -> bool:
        """Whether something was to be kept and no mix keeps it."""
        return self.keep is not None and self.chosen is None

    def to_frame(self, blocks: bool = False) -> pd.DataFrame:
        """Tidy: one row per model x measure.

        Columns: model (``backbone``, the runs, the mixes), runs (numbers of those in it), chosen, family,
        measure, set (transfer set or empty), block (``<NA>``: the mean or the only value), unit, before (the
        backbone's), value, drift (percent of before, unless absolute), absolute. Cosines of two runs' task
        vectors are rows of the first run, with the other's label as set.

        Args:
            blocks: a row for each block too.
        """
        rows = list(self._rows(blocks))
        kinds = {"block": "Int64", "absolute": "boolean"}
        return pd.DataFrame(rows).astype({**kinds, "before": "float", "value": "float", "drift": "float"})

    def _rows(self, blocks: bool) -> Iterator[dict[str, Any]]:
        inside = {run.label: str(run.number) for run in self.runs}
        inside |= {mix.step.label: "+".join(map(str, mix.runs)) for mix in self.mixes.values()}
        chosen = "" if self.chosen is None else self.mixes[self.chosen].step.label
        for label, step in self.steps.items():
            own = {"model": label, "runs": inside.get(label, ""), "chosen": label == chosen}
            yield from ({**own, **row} for row in step_rows(step, self.transfer, blocks))
            for pair in self.cosines:
                if self.runs[pair.one - 1].label == label:
                    yield from ({**own, **row} for row in self._cosine_rows(pair, blocks))

    def _cosine_rows(self, pair: TaskCosine, blocks: bool) -> Iterator[dict[str, Any]]:
        common = {"family": "weights", "measure": "task_vector_cosine", "unit": "", "before": None}
        common |= {"set": self.runs[pair.other - 1].label, "drift": None, "absolute": None}
        yield {**common, "block": None, "value": pair.value}
        for block, value in enumerate(pair.blocks if blocks else (), start=1):
            yield {**common, "block": block, "value": value}

    def summary(self) -> str:
        """Summarise what was found in a few lines."""
        return "\n".join(view("Mixed.summary")(self))

    def plot(self) -> Any:
        """A matplotlib Figure: what every run and mix has learnt, over what it keeps."""
        return view("Mixed.plot")(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``mixed.json``, ``mixed.csv`` (every block too) and ``mixed.png``."""
        place = Path(folder)
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        write_text(place / FILE, text)
        write_text(place / "mixed.csv", self.to_frame(blocks=True).to_csv(index=False))
        return [place / FILE, place / "mixed.csv", view("Mixed.write_plot")(self, place / "mixed.png")]


_WORDING = Wording(
    schema=SCHEMA_VERSION,
    error=RepairError,
    missing="no mix here; `clipdrift mix RUN RUN ... --out` makes one",
    foreign=f"not a mix of schema {SCHEMA_VERSION}; make it again",
    again="make it again",
)


def read_mixed(path: str | Path) -> Mixed:
    """Read ``mixed.json``, or that of a folder.

    Raises:
        RepairError: missing, damaged, or of a schema that this version does not know.
    """
    file = Path(path)
    return read_model(file / FILE if file.is_dir() else file, Mixed, _WORDING)
