"""Out-of-memory guard: one line that says what to set."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from clipdrift import accelerator
from clipdrift.config import RunConfig
from clipdrift.errors import ClipdriftError, OutOfMemoryError

_WORDS = (
    "out of memory",
    "not enough memory",
    "defaultcpuallocator",
    "alloc_failed",
    "cannot allocate memory",
)
"""Of torch's plain RuntimeErrors, in lower case: CUDA's, the CPU allocator's, cuBLAS's, the system's."""

_IMAGES_PER_PASS = 64
"""To begin halving with where a run leaves it to the number of tokens."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` means that memory of the device or of the machine was not enough."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


@contextmanager
def out_of_memory_guard(
    config: RunConfig, device: torch.device, part: Literal["training", "measuring"]
) -> Iterator[None]:
    """Guard work on many images at once.

    Raises:
        OutOfMemoryError: in place of what torch raises.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ClipdriftError) or not is_out_of_memory(error):
            raise
        free = accelerator.memory_of(device)
        told = f" ({free})" if free else ""
        raise OutOfMemoryError(
            f"out of memory on {device}{told} while {part}: {_advice(config, part)}", part
        ) from error


def _advice(config: RunConfig, part: Literal["training", "measuring"]) -> str:
    optim = config.optim
    smaller = halved(config, part)
    if part == "measuring":
        asked = config.evaluation.batch_size
        images = (
            "as many images per pass as make some thousand tokens"
            if asked is None
            else f"{asked} images per pass"
        )
        if smaller is None:
            return f"{images} do not fit; use a machine with more memory"
        fewer = smaller.evaluation.batch_size
        return f"{images}; set evaluation.batch_size={fewer} (no number changes), or --auto-batch"
    at_once = min(optim.micro_batch or optim.batch_size, optim.batch_size)
    images = f"optim.batch_size = {optim.batch_size}"
    if at_once < optim.batch_size:
        images += f" in parts of {at_once}"
    if config.method.name == "flyp":
        return (
            f"{images}; the loss of flyp contrasts the images of a batch, so it cannot be done in parts: set "
            "optim.precision=bf16 or a smaller optim.batch_size, either of which is another run"
        )
    if smaller is None:
        return (
            f"{images}; not even one image at a time fits: freeze blocks, or use a machine with more memory"
        )
    return f"{images}; set optim.micro_batch={smaller.optim.micro_batch} (the result stays), or --auto-batch"


def halved(config: RunConfig, part: Literal["training", "measuring"]) -> RunConfig | None:
    """The same run with half as many images in memory; None where that is not possible."""
    if part == "measuring":
        images = config.evaluation.batch_size or 2 * _IMAGES_PER_PASS
        if images == 1:
            return None
        return _with(config, "evaluation", "batch_size", images // 2)
    optim = config.optim
    images = min(optim.micro_batch or optim.batch_size, optim.batch_size)
    if images == 1 or config.method.name == "flyp":
        return None
    return _with(config, "optim", "micro_batch", -(-images // 2))


def _with(config: RunConfig, table: str, key: str, value: int) -> RunConfig:
    """The configuration with another value of a key that belongs to one machine."""
    part = dict(config)[table].model_copy(update={key: value})
    return config.model_copy(update={table: part})
