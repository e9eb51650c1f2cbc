"""A sweep as plain data: every run, what was chosen, and what that is worth. Loads no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from clipdrift.config.base import Frozen
from clipdrift.views import view

SCHEMA_VERSION = 1
FILE = "sweep.json"

Status = Literal["done", "pruned", "diverged", "failed"]


class Asked(Frozen):
    """What was asked of a sweep: the same again gives the same runs."""

    keep: float = Field(description="Least retention, percent.")
    keep_on: str | None = Field(None, description="The set that counts; none: the worst of all.")
    budget: float = Field(description="In whole runs.")
    methods: tuple[str, ...]
    rates: tuple[float, ...]
    epochs: tuple[int, ...] = Field(description="Of the rungs.")
    eta: int
    batch: int = Field(description="Settings proposed at a time.")
    seed: int = Field(description="Of the proposals.")
    mix: bool
    prune: str | None = Field(None, description="Rule that stops a run; none: no run is stopped.")
    choosing: dict[str, int | None] = Field(
        description="Images of each class of a transfer set that choose; none: all of them."
    )


class Trial(Frozen):
    """One run of a sweep. Accuracy is of validation images, what is kept of those that choose; percent."""

    key: str
    name: str = Field(description="The setting in words, without its epochs.")
    method: str
    rate: float
    rung: int = Field(ge=1)
    epochs: int
    status: Status
    why: str = Field("", description="Why it was pruned, diverged or failed.")
    work: float = Field(description="In whole runs.")
    accuracy: float | None = Field(None, description="At `alpha`.")
    kept: float | None = Field(None, description="At `alpha`; of several sets the worst.")
    missed: float | None = Field(None, description="Points by which it keeps too little; 0: enough.")
    alpha: float | None = Field(None, description="The best mix with the backbone; 1: the run itself.")
    whole_accuracy: float | None = Field(None, description="Of the run itself.")
    whole_kept: float | None = None
    promoted: bool = Field(False, description="Whether its setting went on to the next rung.")

    @property
    def label(self) -> str:
        """``lora at 1e-3, 6 epochs, alpha 0.85``."""
        mixed = "" if self.alpha in (None, 1) else f", alpha {self.alpha:g}"
        return f"{self.name}, {self.epochs} epoch{'s' if self.epochs > 1 else ''}{mixed}"


class Kept(Frozen):
    """Retention (percent) on one set, with its 95 % interval over images."""

    value: float
    low: float | None = None
    high: float | None = None
    images: int
    untouched: bool = Field(description="Whether none of these images took part in choosing.")


class Final(Frozen):
    """The chosen model on images that took no part."""

    test_accuracy: float | None = Field(None, description="Of the target's test images, percent.")
    test_of: str = ""
    kept: dict[str, Kept] = Field(default_factory=dict)
    model: str
    card: str


class Sweep(Frozen):
    """What a sweep did and what it ends with.

    Attributes:
        chosen: the most accurate run, or mix of one with the backbone, that keeps enough; None: none does.
        nearest: where none does, the one that keeps most.
        final: of what was saved; None: nothing was.
        advice: what `clipdrift advise` says of these runs, line by line.
    """

    schema_version: Literal[1] = 1
    target: str
    sets: tuple[str, ...] = Field(description="Transfer sets that count.")
    asked: Asked
    size: int = Field(description="How many settings there are.")
    planned: int = Field(description="Settings on the first rung.")
    trials: tuple[Trial, ...]
    chosen: Trial | None = None
    nearest: Trial | None = None
    final: Final | None = None
    advice: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    folder: str

    @property
    def work(self) -> float:
        """Work of all runs, in whole runs."""
        return sum(trial.work for trial in self.trials)

    @property
    def answered(self) -> bool:
        return self.chosen is not None

    def summary(self) -> str:
        """Lines for a reader, the answer first."""
        return "\n".join(view("Sweep.summary")(self))

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        return {**self.model_dump(mode="json"), "work": round(self.work, 6), "answered": self.answered}

    def to_frame(self) -> Any:
        """One row per run, in the order in which they were begun."""
        import pandas as pd

        return pd.DataFrame([trial.model_dump() | {"label": trial.label} for trial in self.trials])
