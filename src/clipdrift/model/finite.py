"""Whether weights are numbers: nan and inf spread to every result without a word."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

_NAMED = 3
"""Tensors that a message names."""


def broken_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Name tensors that hold nan or inf, and how many of each; None where all are finite.

    A sum is read first, because any nan or inf makes it one; only where that happens is a tensor counted
    value by value, since a sum of finite values may overflow, too.
    """
    found = []
    for name, tensor in tensors:
        values = tensor.detach()
        if not values.is_floating_point() or values.is_meta or bool(values.sum().isfinite()):
            continue
        counts = {"nan": int(values.isnan().sum()), "inf": int(values.isinf().sum())}
        if said := " and ".join(f"{count} {kind}" for kind, count in counts.items() if count):
            found.append(f"{name} ({said} of {values.numel()} values)")
    if not found:
        return None
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return (
        f"{len(found)} weight{'s hold' if len(found) > 1 else ' holds'} values that are no numbers: "
        f"{', '.join(found[:_NAMED])}{more}; no result can be computed with them, give a copy from before "
        "the training that broke them"
    )
