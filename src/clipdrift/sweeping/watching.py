"""Progress reporting interface of a sweep: that of a study, whose runs are not all known at its start."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from clipdrift.runs.reporter import Reporter, Silent
from clipdrift.study.engines.jobs import SilentWatcher, StudyWatcher


@runtime_checkable
class SweepWatcher(StudyWatcher, Protocol):
    """Progress reporting interface; ``plan`` is called once for each batch of runs."""

    def expects(self, runs: int) -> None:
        """Report how many runs there will be, as far as that is known."""

    def finishing(self) -> Reporter:
        """Return the reporter of what is no run: looking at the data, saving, testing."""


class SilentSweepWatcher(SilentWatcher):
    """Watcher that says nothing."""

    def expects(self, runs: int) -> None:
        pass

    def finishing(self) -> Reporter:
        return Silent()
