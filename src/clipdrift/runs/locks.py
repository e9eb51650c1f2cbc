"""Lock a folder for one process: a lock of the kernel, which no dead owner keeps. Loads no torch.

It ends with the process that holds it, however that ended, and knows no clock. On a path that several
machines share it needs a file system whose locks reach across them (NFSv4, Lustre mounted with ``flock``,
CephFS); mounts of object storage have none.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from clipdrift.errors import BusyError, StorageError
from clipdrift.runs.files import storage, write_text
from clipdrift.runs.layout import LOCK, OWNER

_PATIENCE = 2.0
"""Seconds; whoever only looks whether the lock is free holds it for a moment."""
_GLANCE = 0.05


_RUN = "is at work on this run; wait for it, or stop it and give the same command again"


class NoLocksError(StorageError):
    """A file system on which nobody can be kept out of a folder."""


@contextmanager
def claim(folder: Path, patience: float = _PATIENCE, busy: str = _RUN) -> Iterator[None]:
    """Hold ``folder`` alone inside; it is made if need be. May be let go of in another thread.

    Args:
        busy: what the owner does and what to do about it, for the error.

    Raises:
        BusyError: a living process has it, or this one, and still has after ``patience`` seconds.
        NoLocksError, StorageError: its file system has no locks, or the folder cannot be written.
    """
    lock: BaseFileLock = FileLock(folder / LOCK, timeout=patience, thread_local=False)
    try:
        with storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except Timeout:
        raise BusyError(f"{folder}: {owner(folder)} {busy}") from None
    try:
        if isinstance(lock, SoftFileLock):  # what the library falls back on outlives a dead owner
            raise NoLocksError(f"{folder}: this file system has no locks; choose a folder on another")
        about = {"host": platform.node(), "pid": os.getpid(), "since": datetime.now(UTC).isoformat()}
        write_text(folder / OWNER, json.dumps(about) + "\n")
        yield
    finally:
        with suppress(OSError):
            (folder / OWNER).unlink()
        lock.release()


def held(folder: Path) -> bool:
    """Whether a living process has claimed ``folder``. Where nobody has, the lock is taken for a moment.

    On a read-only mount all that can be known is whether somebody claimed it and has not let go of it.
    """
    if not (folder / LOCK).exists():
        return False
    lock = FileLock(folder / LOCK, timeout=_GLANCE)
    try:
        lock.acquire(poll_interval=_GLANCE / 5)
    except Timeout:
        return True
    except OSError:
        return (folder / OWNER).is_file()
    lock.release()
    return False


def owner(folder: Path) -> str:
    """Name who claimed ``folder`` last: ``process 123 on host``."""
    try:
        about = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return f"process {int(about['pid'])} on {about['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
