"""Base of every error that a user can cause or mend: one line that says what, where and what to do."""

from __future__ import annotations

import signal
from typing import Literal

INTERNAL = 70
"""Exit status of a mistake of ours, as sysexits.h numbers it."""


class ClipdriftError(Exception):
    """Shown by the command line without a traceback."""


class BusyError(ClipdriftError):
    """Another living process is at work on the same run."""


class StorageError(ClipdriftError):
    """A disk that is full, read-only or without locks; what was written before is whole."""


class Interrupted(ClipdriftError):  # noqa: N818 - an outcome, not a mistake
    """A signal asked the work to stop; the same call goes on from there.

    Attributes:
        number: the signal's.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number

    @property
    def exit_status(self) -> int:
        """Exit status as a shell reports a process that a signal has ended: 130 for Ctrl-C, 143 for
        SIGTERM."""
        return 128 + self.number


class OutOfMemoryError(ClipdriftError):
    """Too little memory for so many images at once.

    Attributes:
        part: at what: ``training`` or ``measuring``.
    """

    def __init__(self, message: str, part: Literal["training", "measuring"] = "training") -> None:
        super().__init__(message)
        self.part = part


def printable(text: str) -> str:
    """A message in one line: what cannot be printed, as a line break in a file's name, stands as ``\\n``."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(error: object, most: int = 200) -> str:
    """An error's message without line breaks, cut between words where it is long; its class where it says
    nothing. A path or an address is left whole or left out."""
    text = " ".join(str(error).split())
    if len(text) > most:
        words = text[: most - 1].rpartition(" ")[0]
        text = f"{words.rstrip(' ,;:') or text[: most - 2]} …"
    return text or type(error).__name__


def named_line(error: BaseException, most: int = 300) -> str:
    """:func:`one_line` with the error's class before it."""
    return one_line(f"{type(error).__name__}: {error}", most)
