"""One forward pass of a text tower that gives everything its internals are read from.

As for images, attention rows are computed from hooked queries and keys for one query alone, that of the token
which a text is pooled at; the model runs under sdpa, and the rows equal those of eager attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from clipdrift.model.towers.base import Call
from clipdrift.model.towers.text import TextTower
from clipdrift.model.trace import as_it_is, attention_maps
from clipdrift.shapes import Embedding, States


@dataclass(frozen=True)
class TracedTexts:
    """Results of one forward pass of B texts of T tokens each.

    Attributes:
        embedding: (B, E) projected text embedding, not normalised.
        states: (L, B, D) state of the pooled token after each block 1..L, before the final layer norm.
        rows: (L, B, H, T) post-softmax attention of the pooled token, the last, in float32.
    """

    embedding: Embedding
    states: States
    rows: Float32[Tensor, "L B H T"]


def trace_texts(tower: TextTower, ids: Tensor, call: Call | None = None) -> TracedTexts:
    """Run a text tower once on ``ids`` (B, T), tokens of texts of one length, each pooled at its last.

    Gradients flow through everything returned unless the caller switches them off. All hooks are removed
    before returning, also when the forward pass fails.

    Args:
        call: how modules are run; default as they are.
    """
    states: list[Tensor] = []
    rows: list[Tensor] = []
    handles: list[Any] = []
    try:
        for block in tower.blocks:
            handles.append(block.register_forward_hook(partial(_after, states)))
            handles += tower.watch(block, partial(_row, rows, tower.heads))
        embedding = tower.run(ids, call or as_it_is)
    finally:
        for handle in handles:
            handle.remove()
    return TracedTexts(embedding, torch.stack(states), torch.stack(rows))


def _after(states: list[Tensor], _module: nn.Module, _inputs: object, output: Any) -> None:
    """A hook on a block: keeps the state of the pooled token. Some releases wrap the output in a tuple."""
    states.append((output[0] if isinstance(output, tuple) else output)[:, -1])


def _row(rows: list[Tensor], heads: int, queries: Tensor, keys: Tensor) -> None:
    """Keeps the attention of the last query."""
    rows.append(attention_maps(queries[:, -1:], keys, heads)[:, :, 0])
