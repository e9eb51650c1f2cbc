"""Looks at mixes that were measured already, kept beside the result until it is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from clipdrift.config.base import Frozen
from clipdrift.repair import RepairError, Step
from clipdrift.runs.files import write_text
from clipdrift.runs.frozen import Wording, read_model

FILE = "looks.json"
_SCHEMA = 1


class _Try(Frozen):
    accuracy: float
    retention: dict[str, float | None]


class _File(Frozen):
    schema_version: int = _SCHEMA
    of: str = Field(description="Hash of everything that the looks depend on.")
    steps: dict[str, Step] = Field(default_factory=dict)
    tries: dict[str, _Try] = Field(default_factory=dict)


class Looks:
    """What was measured, by label; written after each look, so that an interrupted mix goes on from there."""

    def __init__(self, folder: Path | None, depends_on: Any) -> None:
        """Take up what an interrupted mix of the same runs, asked the same, has left.

        Args:
            folder: of the result; None: nothing is kept.
            depends_on: plain data that names all that the numbers follow from.
        """
        text = json.dumps(depends_on, sort_keys=True, default=str)
        self._of = hashlib.sha256(text.encode()).hexdigest()
        self._file = None if folder is None else folder / FILE
        self._known = self._read()
        self.taken = len(self._known.steps) + len(self._known.tries)
        """How many were there already."""

    def step(self, label: str, look: Callable[[], Step]) -> Step:
        """A model as it was measured, or as it is now."""
        if label not in self._known.steps:
            found = look()
            self._keep(self._known.model_copy(update={"steps": {**self._known.steps, label: found}}))
        return self._known.steps[label]

    def attempt(
        self, label: str, look: Callable[[], tuple[float, dict[str, float | None]]]
    ) -> tuple[float, dict[str, float | None]]:
        """Accuracy and retention by set of a soup that is only tried."""
        if label not in self._known.tries:
            accuracy, retention = look()
            found = _Try(accuracy=accuracy, retention=retention)
            self._keep(self._known.model_copy(update={"tries": {**self._known.tries, label: found}}))
        known = self._known.tries[label]
        return known.accuracy, known.retention

    def remove(self) -> None:
        """Remove the file; the result holds all of it."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _keep(self, found: _File) -> None:
        self._known = found
        if self._file is not None:
            write_text(self._file, found.model_dump_json() + "\n")

    def _read(self) -> _File:
        words = Wording(
            schema=_SCHEMA,
            error=RepairError,
            missing="not there",
            foreign="of another version",
            again="it is measured again",
        )
        if self._file is not None and self._file.is_file():
            try:
                found = read_model(self._file, _File, words)
                if found.of == self._of:
                    return found
            except RepairError:  # half written or of another version: measured again
                pass
        return _File(of=self._of)
