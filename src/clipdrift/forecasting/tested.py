"""What became of each number of a forecast in the committed studies: written by ``tools/forecast.py``.

The file ``tested.json`` beside this module is that of docs/forecast.md: which numbers ordered what then
happened, and the drift of a first step from which on runs lost zero-shot ability. Nothing else gives advice.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Literal

from pydantic import Field

from clipdrift.config.base import Frozen

Verdict = Literal["predicts", "does not predict", "cannot be told"]


class Tested(Frozen):
    """One number of a forecast against one outcome of the trainings."""

    number: str
    words: str
    outcome: str
    verdict: Verdict
    why: str = Field(description="In words, beside the verdict.")
    rho: float | None = Field(
        None, description="Spearman's, over cells or, where it knows no rate, over targets."
    )
    low: float | None = None
    high: float | None = None
    p: float | None = None
    units: int = 0
    unit: str = "cell"


class Threshold(Frozen):
    """Drift of the first step from which on cells kept less than ``level`` percent."""

    level: float
    steps: int = Field(description="After so many steps.")
    drift: float
    methods: tuple[str, ...] = Field(description="Of the runs that it was chosen on.")
    sensitivity: float = Field(
        description="On targets left out of the choice: lost cells above their threshold."
    )
    specificity: float = Field(description="On targets left out of the choice: kept cells below it.")


class Evidence(Frozen):
    """Everything in ``tested.json``."""

    schema_version: Literal[1] = 1
    studies: tuple[str, ...]
    runs: int
    cells: int
    targets: tuple[str, ...]
    models: tuple[str, ...]
    page: str = "docs/forecast.md"
    tested: tuple[Tested, ...]
    thresholds: tuple[Threshold, ...] = Field((), description="Empty where no drift predicted.")

    def threshold(self, steps: int) -> Threshold | None:
        """That of the drift after so many steps."""
        return next((one for one in self.thresholds if one.steps == steps), None)

    @property
    def source(self) -> str:
        """Where its numbers come from, in words."""
        return (
            f"{self.runs} runs of {', '.join(self.models)} on {', '.join(self.targets)} (studies "
            f"{', '.join(self.studies)}; {self.page})"
        )


@cache
def evidence() -> Evidence:
    """What ships with the package."""
    text = (resources.files("clipdrift.forecasting") / "tested.json").read_text(encoding="utf-8")
    return Evidence.model_validate(json.loads(text))
