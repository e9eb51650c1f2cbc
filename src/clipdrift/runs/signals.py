"""Stop on SIGTERM and Ctrl-C: the first ends a run at a good moment, the second at once. Loads no torch."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from clipdrift.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopNow(KeyboardInterrupt):
    """Raised by the handler itself; no ``except Exception`` of a library takes it for an error of its own."""


@dataclass(eq=False)
class Stops:
    """Stop requests of signals so far.

    Attributes:
        number: the signal that asked to stop; None: nobody has.
        doing: what the work is at, in words, for the message.
    """

    number: int | None = None
    doing: str = "starting"
    _soon: bool = False

    @contextmanager
    def soon(self) -> Iterator[None]:
        """Let the work look at ``number`` itself inside, and stop where nothing is lost."""
        self._soon = True
        try:
            yield
        finally:
            self._soon = False
        if self.number is not None:
            raise StopNow

    def take(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first is noted where the work will look, any other ends it here."""
        again, self.number = self.number is not None, number
        if again or not self._soon:
            raise StopNow


@contextmanager
def stops() -> Iterator[Stops]:
    """Take signals inside; the handlers of before come back. Does nothing but in the main thread.

    Raises:
        Interrupted: the work was ended at once, by a second signal or where it could not be stopped midway.
    """
    asked = Stops()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (None, signal.SIG_IGN):  # ignored on purpose, as under nohup: so it stays
                before[number] = handler
                signal.signal(number, asked.take)
    try:
        yield asked
    except StopNow:
        message = f"stopped while {asked.doing}; the same command goes on"
        raise Interrupted(message, asked.number or signal.SIGINT) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
