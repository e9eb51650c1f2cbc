"""One forward pass of a text tower that gives everything its internals are read from.

As for images, attention rows are computed from hooked queries and keys for one query alone, that of the token
which a text is pooled at; the model runs under sdpa, and the rows equal those of eager attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float32
from torch import Tensor, nn

from clipdrift.model.towers.base import Call
from clipdrift.model.towers.text import Prompt, TextTower
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
            handles.append(block.register_forward_hook(partial(_after, tower, states)))
            handles += tower.watch(block, partial(_row, rows, tower.heads))
        embedding = tower.run(ids, call or as_it_is)
    finally:
        for handle in handles:
            handle.remove()
    return TracedTexts(embedding, torch.stack(states), torch.stack(rows))


@dataclass(frozen=True)
class TracedCaptions:
    """Results of one forward pass of B texts of any lengths.

    Attributes:
        embedding: (B, E) projected text embedding, not normalised.
        states: (L, B, D) state of the pooled token after each block 1..L, before the final layer norm.
        rows: (L, B, H, T) post-softmax attention of the pooled token in float32, where asked for; nothing on
            what comes after it.
        words: (B, T) which tokens are words: neither the start token, nor the pooled one, nor padding.
    """

    embedding: Embedding
    states: States
    rows: Float32[Tensor, "L B H T"] | None
    words: Bool[Tensor, "B T"]


def trace_captions(
    tower: TextTower, prompts: Sequence[Prompt], rows: bool = False, call: Call | None = None
) -> TracedCaptions:
    """Run a text tower once on texts of different lengths, as training does.

    Shorter ones are filled up with their last token, at whose first place a text is pooled; attention is
    causal, so that what comes after it changes nothing. Gradients flow as in :func:`trace_texts`.

    Args:
        rows: whether attention is wanted.
        call: how modules are run; default as they are.
    """
    device = next(tower.model.parameters()).device
    longest = max(len(prompt.ids) for prompt in prompts)
    ids = [(*prompt.ids, *prompt.ids[-1:] * (longest - len(prompt.ids))) for prompt in prompts]
    place = torch.arange(longest, device=device)
    ends = torch.tensor([len(prompt.ids) - 1 for prompt in prompts], device=device)
    spans = torch.tensor([(prompt.span.start, prompt.span.stop) for prompt in prompts], device=device)
    states: list[Tensor] = []
    attended: list[Tensor] = []
    handles: list[Any] = []
    row = partial(_row_at, attended, tower.heads, ends, place > ends[:, None])
    try:
        for block in tower.blocks:
            handles.append(block.register_forward_hook(partial(_after_at, tower, states, ends)))
            if rows:
                handles += tower.watch(block, row)
        embedding = tower.run(torch.tensor(ids, device=device), call or as_it_is)
    finally:
        for handle in handles:
            handle.remove()
    return TracedCaptions(
        embedding=embedding,
        states=torch.stack(states),
        rows=torch.stack(attended) if rows else None,
        words=(place >= spans[:, :1]) & (place < spans[:, 1:]),
    )


def _after(
    tower: TextTower, states: list[Tensor], _module: nn.Module, _inputs: object, output: object
) -> None:
    """A hook on a block: keeps the state of the pooled token."""
    states.append(tower.tokens(output)[:, -1])


def _row(rows: list[Tensor], heads: int, queries: Tensor, keys: Tensor) -> None:
    """Keeps the attention of the last query."""
    rows.append(attention_maps(queries[:, -1:], keys, heads)[:, :, 0])


def _after_at(
    tower: TextTower, states: list[Tensor], ends: Tensor, _module: nn.Module, _inputs: object, output: object
) -> None:
    """As :func:`_after`, with a place for each text."""
    tokens = tower.tokens(output)
    states.append(tokens[torch.arange(len(ends), device=ends.device), ends])


def _row_at(
    rows: list[Tensor], heads: int, ends: Tensor, hidden: Tensor, queries: Tensor, keys: Tensor
) -> None:
    """Keeps the attention of each text's pooled token."""
    pooled = queries[torch.arange(len(ends), device=ends.device), ends]
    rows.append(attention_maps(pooled[:, None], keys, heads, hidden)[:, :, 0])
