"""Write files and folders whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from clipdrift.errors import StorageError

_STORAGE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOLCK,
    errno.EOPNOTSUPP,
}
"""What a disk or its rights can do to a writer, as opposed to a mistake of the writer's."""


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into an error of one line that names the place.

    Raises:
        StorageError: in place of such an error, also where a library tells of it in words alone.
    """
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else _number_in(str(error))
        if number not in _STORAGE:
            raise
        place = (error.filename if isinstance(error, OSError) else None) or path
        raise StorageError(
            f"{place}: cannot be written ({os.strerror(number)}); what was written before is whole; once "
            "that is mended, the same command goes on"
        ) from error


def _number_in(text: str) -> int | None:
    """The number of an operating system's error as Rust's libraries word it, safetensors among them."""
    found = re.search(r"\(os error (\d+)\)", text)
    return int(found[1]) if found else None


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk, then move it into place.

    Raises:
        StorageError: no room, or no right to write there; the older file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w+b") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """:func:`write_atomically` for what is made already."""
    write_atomically(path, lambda stream: stream.write(content))


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` for text, as UTF-8."""
    write_bytes(path, text.encode())


def refuse_unwritable(path: Path) -> None:
    """Refuse a file that cannot be written, before the work whose result it should hold.

    Raises:
        StorageError: a folder, or a place where nothing can be made.
    """
    if path.is_dir():
        raise StorageError(f"{path}: a folder; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from None
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise StorageError(f"{path}: cannot be written (no right to)")


def replace_folder(place: Path, made: Path) -> None:
    """Move a complete folder to ``place``, over an older one; both lie on one disk.

    The older one is moved aside first and removed last, so at any moment a whole folder is there.
    """
    aside = place.with_name(f".{place.name}.{os.getpid()}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if place.exists():
        place.rename(aside)
    try:
        made.rename(place)
    except OSError:
        if aside.exists():
            aside.rename(place)
        raise
    sync_folder(place.parent)
    shutil.rmtree(aside, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Flush the folder's list of names, without which a new name may be lost with the power.

    Some systems cannot, and Windows has no such thing: there the file keeps its name as far as they promise.
    """
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what killed writers have left in ``folder``; only for whoever has it alone."""
    for left in folder.glob(".*.tmp"):
        left.unlink(missing_ok=True)
