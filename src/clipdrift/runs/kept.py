"""Files kept for later, with their checksum: damage is noticed when they are read. Loads no torch.

A file begins with a line that holds its checksum, so it is verified whenever it is read. Pixels are mapped,
not read, and have a checksum beside them (``data/pixels.py``); attention for pictures lies in zip files,
which carry their own (``runs/maps.py``).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from clipdrift.errors import ClipdriftError
from clipdrift.runs.files import write_bytes

SUFFIX = ".kept"
_MARK = b"clipdrift kept sha256 "


class DamagedFileError(ClipdriftError):
    """A kept file that was cut off or altered; whoever reads it says so and makes it again."""


def keep(path: Path, content: bytes) -> None:
    """Write ``content`` and its checksum, whole or not at all.

    Raises:
        StorageError: no room, or no right to write there.
    """
    write_bytes(path, _line(content) + content)


def read_kept(path: Path) -> bytes:
    """Return the content that :func:`keep` was given.

    Raises:
        DamagedFileError: not what was written, to the last bit.
        FileNotFoundError: nothing is kept there.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFileError(f"{path}: cannot be read ({error.strerror or error})") from None
    head, newline, content = raw.partition(b"\n")
    if not newline or head + newline != _line(content):
        raise DamagedFileError(f"{path}: damaged (its checksum does not fit)")
    return content


def _line(content: bytes) -> bytes:
    return _MARK + hashlib.sha256(content).hexdigest().encode() + b"\n"
