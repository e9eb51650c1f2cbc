"""Course of a run's training: what a checkpoint holds, and when one is written."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from clipdrift.errors import Interrupted
from clipdrift.runs.record import Point, Remark
from clipdrift.runs.signals import Stops
from clipdrift.training.checkpoint import CheckpointError, load_state, save_state
from clipdrift.training.progress import Progress

FORMAT = 1
"""Raised when the content of a checkpoint changes: older ones are not gone on from."""

_SHARE = 20
"""Writing may take a twentieth of the time at most."""


@dataclass(frozen=True)
class CheckpointSchedule:
    """Schedule of checkpoints; never part of a run's key. Never part of what a run is.

    Attributes:
        seconds: between two, at least; more where writing takes long.
        epoch_seconds: the same at the end of an epoch, a good place to go on from.
        steps: after every so many steps as well, as for a test.
    """

    seconds: float = 60.0
    epoch_seconds: float = 5.0
    steps: int | None = None


@dataclass(eq=False)
class Course:
    """How far the training of one run has come.

    Attributes:
        key: the run's.
        phase: ``head`` while the head alone is trained (lp_ft), then ``all``.
        progress: of that phase.
        history: what was seen so far.
        best: score of the best epoch so far.
        snapshot: the weights at the end of that epoch.
        seconds: spent on training by earlier tries.
        ruling: what the run's rules have counted; None before they were asked.
        remarks: what they have said.
    """

    key: str
    phase: Literal["head", "all"] = "head"
    progress: Progress = field(default_factory=Progress)
    history: list[Point] = field(default_factory=list)
    best: float = -math.inf
    snapshot: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    ruling: dict[str, Any] | None = None
    remarks: list[Remark] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """Return everything as tensors and plain values."""
        return {
            "format": FORMAT,
            "key": self.key,
            "phase": self.phase,
            "progress": self.progress.state(),
            "history": [point.model_dump_json() for point in self.history],
            "best": self.best,
            "snapshot": self.snapshot,
            "seconds": self.seconds,
            "ruling": self.ruling,
            "remarks": [remark.model_dump_json() for remark in self.remarks],
        }

    @classmethod
    def read(cls, path: Path, key: str) -> Course | None:
        """Read what :class:`CheckpointWriter` wrote for the run ``key``, or None where there is no file.

        Raises:
            CheckpointError: it is damaged, of another run, or of another version of clipdrift.
        """
        state = load_state(path)
        if state is None:
            return None
        if state.get("format") != FORMAT or state.get("key") != key:
            raise CheckpointError(f"{path}: of another run or version; delete it to start again")
        return cls(
            key=key,
            phase=state["phase"],
            progress=Progress(state["progress"]),
            history=[Point.model_validate_json(line) for line in state["history"]],
            best=state["best"],
            snapshot=state["snapshot"],
            seconds=state["seconds"],
            ruling=state.get("ruling"),  # absent in checkpoints older than rules
            remarks=[Remark.model_validate_json(line) for line in state.get("remarks", ())],
        )


@dataclass(eq=False)
class CheckpointWriter:
    """Writes a run's checkpoint in time, and when somebody asks the run to stop."""

    path: Path
    course: Course
    schedule: CheckpointSchedule
    asked: Stops
    _begun: float = field(default_factory=lambda: time.monotonic())
    _written: float = field(default_factory=lambda: time.monotonic())
    _cost: float = 0.0

    def pause(self, steps: int, per_epoch: int) -> None:
        """After a step.

        Raises:
            Interrupted: asked to stop; the checkpoint is written.
        """
        step, every = self.course.progress.step, self.schedule.steps
        if self.asked.number is not None:
            self.write()
            what = "of the head alone" if self.course.phase == "head" else f"(epoch {-(-step // per_epoch)})"
            message = f"stopped at step {step} of {steps} {what}; the same command goes on"
            raise Interrupted(message, self.asked.number)
        if self._time(self.schedule.seconds) or (every and step % every == 0):
            self.write()

    def looked(self, ends_epoch: bool) -> None:
        """After a look, whose result is part of the course."""
        if ends_epoch and self._time(self.schedule.epoch_seconds):
            self.write()

    def waits(self) -> None:
        """Between two images that go through the frozen blocks once, before training.

        Raises:
            Interrupted: asked to stop.
        """
        if self.asked.number is not None:
            raise Interrupted(
                f"stopped while {self.asked.doing}; the same command goes on", self.asked.number
            )

    def write(self) -> None:
        start = time.monotonic()
        save_state(self.path, {**self.course.state(), "seconds": self.course.seconds + start - self._begun})
        self._written = time.monotonic()
        self._cost = self._written - start

    def _time(self, seconds: float) -> bool:
        return time.monotonic() - self._written >= max(seconds, _SHARE * self._cost)
