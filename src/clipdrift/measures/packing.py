"""Pack internals into plain tensors and back, to be kept in a file."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdrift.measures.internals import Internals
from clipdrift.measures.states import KeptStates
from clipdrift.model.towers.base import Reader

_PARTS = ("attention", "heads", "whole", "detail")


def pack(internals: Internals) -> dict[str, Tensor]:
    """Pack all values of ``internals``, exactly; a name says which part a tensor belongs to."""
    found = {**pack_states(internals.states), "embedding": internals.embedding}
    for part in _PARTS:
        arrays: Mapping[str, NDArray[np.float64]] = getattr(internals, part)
        found |= {f"{part}.{name}": torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    # a file keeps no order, and the order of measures is that of tables
    names = [f"{part}.{name}" for part in _PARTS for name in getattr(internals, part)]
    order = "\n".join(names).encode()
    return found | {"order": torch.frombuffer(bytearray(order or b"\n"), dtype=torch.uint8)}


def unpack(tensors: Mapping[str, Tensor], reader: Reader) -> Internals:
    """Restore what was packed."""
    parts: dict[str, dict[str, NDArray[np.float64]]] = {part: {} for part in _PARTS}
    for line in bytes(tensors["order"].numpy()).decode().split("\n"):
        if line:
            part, _, name = line.partition(".")
            parts[part][name] = tensors[line].numpy()
    embedding = tensors["embedding"]
    return Internals(
        parts["attention"],
        parts["heads"],
        parts["whole"],
        unpack_states(tensors),
        embedding,
        reader,
        parts["detail"],
    )


def pack_states(states: KeptStates) -> dict[str, Tensor]:
    """``states`` (L, N, D), or ``states.0`` (N, D) and so on where blocks differ in width."""
    if len(set(states.widths)) == 1:
        return {"states": torch.stack(list(states))}
    return {f"states.{block}": state for block, state in enumerate(states)}


def unpack_states(tensors: Mapping[str, Tensor]) -> KeptStates:
    """Restore what was packed."""
    states = KeptStates()
    blocks = sum(re.fullmatch(r"states\.\d+", name) is not None for name in tensors)
    states.add([tensors[f"states.{block}"] for block in range(blocks)] if blocks else tensors["states"])
    return states
