"""Progress reporting interface. Command line, notebooks and tests pass their own."""

from __future__ import annotations

from typing import Protocol

from clipdrift.runs.record import Point


class Reporter(Protocol):
    """Progress reporting interface; every method may do nothing."""

    def stage(self, text: str) -> None:
        """Report that a stage begins, as in ``decoding eurosat train``."""

    def warn(self, text: str) -> None:
        """Report in one line that something was damaged or changed by itself, and the work goes on."""

    def note(self, text: str) -> None:
        """Report in one line what was guessed, left out or is doubtful about what was read."""

    def advance(self, done: int, total: int) -> None:
        """Report that part of the current stage is done."""

    def step(self, step: int, steps: int, loss: float) -> None:
        """Report that one training step is done."""

    def point(self, point: Point) -> None:
        """Report that the model was looked at."""


class Silent:
    """Reporter that says nothing."""

    def stage(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def advance(self, done: int, total: int) -> None:
        pass

    def step(self, step: int, steps: int, loss: float) -> None:
        pass

    def point(self, point: Point) -> None:
        pass
