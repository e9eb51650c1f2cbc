"""Results of one part of the check, on disk as soon as they are known."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Results:
    """A JSON file that is written anew after each result, so that a part cut off leaves what it has.

    Attributes:
        file: Where it lies.
        seconds: Of the part in all; none means no limit.
    """

    file: Path
    seconds: float | None = None
    found: dict[str, Any] = field(default_factory=dict)
    _start: float = field(default_factory=time.monotonic)

    def put(self, name: str, value: Any) -> None:
        self.found[name] = value
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(self.found, indent=1))
        part.replace(self.file)
        print(f"{name}: {json.dumps(value)[:400]}", flush=True)

    def time_for(self, seconds: float) -> bool:
        """Whether so many seconds are left."""
        return self.seconds is None or time.monotonic() - self._start + seconds < self.seconds
