"""Multiply learning rates in the middle of a training, so that a schedule goes on from there."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def multiply_rates(optimizer: Any, scheduler: Any, factor: float) -> None:
    """Multiply every group's rate, and what the optimiser's schedule computes further rates from.

    Args:
        optimizer: of torch, or a wrapper with ``param_groups``.
        scheduler: of torch, transformers or accelerate; None: the rates are constant.
    """
    for group in optimizer.param_groups:
        for name in ("lr", "initial_lr", "max_lr", "min_lr"):
            if isinstance(group.get(name), Tensor):
                group[name].mul_(factor)
            elif name in group:
                group[name] *= factor
    for one in _schedules(scheduler):
        for name in ("base_lrs", "_last_lr"):  # the latter is what a schedule says when it is asked
            if hasattr(one, name):
                setattr(one, name, [rate * factor for rate in getattr(one, name)])


def _schedules(scheduler: Any) -> list[Any]:
    """A schedule and those inside it: accelerate's wrapper, torch's sequences and chains."""
    if scheduler is None:
        return []
    inner = getattr(scheduler, "scheduler", None)
    if inner is not None and inner is not scheduler and hasattr(inner, "step"):
        return _schedules(inner)
    return [scheduler, *(part for one in getattr(scheduler, "_schedulers", ()) for part in _schedules(one))]
