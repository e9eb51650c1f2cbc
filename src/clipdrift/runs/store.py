"""Store of runs: one folder per run key, the configuration first, the record last. Loads no torch."""

from __future__ import annotations

import json
import platform
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from clipdrift.config import RunConfig
from clipdrift.errors import BusyError, Interrupted, StorageError, one_line
from clipdrift.runs.files import storage, sweep, write_text
from clipdrift.runs.layout import (
    CHECKPOINT,
    CONFIG,
    FAILURE,
    MANIFEST,
    MAPS,
    METRICS,
    OWNER,
    PULSE,
    RECORD,
    WEIGHTS,
)
from clipdrift.runs.locks import claim
from clipdrift.runs.manifest import damaged
from clipdrift.runs.record import Point, Record, read_record
from clipdrift.runs.states import RunState, read_state


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run. Only who has claimed it may write there."""

    path: Path

    def claim(self) -> AbstractContextManager[None]:
        """Keep every other process and machine from this run inside; a dead owner's claim is void.

        Raises:
            BusyError: a living process has it.
            StorageError: the folder cannot be written.
        """
        return claim(self.path)

    def state(self) -> RunState:
        """Read the run's state, cheaply."""
        return read_state(self.path)

    def open(self, config: RunConfig) -> str | None:
        """Begin an attempt: write the configuration, remove the last failure and what killed writers left.

        Returns:
            What was damaged, in words.
        """
        said = None
        text = json.dumps(config.model_dump(mode="json"), indent=1) + "\n"
        with storage(self.path):
            sweep(self.path)
            (self.path / FAILURE).unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                if not _is_json((self.path / CONFIG).read_bytes()):
                    said = f"{self.path / CONFIG}: damaged; written again"
        write_text(self.path / CONFIG, text)
        return said

    def begin(self, config: RunConfig) -> None:
        """Start afresh: the configuration stands, metrics are empty, no record, no checkpoint."""
        with storage(self.path):
            # the record last: until it is gone the run is finished, then nothing old is left to go on from
            for name in (CHECKPOINT, MANIFEST, MAPS, RECORD):
                (self.path / name).unlink(missing_ok=True)
        self.open(config)
        write_text(self.path / METRICS, "")

    def forget_checkpoint(self) -> None:
        with storage(self.path):
            (self.path / CHECKPOINT).unlink(missing_ok=True)

    def go_on(self, history: Sequence[Point]) -> str | None:
        """Bring the metrics to where a checkpoint stands: no line twice, none torn, none missing.

        Returns:
            What was damaged, in words. Lines beyond the checkpoint are not: those moments come again.
        """
        with storage(self.path):
            (self.path / RECORD).unlink(missing_ok=True)  # a damaged one
        found = self._points()
        self._write_metrics(history)
        same = found is not None and found[: len(history)] == list(history)
        return None if same else f"{self.path / METRICS}: damaged; written again"

    def note(self, point: Point) -> None:
        """Append one moment of the training, for anyone who watches."""
        with storage(self.path / METRICS), (self.path / METRICS).open("a", encoding="utf-8") as stream:
            stream.write(point.model_dump_json() + "\n")

    def fail(self, error: Exception) -> None:
        """Note why this try ended. Being stopped, or kept out by another process, is no failure."""
        if isinstance(error, BusyError | Interrupted):
            return
        said = {
            "error": one_line(error, 2000),
            "kind": type(error).__name__,
            "when": datetime.now(UTC).isoformat(),
            "host": platform.node(),
            "traceback": "".join(traceback.format_exception(error)),
        }
        with suppress(StorageError):  # the disk may be what failed
            write_text(self.path / FAILURE, json.dumps(said, indent=1, ensure_ascii=False) + "\n")

    def finish(self, record: Record, keep_checkpoint: bool = False) -> None:
        """Write the record: from now on the run counts as finished."""
        write_text(self.path / RECORD, record.to_json())
        self.tidy(keep_checkpoint)

    def tidy(self, keep_checkpoint: bool = False) -> None:
        """Take away what a finished run needs no longer."""
        with storage(self.path):
            sweep(self.path)
            for name in (PULSE,) if keep_checkpoint else (PULSE, CHECKPOINT):
                (self.path / name).unlink(missing_ok=True)

    @property
    def left_in_haste(self) -> bool:
        """Whether a process has it, or had it and was killed before it could tidy up."""
        return (self.path / OWNER).exists()

    @property
    def finished(self) -> bool:
        return (self.path / RECORD).is_file()

    def record(self) -> Record:
        """Read the run's record. Raises RecordError where there is none or it is damaged."""
        return read_record(self.path / RECORD)

    def damaged_weights(self) -> str | None:
        """Say which of the saved files is not as it was written."""
        return damaged(self.path / MANIFEST, self.path / WEIGHTS)

    def damaged_notes(self, record: Record) -> str | None:
        """Say which of a finished run's other files does not agree with its record."""
        with suppress(OSError):
            config, metrics = ((self.path / name).read_bytes() for name in (CONFIG, METRICS))
            if not _is_json(config):
                return f"{self.path / CONFIG}: damaged"
            if metrics.endswith(b"\n") and self._points() == list(record.history):
                return None
        return f"{self.path / METRICS}: damaged"

    def mend(self, record: Record) -> None:
        """Write again what a record can restore: the configuration and the metrics."""
        self.open(record.config)
        self._write_metrics(record.history)

    def _write_metrics(self, history: Sequence[Point]) -> None:
        write_text(self.path / METRICS, "".join(point.model_dump_json() + "\n" for point in history))

    def _points(self) -> list[Point] | None:
        """The whole lines of the metrics; None where one of them is damaged. A torn last line is none."""
        try:
            lines = (self.path / METRICS).read_bytes().split(b"\n")
            return [Point.model_validate_json(line) for line in lines[:-1]]
        except (OSError, ValidationError):
            return None


def _is_json(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), dict)
    except ValueError:
        return False


@dataclass(frozen=True)
class Store:
    """A folder of runs."""

    root: Path

    def folder(self, key: str) -> RunFolder:
        return RunFolder(self.root / key)

    def runs(self) -> Iterator[RunFolder]:
        """List every run that has begun, by key."""
        if self.root.is_dir():
            for path in sorted(self.root.iterdir()):
                if (path / CONFIG).is_file():
                    yield RunFolder(path)
