"""Reporter that touches a file as a sign of life. Loads no torch."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from clipdrift.runs.record import Point
from clipdrift.runs.reporter import Reporter
from clipdrift.runs.signals import Stops

EVERY = 2.0
"""Seconds between two touches, at least."""


@dataclass(eq=False)
class Heartbeat:
    """Passes everything on to ``inner``; what is being done is noted for the message of an interruption."""

    inner: Reporter
    file: Path
    asked: Stops = field(default_factory=Stops)
    _last: float = float("-inf")

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._last >= EVERY:
            self._last = now
            with suppress(OSError):  # a sign of life is not worth a run
                self.file.touch()

    def stage(self, text: str) -> None:
        self.asked.doing = text
        self._beat()
        self.inner.stage(text)

    def warn(self, text: str) -> None:
        self.inner.warn(text)

    def note(self, text: str) -> None:
        self.inner.note(text)

    def advance(self, done: int, total: int) -> None:
        self._beat()
        self.inner.advance(done, total)

    def step(self, step: int, steps: int, loss: float) -> None:
        self._beat()
        self.inner.step(step, steps, loss)

    def point(self, point: Point) -> None:
        self._beat()
        self.inner.point(point)
