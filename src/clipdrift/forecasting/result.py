"""Result of a forecast: plain data with its table, its file and its sentences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field, ValidationError

from clipdrift.config.base import Frozen
from clipdrift.decision.result import Estimate
from clipdrift.errors import ClipdriftError
from clipdrift.forecasting.tested import Tested
from clipdrift.runs.files import write_text
from clipdrift.runs.frozen import Wording, damage_at, read_json
from clipdrift.views import view

SCHEMA_VERSION = 1


class ForecastError(ClipdriftError):
    """A forecast that cannot be made as it was asked for; says what to change."""


class ForecastImages(Frozen):
    """The target's images."""

    source: str
    count: int = Field(description="All that were read: those of the first steps and those held out.")
    stepped: int = Field(0, description="Images that the first steps are taken on; 0 without labels.")
    held_out: int = Field(0, description="Images on which the drift of a step is read.")
    classes: tuple[str, ...] = Field((), description="Names; empty where none are known.")
    labelled: bool = False
    fingerprint: str | None = None
    bad: tuple[tuple[str, str], ...] = ()


class TransferFacts(Frozen):
    """A transfer set before training."""

    images: int
    classes: int
    zero_shot: Estimate = Field(description="Accuracy, percent: what there is to lose.")
    overlap: float | None = Field(
        None,
        description="CKA between the embeddings of target and transfer set: cosine of their covariances.",
    )


class Gradient(Frozen):
    """Norm of the loss's gradient at initialisation, mean over draws."""

    total: float = Field(description="Over everything trained of the image tower and its projection.")
    spread: float = Field(description="Standard deviation of the total over draws.")
    blocks: tuple[float, ...] = Field(description="Of each block, the first to the last.")
    projection: float


class FirstStep(Frozen):
    """What the first steps at one rate do to embeddings of images that they were not taken on.

    Values are means over draws; ``None`` where a draw broke the model.
    """

    rate: float
    drift: float | None = Field(description="One minus the mean cosine on the target's held-out images.")
    drift_draws: tuple[float, ...] = Field(description="The same of each draw that did not break the model.")
    cka_loss: float | None = Field(description="One minus debiased CKA of the same embeddings.")
    transfer_drift: dict[str, float] = Field(
        default_factory=dict, description="As drift, on each transfer set."
    )
    broken: int = Field(0, description="Draws after which an embedding was no number.")


class Suggestion(Frozen):
    """Rates by the drift of the first step, where the committed studies bear that out."""

    level: float = Field(description="Retention in percent that rates up to `most` are expected to keep.")
    threshold: float = Field(description="Drift of the first step at which runs of the studies lost it.")
    most: float | None = Field(
        description="Largest rate below the threshold; None: even the smallest is above."
    )
    low: float | None = Field(description="The same of the draw that moved most.")
    high: float | None = Field(description="The same of the draw that moved least.")
    open_above: bool = Field(description="Every candidate rate is below the threshold.")
    sensitivity: float = Field(description="On targets left out of the choice: lost cells at or above it.")
    methods: tuple[str, ...] = Field(description="Of the runs that the threshold is from.")
    source: str


