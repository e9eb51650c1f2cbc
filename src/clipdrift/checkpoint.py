"""Complete training state on disk: written atomically, read without unpickling objects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clipdrift.errors import ClipdriftError
from clipdrift.files import write_atomically


class CheckpointError(ClipdriftError):
    """A checkpoint that cannot be used; the message says why and what to do."""


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values. An interruption leaves the older file as it was."""
    write_atomically(path, lambda stream: torch.save(dict(state), stream))


def load_state(path: Path) -> dict[str, Any] | None:
    """What :func:`save_state` wrote, or None where there is no file.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a broken pickle raises depends on the byte that broke
        shown = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{path}: damaged ({shown}); delete it to start again") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: not a checkpoint; delete it to start again")
    return state
