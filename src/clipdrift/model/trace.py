"""One forward pass of an image tower that gives everything internals are read from.

Attention rows are computed from the hooked queries and keys for one query alone, so the model runs under
sdpa and no (1+P) x (1+P) map is built; the rows are differentiable and equal those of eager attention. Whole
maps, for the few measures that need them, are built block by block for whoever asks and are not kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from clipdrift.model.towers import tower_of
from clipdrift.model.towers.base import Call, Tower
from clipdrift.shapes import Embedding, FeatureMap, Images, Logits, Norms, Rows, States, Tokens

OnMaps = Callable[[int, Tensor, Tensor, int], None]
"""Receives a block's number from 1, queries and keys (B, T, D) of all its tokens, and the number of heads."""


if TYPE_CHECKING:
    AnyStates = Any  # as a union it would have to be told apart wherever a transformer is read
else:
    AnyStates = States | tuple[Tensor, ...]


@dataclass(frozen=True)
class Traced:
    """Results of one forward pass.

    Attributes:
        embedding: (B, E) projected image embedding, not normalised.
        states: (L, B, D) state after each block 1..L, before the final layer norm: the class token's, or,
            in a tower without one, the mean of the patches'; where blocks differ in width, (B, D) of each.
        pooled: (B, D) what is projected: the class token after the final layer norm, or what the pooling
            head gives.
        logits: (B, C) of the head, where one was given.
        rows: (L, B, H, 1+P) post-softmax attention of the class token in float32, class token first, where
            asked for; in a tower without one (1, B, H, P), of the pooling head's query, or (1, B, H, 1+P)
            where that has a token of its own among its keys; None in a tower without attention.
        norms: (L, B, P) Euclidean norm of each patch's state after each block, where asked for and there.
        first_patch: where in a row the patches begin.
    """

    embedding: Embedding
    states: AnyStates
    pooled: Tensor
    logits: Logits | None = None
    rows: Rows | Float32[Tensor, "1 B H keys"] | None = None
    norms: Norms | None = None
    first_patch: int = 1

    @property
    def patch_rows(self) -> Tensor | None:
        """(L, B, H, P) the part of ``rows`` that lies on patches; it does not sum to 1."""
        return None if self.rows is None else self.rows[..., self.first_patch :]


def trace(
    model: Any,
    images: Images | Tokens | FeatureMap,
    head: nn.Module | None = None,
    rows: bool = False,
    norms: bool = False,
    on_maps: OnMaps | None = None,
    call: Call | None = None,
    start: int | None = None,
) -> Traced:
    """Run the image tower once on normalised ``images`` (B, 3, S, S), or from within.

    Gradients flow through everything returned unless the caller switches them off. All hooks are removed
    before returning, also when the forward pass fails.

    Args:
        model: any that :func:`clipdrift.model.towers.tower_of` knows.
        head: applied to the embedding.
        rows, norms: what else is wanted; what the tower has not is left out.
        on_maps: called during the pass with each block's queries and keys; see :func:`attention_maps`.
        call: how modules are run; default as they are.
        start: ``images`` are the tokens (B, T, D), or the feature map, that so many blocks have left; states,
            rows and norms are those of the later blocks.

    Raises:
        UnsupportedModelError: a model whose attention cannot be read.
    """
    tower = tower_of(model)
    heads, by_token = tower.geometry.heads, tower.reader == "class token"
    norms = norms and tower.lacks("sink_patches") is None
    states: list[Tensor] = []
    attended: list[Tensor] = []
    lengths: list[Tensor] = []
    handles: list[Any] = []

    after = partial(_after, tower, states, lengths if norms else None)
    row = partial(_row, attended, heads)
    try:
        for number, block in enumerate(tower.blocks[start or 0 :], start=1 + (start or 0)):
            handles.append(block.register_forward_hook(after))
            if rows and by_token:
                handles += tower.watch(block, on_maps is not None, row)
            if on_maps is not None:
                handles += tower.watch(block, True, _numbered(on_maps, number, heads))
        if rows and tower.reader == "pooling head":
            handles += tower.watch_reader(row)
        if start is None:
            pooled, embedding = tower.run(images, call or as_it_is)
        else:
            pooled, embedding = tower.run_from(images, start, call or as_it_is)
    finally:
        for handle in handles:
            handle.remove()
    return Traced(
        embedding=embedding,
        states=_stacked(states) if states else pooled.new_zeros((0, *pooled.shape)),
        pooled=pooled,
        logits=None if head is None else head(embedding),
        rows=torch.stack(attended) if attended else None,
        norms=torch.stack(lengths) if norms else None,
        first_patch=tower.row_patch,
    )


def _stacked(states: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
    return torch.stack(states) if len({state.shape[-1] for state in states}) == 1 else tuple(states)


def _after(
    tower: Tower,
    states: list[Tensor],
    lengths: list[Tensor] | None,
    _module: nn.Module,
    _inputs: object,
    output: object,
) -> None:
    """A hook on a block: keeps its state and, if asked, the lengths of its tokens."""
    tokens = tower.tokens(output)
    states.append(tower.state(tokens))
    if lengths is not None:
        lengths.append(tokens[:, tower.first_patch :].float().norm(dim=-1))


def _row(attended: list[Tensor], heads: int, queries: Tensor, keys: Tensor) -> None:
    """Keeps the attention of the first query."""
    attended.append(attention_maps(queries[:, :1], keys, heads)[:, :, 0])


def attention_maps(queries: Tensor, keys: Tensor, heads: int, hidden: Tensor | None = None) -> Tensor:
    """Post-softmax attention in float32: queries (B, Q, D), keys (B, T, D) -> (B, H, Q, T).

    Args:
        hidden: (B, T) keys that no query sees.
    """
    width = queries.shape[-1] // heads
    with torch.autocast(queries.device.type, enabled=False):  # autocast would lower the product again
        q = queries.float() * width**-0.5
        if queries.shape[1] == 1:
            # one query: all heads' scores are one product with a block-diagonal matrix, which leaves the
            # keys where they lie and is 3 to 14 times faster on a CPU than a product for each head
            spread = torch.eye(heads, dtype=q.dtype, device=q.device)[:, :, None] * q.unflatten(
                -1, (heads, width)
            )
            scores = (keys.float() @ spread.flatten(-2).transpose(-1, -2)).transpose(-1, -2)[:, :, None]
        else:
            k = keys.float().unflatten(-1, (heads, width)).transpose(1, 2)
            scores = q.unflatten(-1, (heads, width)).transpose(1, 2) @ k.transpose(-1, -2)
        if hidden is not None:
            scores = scores.masked_fill(hidden[:, None, None], -torch.inf)
        return scores.softmax(-1)


def as_it_is(module: nn.Module, *args: object, **kwargs: object) -> Any:
    """Run a module in its own precision."""
    return module(*args, **kwargs)


def _numbered(on_maps: OnMaps, number: int, heads: int) -> Callable[[Tensor, Tensor], None]:
    return lambda queries, keys: on_maps(number, queries, keys, heads)
