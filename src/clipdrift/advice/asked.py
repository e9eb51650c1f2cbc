"""What a setting must satisfy to be taken, and what is best among those that do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from clipdrift.advice.errors import AdviceError

KEEP = 90.0
"""Percent of zero-shot accuracy to keep, where nothing is asked."""
_ROUNDING = 1e-9
"""Points by which a mean may miss a bound through rounding alone."""

Number = Literal["accuracy", "kept"]


@dataclass(frozen=True)
class Asked:
    """A constraint.

    Attributes:
        keep: least retention in percent; among settings that keep it the most accurate one is best.
        max_drop: most points of accuracy below the most accurate setting; without ``keep`` the setting with
            the highest retention is best.
        transfer: the transfer set that counts; None: the worst of all, run by run.
    """

    keep: float | None = KEEP
    max_drop: float | None = None
    transfer: str | None = None

    @property
    def objective(self) -> Number:
        """What is to be high among the settings that are allowed."""
        return "kept" if self.keep is None else "accuracy"

    def missed(self, accuracy: float, kept: float, top: float) -> float:
        """Points by which a setting breaks the constraint, summed over both parts; 0: it is allowed.

        Args:
            accuracy, kept: percent; top: the highest accuracy of any setting.
        """
        less = 0.0 if self.keep is None else self.keep - kept
        lower = 0.0 if self.max_drop is None else top - self.max_drop - accuracy
        return sum(points for points in (less, lower) if points > _ROUNDING)


def asked(keep: float | None = None, max_drop: float | None = None, transfer: str | None = None) -> Asked:
    """The constraint; without any, :data:`KEEP` percent are to be kept.

    Raises:
        AdviceError: a number that no setting, or every one, satisfies.
    """
    if keep is not None and not (math.isfinite(keep) and 0 < keep <= 100):
        raise AdviceError(f"--keep {keep:g}: percent of zero-shot accuracy, above 0 and at most 100")
    if max_drop is not None and not (math.isfinite(max_drop) and 0 <= max_drop < 100):
        raise AdviceError(f"--max-drop {max_drop:g}: points of accuracy, from 0 to below 100")
    if keep is None and max_drop is None:
        keep = KEEP
    return Asked(keep, max_drop, transfer)
