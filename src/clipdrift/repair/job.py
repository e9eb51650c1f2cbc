"""One repair from its inputs to its result."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clipdrift.repair import Repaired, RepairKind, Step
from clipdrift.repair.context import RepairContext
from clipdrift.repair.step_measurer import StepComparer
from clipdrift.runs.record import environment


class RepairJob:
    """One repair: what it works on, what the backbone gave, and the result at its end."""

    def __init__(self, kind: RepairKind, context: RepairContext, out: str | Path | None) -> None:
        self.kind = kind
        self.context = context
        self._since = time.perf_counter()
        self._out = out
        self.observer = StepComparer.of(context.measurer)

    def result(
        self,
        steps: list[Step],
        *,
        chosen: int | None,
        reason: str = "",
        saved: Path | None,
        notes: Iterable[str] = (),
    ) -> Repaired:
        """The result, written to the folder that was asked for."""
        facts: dict[str, Any] = self.context.facts
        facts["notes"] = (*facts["notes"], *notes)
        found = Repaired(
            kind=self.kind,
            **facts,
            transfer=self.observer.tested,
            steps=tuple(steps),
            chosen=chosen,
            reason=reason,
            saved=None if saved is None or chosen is None else str(saved),
            environment=environment(str(self.context.measurer.device)),
            timings={"measured": round(time.perf_counter() - self._since, 3)},
        )
        if self._out is not None:
            self.context.measurer.reporter.stage(f"writing {self._out}")
            found.save(self._out)
        return found
