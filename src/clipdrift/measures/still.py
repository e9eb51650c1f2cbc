"""Measure without a trace: mode, random numbers, precision settings and gradients are restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from clipdrift.accelerator import forked_devices
from clipdrift.model.modes import in_eval_mode

_HALF = (torch.float16, torch.bfloat16)


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients and true float32 inside; afterwards everything is as the caller had it.

    Each submodule's own mode comes back, so that a block that was kept in eval mode inside a model in
    training stays so. TF32 and reduced float32 matrix products are off, an outer autocast is suspended, and
    the random generators are those of before.
    """
    place = next(model.parameters()).device
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=forked_devices(place)))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(place.type, enabled=False))
        stack.enter_context(_true_float32())
        stack.enter_context(in_eval_mode(model))
        yield


_EXACT = {
    "cudnn.allow_tf32": False,
    "cuda.matmul.fp32_precision": "ieee",
    "cudnn.conv.fp32_precision": "ieee",
    "mkldnn.matmul.fp32_precision": "ieee",
    "mkldnn.conv.fp32_precision": "ieee",
}
"""Settings of ``torch.backends``, old ones first: writing one of those changes the newer and finer ones."""


@contextmanager
def _true_float32() -> Iterator[None]:
    kept: list[tuple[Callable[[Any], None], Any, Any]] = []
    # torch before 2.9 has none of the newer ones; later ones do not tell an old one that a newer contradicts
    with suppress(RuntimeError):
        kept.append((torch.set_float32_matmul_precision, torch.get_float32_matmul_precision(), "highest"))
    for path, exact in _EXACT.items():
        place, _, name = path.rpartition(".")
        with suppress(AttributeError, RuntimeError):
            owner = attrgetter(place)(torch.backends)
            kept.append((partial(setattr, owner, name), getattr(owner, name), exact))
    try:
        for write, _, exact in kept:
            write(exact)
        yield
    finally:
        for write, before, _ in kept:
            write(before)


def in_float32(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run ``module`` in float32, whatever its weights are kept in; they are raised for this call alone."""
    raised = {
        name: tensor.float()
        for tensors in (module.named_parameters(), module.named_buffers())
        for name, tensor in tensors
        if tensor.dtype in _HALF
    }
    return functional_call(module, raised, args, kwargs) if raised else module(*args, **kwargs)
