"""One folder per run key; the configuration first, the record last and atomically. Loads no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipdrift.config import RunConfig
from clipdrift.files import write_text
from clipdrift.record import Point, Record, read_record

RECORD, CONFIG, METRICS = "record.json", "config.json", "metrics.jsonl"

WEIGHTS = "model"
"""Folder of the saved weights inside a run's folder."""


def cache_folder(given: Path | None) -> Path:
    """Where what runs share is kept: as given, $CLIPDRIFT_CACHE, or ~/.cache/clipdrift."""
    if given is not None:
        return given
    return Path(os.environ.get("CLIPDRIFT_CACHE") or Path.home() / ".cache" / "clipdrift")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    def begin(self, config: RunConfig) -> None:
        """Start afresh: the configuration stands, metrics are empty, no record."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / RECORD).unlink(missing_ok=True)
        write_text(self.path / CONFIG, json.dumps(config.model_dump(mode="json"), indent=1) + "\n")
        (self.path / METRICS).write_text("", encoding="utf-8")

    def note(self, point: Point) -> None:
        """Append one moment of the training, for anyone who watches."""
        with (self.path / METRICS).open("a", encoding="utf-8") as stream:
            stream.write(point.model_dump_json() + "\n")

    def finish(self, record: Record) -> None:
        """Write the record: from now on the run counts as finished."""
        write_text(self.path / RECORD, record.to_json())

    @property
    def finished(self) -> bool:
        return (self.path / RECORD).is_file()

    def record(self) -> Record:
        """The run's record. Raises RecordError where there is none or it is damaged."""
        return read_record(self.path / RECORD)


@dataclass(frozen=True)
class Store:
    """A folder of runs."""

    root: Path

    def folder(self, key: str) -> RunFolder:
        return RunFolder(self.root / key)

    def runs(self) -> Iterator[RunFolder]:
        """Every run that has begun, by key."""
        if self.root.is_dir():
            for path in sorted(self.root.iterdir()):
                if (path / CONFIG).is_file():
                    yield RunFolder(path)
