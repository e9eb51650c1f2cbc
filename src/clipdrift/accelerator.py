"""The device that torch computes on: everything that holds for a GPU alone is said here and nowhere else.

Code for CUDA goes through :data:`cuda`, in whose place a test puts a double.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

cuda: Any = torch.cuda
"""torch's CUDA functions."""

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Without it cuBLAS may choose another workspace, and with it another order of sums, from call to call."""

_WORKSPACE_SIZE = ":4096:8"


def default_device() -> torch.device:
    """The first GPU where torch sees one, else the processor."""
    return torch.device("cuda" if cuda.is_available() else "cpu")


def why_not(device: torch.device) -> str | None:
    """Why nothing can be computed on a device, in one line; None: it can be used."""
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return f"clipdrift computes on cpu, cuda or cuda:N, not on {device.type}"
    if not cuda.is_available():
        built = "" if torch.version.cuda else " (this torch was built without CUDA)"
        return f"torch sees no CUDA device here{built}; use --device cpu"
    count = cuda.device_count()
    if device.index is not None and device.index >= count:
        there = "only cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        return f"there is no such device; torch sees {there}"
    return None


def name_of(device: torch.device) -> str:
    """The GPU's name as its maker calls it, or ``cpu``."""
    return str(cuda.get_device_name(device)) if device.type == "cuda" else "cpu"


def processor_of(device: torch.device) -> str:
    """Name what takes sums in an order of its own: a kind of GPU, or a kind of processor and its threads."""
    if device.type == "cuda":
        return name_of(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"


def has_bf16(device: torch.device) -> bool:
    """Whether a GPU computes in bfloat16 itself. False for the processor, which is slow at it."""
    return device.type == "cuda" and bool(cuda.is_bf16_supported())


def works_ahead(device: torch.device) -> bool:
    """Whether the device works behind the program, so that to read a number is to wait for it."""
    return device.type == "cuda"


def random_state(device: torch.device) -> torch.Tensor | None:
    """State of the GPU's random generator; None on the processor, whose generator is torch's own."""
    state: torch.Tensor | None = cuda.get_rng_state(device) if device.type == "cuda" else None
    return state


def set_random_state(device: torch.device, state: torch.Tensor | None) -> None:
    """Give the GPU's random generator a state of :func:`random_state`; does nothing for None."""
    if device.type == "cuda" and state is not None:
        cuda.set_rng_state(state.cpu(), device)


def forked_devices(device: torch.device) -> list[torch.device]:
    """GPUs whose random generator ``torch.random.fork_rng`` has to keep beside the processor's."""
    return [device] if device.type == "cuda" else []


def release_memory(device: torch.device) -> None:
    """Give memory that nothing uses any more back to the GPU, so that others can have it."""
    if device.type == "cuda":
        cuda.empty_cache()


def wait(device: torch.device) -> None:
    """Wait until all that was started on a GPU is done, as a clock must."""
    if device.type == "cuda":
        cuda.synchronize(device)


def memory_of(device: torch.device) -> str | None:
    """Memory of a GPU and how much of it is free, in words; None for the processor."""
    if device.type != "cuda":
        return None
    free, total = cuda.mem_get_info(device)
    return f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB are free"


def forget_peak(device: torch.device) -> None:
    """Begin to look for the highest use of memory anew."""
    if device.type == "cuda":
        cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Most bytes that tensors had at once on a GPU since :func:`forget_peak`; None for the processor."""
    return int(cuda.max_memory_allocated(device)) if device.type == "cuda" else None


@contextmanager
def deterministic(wanted: bool, device: torch.device) -> Iterator[None]:
    """Inside, torch uses only operations that give the same bits every time, where that is wanted.

    Afterwards torch is as it was; on a GPU the variable that cuBLAS reads at its first product stays set. An
    operation that has no such form raises a RuntimeError that says so (:func:`lacks_determinism`). On the
    processor all that training needs has one.

    Raises:
        RuntimeError: CUDA is in use already, without the variable.
    """
    if not wanted:
        yield
        return
    if device.type == "cuda" and _WORKSPACE not in os.environ:
        if cuda.is_initialized():
            raise RuntimeError(
                f"no deterministic products any more: this process has used CUDA already; set "
                f"{_WORKSPACE}={_WORKSPACE_SIZE} before Python starts"
            )
        os.environ[_WORKSPACE] = _WORKSPACE_SIZE
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark


def running_sum(values: torch.Tensor) -> torch.Tensor:
    """Sums along the last dimension from its beginning, with a gradient.

    CUDA has no deterministic form of it, so there the processor takes the sums where one is wanted.
    """
    if values.device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
        return values.cpu().cumsum(-1).to(values.device)
    return values.cumsum(-1)


def lacks_determinism(error: BaseException) -> bool:
    """Whether an error says that an operation has no deterministic form on this device."""
    return isinstance(error, RuntimeError) and "deterministic" in str(error)
