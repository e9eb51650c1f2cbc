"""Read and write complete training states: atomic, verified, without unpickling objects."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from clipdrift.errors import ClipdriftError, one_line
from clipdrift.runs.files import write_atomically


class CheckpointError(ClipdriftError):
    """A checkpoint that cannot be used; the message says why and what to do."""


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values. An interruption leaves the older file as it was.

    Raises:
        StorageError: no room, or no right to write there.
    """

    def write(stream: BinaryIO) -> None:
        target: Any = _Stream(stream)
        try:
            torch.save(dict(state), target)
        except Exception as error:  # torch words a full disk as an error of its own
            raise target.error or error from error

    write_atomically(path, write)


def load_state(path: Path) -> dict[str, Any] | None:
    """Load what :func:`save_state` wrote, or None where there is no file.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not look at the checksums that it wrote
            if (bad := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {bad} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a broken pickle raises depends on the byte that broke
        shown = one_line(error)
        raise CheckpointError(f"{path}: damaged ({shown}); delete it to start again") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: not a checkpoint; delete it to start again")
    return state


@dataclass
class _Stream:
    """File for torch to write to, which remembers errors of the disk."""

    stream: BinaryIO
    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.stream.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.stream.flush()