class Forecast(Frozen):
    """What can be told of fine-tuning BASE on a target before any training. Blocks count from 1."""

    schema_version: Literal[1] = 1
    base: str
    fingerprint: str | None = None
    images: ForecastImages
    method: dict[str, Any] = Field(description="Its name and its options.")
    steps: int
    draws: int
    batch_size: int
    seed: int
    weight_decay: float
    zero_shot: Estimate | None = Field(
        None, description="Accuracy on the target by its class names, percent."
    )
    probe: Estimate | None = Field(
        None, description="Accuracy of logistic regression on the embeddings, cross-validated, percent."
    )
    room: Estimate | None = Field(
        None, description="Probe minus zero-shot, percentage points, paired by image."
    )
    entropy: Estimate | None = Field(
        None,
        description="Mean entropy of the zero-shot distribution over ln of the number of classes, 0 to 1.",
    )
    transfer: dict[str, TransferFacts] = Field(default_factory=dict)
    gradient: Gradient | None = None
    first_steps: tuple[FirstStep, ...] = ()
    suggestion: Suggestion | None = None
    tested: tuple[Tested, ...] = Field((), description="What became of each number in the committed studies.")
    tested_on: str = Field("", description="Which studies.")
    missing: dict[str, str] = Field(default_factory=dict, description="What was not computed, and why.")
    notes: tuple[str, ...] = ()
    environment: dict[str, Any] = Field(default_factory=dict)
    timings: dict[str, float] = Field(default_factory=dict)

    def summary(self) -> str:
        """What there is to gain, which rates, and what of it the committed studies bear out."""
        return "\n".join(view("Forecast.summary")(self))

    def plot(self) -> Any:
        """A matplotlib Figure: accuracy before training, drift of the first step, gradient by block."""
        return view("Forecast.plot")(self)

    def to_frame(self) -> pd.DataFrame:
        """Tidy: columns number, set, rate, block, value, low, high, unit; one row per number."""
        return pd.DataFrame(list(self._rows())).astype({"block": "Int64"})

    def _rows(self) -> Iterator[dict[str, Any]]:
        named = (
            ("zero_shot_accuracy", self.zero_shot), ("probe_accuracy", self.probe),
            ("room", self.room), ("zero_shot_entropy", self.entropy),
        )  # fmt: skip
        for number, found in named:
            if found is not None:
                yield _row(number, found.value, low=found.low, high=found.high, unit=found.unit)
        for name, facts in self.transfer.items():
            own = facts.zero_shot
            yield _row("zero_shot_accuracy", own.value, set=name, low=own.low, high=own.high, unit="%")
            if facts.overlap is not None:
                yield _row("overlap", facts.overlap, set=name)
        if self.gradient is not None:
            yield _row("gradient_norm", self.gradient.total)
            yield _row("gradient_norm_of_projection", self.gradient.projection)
            for block, norm in enumerate(self.gradient.blocks, start=1):
                yield _row("gradient_norm", norm, block=block)
        for step in self.first_steps:
            ends = (min(step.drift_draws), max(step.drift_draws)) if step.drift_draws else (None, None)
            yield _row("first_step_drift", step.drift, rate=step.rate, low=ends[0], high=ends[1])
            yield _row("first_step_cka_loss", step.cka_loss, rate=step.rate)
            for name, drift in step.transfer_drift.items():
                yield _row("first_step_drift", drift, set=name, rate=step.rate)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in the file without its checksum."""
        return self.model_dump(mode="json")

    def to_json(self) -> str:
        """Everything as one JSON object, with the checksum of the rest."""
        data = self.to_dict()
        return json.dumps(data | {"sha256": _digest(data)}, indent=1, ensure_ascii=False) + "\n"

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``forecast.json`` and ``forecast.csv``."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        files = [place / "forecast.json", place / "forecast.csv"]
        write_text(files[0], self.to_json())
        write_text(files[1], self.to_frame().to_csv(index=False))
        return files


def _row(number: str, value: float | None, **others: Any) -> dict[str, Any]:
    blank = {"set": "", "rate": None, "block": None, "value": value, "low": None, "high": None, "unit": ""}
    return {"number": number, **blank, **others}


def _digest(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


_WORDING = Wording(
    schema=SCHEMA_VERSION,
    error=ForecastError,
    missing="no forecast here; `clipdrift forecast ... --out` makes one",
    foreign=f"not a forecast of schema {SCHEMA_VERSION}; forecast again",
    again="forecast again",
)


def read_forecast(path: str | Path) -> Forecast:
    """Read ``forecast.json``, or that of a folder.

    Raises:
        ForecastError: missing, damaged (also where its checksum does not fit), or of an unknown schema.
    """
    file = Path(path)
    file = file / "forecast.json" if file.is_dir() else file
    data = read_json(file, _WORDING)
    written = data.pop("sha256", None)
    if written != _digest(data):
        raise ForecastError(f"{file}: damaged (its checksum does not fit); {_WORDING.again}")
    try:
        return Forecast.model_validate(data)
    except ValidationError as error:
        raise damage_at(file, error, _WORDING) from None
