"""One setting of a repair and what was measured at it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clipdrift.comparison import Compared
from clipdrift.config.base import Frozen
from clipdrift.outcomes.chance import accuracy_p, measurable
from clipdrift.runs.record import Transfer

RepairKind = Literal["interpolate", "rewind", "soften"]


class TransferTest(Frozen):
    """A transfer set: how many images and classes, the prompts, the backbone's accuracy in percent."""

    images: int
    classes: int
    prompts: tuple[str, ...]
    before: float

    @property
    def measurable(self) -> bool:
        """Whether the backbone is above chance, so that there is something to keep."""
        return measurable(accuracy_p(self.before, self.images, self.classes))

    @property
    def chance(self) -> float:
        return 100 / self.classes


class TruncatedUpdate(Frozen):
    """The update of one matrix brought back to its adapter's rank."""

    block: int
    kind: str
    rank: int
    lost: float = Field(description="||update - its best approximation|| / ||update||, Frobenius, 0 to 1.")


class Step(Frozen):
    """The model at one setting. Accuracies and retention are in percent."""

    label: str
    alpha: float | None = Field(None, description="Of a path: 0 the backbone, 1 the tuned model.")
    rewound: tuple[int, ...] = Field((), description="Blocks that are the backbone's again.")
    factor: float | None = Field(None, description="What is left of intruder dimensions; 1: untouched.")
    accuracy: float | None = Field(None, description="Of the run's own head.")
    test_accuracy: float | None = Field(None, description="Read at the saved setting alone.")
    measures: dict[str, Compared] = Field(description="Against the backbone, as in a comparison.")
    transfer: dict[str, Transfer] = Field(default_factory=dict)
    intruders: dict[str, int] = Field(
        default_factory=dict, description="Intruder dimensions by kind of matrix, all blocks together."
    )

    truncated: tuple[TruncatedUpdate, ...] = Field(
        (), description="Matrices that were changed and brought back to the adapter's rank."
    )

    @property
    def mean_lost(self) -> float:
        """Mean of what truncated updates lost, 0 to 1; 0 where none was truncated."""
        return sum(row.lost for row in self.truncated) / max(1, len(self.truncated))

    def value(self, measure: str) -> float:
        """A measure's value, the mean over blocks; of one that either side has on its own, the one here."""
        found = self.measures[measure]
        value = found.after if found.value is None else found.value
        assert value is not None
        return value

    def retention(self, of: str | None = None) -> float | None:
        """Retention on one transfer set, or the mean over all where it is measurable; else None."""
        rows = self.transfer.values() if of is None else [self.transfer[of]]
        found = [row.retention for row in rows if row.retention is not None]
        return sum(found) / len(found) if found else None
