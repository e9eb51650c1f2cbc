"""Eval mode for a while; afterwards every submodule is in the mode that it was in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put all of ``model`` into eval mode inside.

    Each submodule gets its own mode back: a block kept in eval mode inside a model in training stays so.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
