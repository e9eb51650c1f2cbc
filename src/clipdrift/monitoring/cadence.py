"""When a measurement is due. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipdrift.monitoring.errors import MonitorError

Every = int | str
GROWTH = 2
"""Of the dense grid: 1, 2, 4, 8 ..."""
_FIRST = 3
"""Measurements before the cadence is judged: the first of a process is slower than the others."""


class Cadence:
    """Steps at which a measurement is due; further apart where they would take more than their share of time.

    Args:
        every: steps between measurements, or ``dense``: after 1, 2, 4, 8 ... steps.
        budget: largest share of the training's time that measurements may take; None: as much as they need.
    """

    def __init__(self, every: Every, budget: float | None) -> None:
        if every != "dense" and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise MonitorError(f"every = {every!r}: a number of steps from 1, or 'dense'")
        if budget is not None and not 0 < budget < 1:
            raise MonitorError(f"budget = {budget:g}: a share of the training's time, between 0 and 1")
        self.every: Every = every
        self.budget = budget
        self.next = 1 if every == "dense" else int(every)
        self.seen = 0

    def due(self, step: int) -> bool:
        return step >= self.next

    def measured(self, step: int, took: float, between: float) -> str | None:
        """Note a measurement; returns what is to be said where the cadence has changed.

        Args:
            took: seconds that it took.
            between: seconds of training since the one before, all steps together.
        """
        self.seen += 1
        if self.every == "dense":
            self.next = max(step + 1, step * GROWTH)
            return None
        last, said = int(self.every), None
        if self.budget is not None and self.seen >= _FIRST and between > 0:
            share = took / (took + between)
            if share > self.budget:
                wanted = took * (1 - self.budget) / self.budget / (between / last)
                self.every = max(int(last * 1.1) + 1, int(wanted) + 1)
                said = (
                    f"a measurement takes {took:.2f} s, {100 * share:.1f} % of the training's time: now "
                    f"every {self.every} steps in place of {last} (budget = {self.budget:g})"
                )
        self.next = step + int(self.every)
        return said

    def state(self) -> dict[str, Any]:
        return {"every": self.every, "next": self.next, "seen": self.seen}

    def load(self, state: Mapping[str, Any]) -> None:
        self.every, self.next, self.seen = state["every"], int(state["next"]), int(state["seen"])
