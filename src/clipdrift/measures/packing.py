"""Pack internals into plain tensors and back, to be kept in a file."""

from __future__ import annotations

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
    found = {"states": torch.stack(list(internals.states)), "embedding": internals.embedding}
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
    states = KeptStates()
    states.add(tensors["states"])
    embedding = tensors["embedding"]
    return Internals(
        parts["attention"], parts["heads"], parts["whole"], states, embedding, reader, parts["detail"]
    )
