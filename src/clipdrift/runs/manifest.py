"""Sizes and checksums of the files that a run saved, to notice damage. Loads no torch."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

from clipdrift.runs.files import storage, write_text

_BLOCK = 2**20


def write_manifest(path: Path, folder: Path) -> None:
    """Flush every file of ``folder`` to disk, then note them in ``path``.

    Raises:
        StorageError: no room.
    """
    found = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        with storage(file), file.open("r+b") as stream:
            os.fsync(stream.fileno())
        stat = file.stat()
        found[file.relative_to(folder).as_posix()] = [stat.st_size, stat.st_mtime_ns, _checksum(file)]
    write_text(path, json.dumps(found, indent=1) + "\n")


def damaged(path: Path, folder: Path) -> str | None:
    """Name the first file of ``folder`` that is not as ``path`` says, and why; None: all are.

    Whatever is written to a file changes its time: only then is the whole of it read. A folder that is gone
    was removed on purpose, and where there is no manifest there is nothing to compare with.
    """
    if not (path.is_file() and folder.is_dir()):
        return None
    try:
        wanted = json.loads(path.read_text(encoding="utf-8"))
        for name, (size, time, checksum) in wanted.items():
            file = folder / name
            if not file.is_file():
                return f"{file}: missing"
            stat = file.stat()
            if stat.st_size != size or (stat.st_mtime_ns != time and _checksum(file) != checksum):
                return f"{file}: damaged"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"{path}: cannot be read ({error})"
    return None


def _checksum(file: Path) -> int:
    crc = 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc
