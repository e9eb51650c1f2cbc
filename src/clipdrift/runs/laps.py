"""How long the parts of a piece of work took."""

from __future__ import annotations

import time


class Laps:
    """Seconds between calls, by what was done.

    Attributes:
        seconds: by part, in the order in which they ended.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def __call__(self, done: str) -> None:
        """The part is done that began when the last one ended."""
        now = time.perf_counter()
        self.seconds[done] = round(now - self._since, 3)
        self._since = now
