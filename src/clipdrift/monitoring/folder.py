"""A monitor's folder: one monitor at a time writes there, and what cannot be written is said once."""

from __future__ import annotations

import gc
import json
import os
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from clipdrift.errors import BusyError, ClipdriftError, one_line
from clipdrift.monitoring import log, pictures
from clipdrift.monitoring.backbone import FOLDER, BackboneSide, store
from clipdrift.monitoring.errors import MonitorError
from clipdrift.monitoring.keeping import keep_state
from clipdrift.rules import Said
from clipdrift.runs.files import write_text
from clipdrift.runs.layout import LOCK
from clipdrift.runs.locks import NoLocksError, claim

T = TypeVar("T")

_PATIENCE = 1.0
"""Seconds for which a monitor before this one, whose process ends just now, is waited for."""


class Folder:
    """Everything that a monitor writes.

    Args:
        say: a method of the monitor, which is not kept alive by it.
    """

    def __init__(self, out: Path, say: Callable[[Said], object]) -> None:
        self.out, self._told = out, weakref.WeakMethod(say)
        self._begun, self._writable, self._resumed = False, True, 0
        self._lock = ExitStack()
        self._held, self._made = False, not out.exists()
        # also at the end of the process, but never in a copy of it that was forked
        weakref.finalize(self, _let_go, self._lock, os.getpid())

    def claim(self) -> None:
        """Hold the folder, until :meth:`release` or the end of the process; nothing where it is held.

        Raises:
            MonitorError: another monitor holds it.
        """
        try:
            self._hold()
        except MonitorError:
            raise
        except (OSError, ClipdriftError) as error:
            self._failed(error)

    def release(self) -> None:
        """Let others have it; what is written later holds it again."""
        self._lock.close()
        self._held = False

    def leave(self) -> None:
        """Let go of it for good: a monitor that could not be made leaves no folder of its own making."""
        self.release()
        if self._made:
            with suppress(OSError):
                if [one.name for one in self.out.iterdir()] == [LOCK]:
                    (self.out / LOCK).unlink()
                self.out.rmdir()

    def _hold(self) -> None:
        if self._held:
            return
        words = "has a monitor at work there; close() that one, or name another folder in out="
        try:
            try:
                self._lock.enter_context(claim(self.out, _PATIENCE, words))
            except BusyError:
                gc.collect()  # a monitor that nothing names any more, in a circle of references
                self._lock.enter_context(claim(self.out, 0.1, words))
        except BusyError as error:
            raise MonitorError(str(error)) from None
        except NoLocksError:
            self._say(Said("note", f"{self.out}: no locks there, so a second monitor would not be noticed"))
        self._held = True

    def store(self, side: BackboneSide) -> BackboneSide:
        """Keep the backbone's side; returns it as it is read from there, or as it was."""
        return self._tried(lambda: store(side, self.out)) or side

    def begin(self, step: int) -> None:
        """A training begins, or goes on, after so many steps: before its next row older ones are moved."""
        self._resumed, self._begun = step, False

    def append(self, row: Mapping[str, Any], about: Callable[[], Mapping[str, Any]]) -> None:
        """Add a row to the log, unless nothing could be written before.

        Args:
            about: what is measured, on what, by which rules; written before the first row.
        """
        if self._writable:
            self._tried(lambda: self._appended(row, about))

    def _appended(self, row: Mapping[str, Any], about: Callable[[], Mapping[str, Any]]) -> None:
        if not self._begun:
            self._begun = True
            if said := log.begin(self.out, self._resumed):
                self._say(Said("note", said))
            write_text(self.out / log.ABOUT, json.dumps(about(), indent=1) + "\n")
        log.append(self.out, row)

    def keep(self, model: nn.Module, facts: dict[str, Any], processor: Any) -> str | None:
        """Keep a good state; returns how, None where it could not be."""
        return self._tried(lambda: keep_state(model, self.out, facts, processor))

    def show(self, step: int, shares: NDArray[np.float32] | None) -> None:
        """Keep the attention of a measurement for pictures, where those of the backbone are."""
        if shares is None or not self._writable or not (self.out / FOLDER / pictures.FILE).is_file():
            return
        self._tried(lambda: pictures.save_now(self.out, step, shares))

    def _tried(self, work: Callable[[], T]) -> T | None:
        """Write while the folder is held; None, and said once, where it cannot be done."""
        try:
            self._hold()
            return work()
        except (OSError, ClipdriftError) as error:
            self._failed(error)
            return None

    def _failed(self, error: Exception) -> None:
        if self._writable:
            text = f"{self.out} cannot be written ({one_line(error)}); nothing is kept there"
            self._say(Said("warning", text))
        self._writable = False

    def _say(self, one: Said) -> None:
        if (say := self._told()) is not None:
            say(one)


def _let_go(lock: ExitStack, process: int) -> None:
    if os.getpid() == process:
        lock.close()
