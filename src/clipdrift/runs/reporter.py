"""Progress reporting interface. Command line, notebooks and tests pass their own."""

from __future__ import annotations

from typing import Protocol

from clipdrift.runs.record import Point


class Reporter(Protocol):
    """Told how a run goes; every method may do nothing."""

    def stage(self, text: str) -> None:
        """A stage begins, as in ``decoding eurosat train``."""

    def warn(self, text: str) -> None:
        """Something was damaged or changed by itself, and the work goes on; one line."""

    def advance(self, done: int, total: int) -> None:
        """Part of the current stage is done."""

    def step(self, step: int, steps: int, loss: float) -> None:
        """One training step is done."""

    def point(self, point: Point) -> None:
        """The model was looked at."""


class Silent:
    """A reporter that says nothing."""

    def stage(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    def advance(self, done: int, total: int) -> None:
        pass

    def step(self, step: int, steps: int, loss: float) -> None:
        pass

    def point(self, point: Point) -> None:
        pass
