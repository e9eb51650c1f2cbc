"""Penalties on the text tower: each compares the batch's captions with what the backbone makes of them.

Attention is that of the pooled token over a caption's words, as in :mod:`clipdrift.measures.text_tower`.
Means are over all captions of a batch, so that a batch in parts has the same; one of fewer than two words,
over which there is no distribution, adds nothing to a penalty on attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from clipdrift import formulas
from clipdrift.adapt.adapted import Adapted
from clipdrift.adapt.reference import Wants
from clipdrift.adapt.tower_parts import copied_tower
from clipdrift.config import Apr, EntropyFloor, Ldifs
from clipdrift.measures.text_tower import LEAST_WORDS
from clipdrift.model.modes import in_eval_mode
from clipdrift.model.text_trace import TracedCaptions, trace_captions
from clipdrift.model.towers import text_tower_of
from clipdrift.model.towers.text import Prompt


@runtime_checkable
class TextTerm(Protocol):
    """One penalty on the text tower, ready to be added to the loss; not yet multiplied by its weight."""

    @property
    def wants(self) -> Wants:
        """Inputs that the term needs of a batch's captions."""
        ...

    @property
    def compares(self) -> bool:
        """Whether it needs the backbone's side too."""
        ...

    def __call__(self, seen: TracedCaptions, backbone: TracedCaptions | None) -> Tensor:
        """Scalar in float32.

        Args:
            seen: the batch's captions by the model as it is.
            backbone: the same by the backbone, where some term compares.
        """
        ...


class TextReference:
    """The backbone's text tower on the captions of a batch.

    It is run anew each time: an image has another caption in each epoch, so that little would be found again,
    and a training that goes on has nothing to restore. Where adapters can be switched off the live model is
    its own backbone; otherwise a frozen copy of the text tower is held, made before training.
    """

    def __init__(self, adapted: Adapted) -> None:
        self._adapted = adapted
        self._copy: Any = None
        if adapted.peft is None:
            self._copy = copied_tower(adapted.clip, "text")

    @torch.no_grad()
    def of(self, prompts: Sequence[Prompt], rows: bool) -> TracedCaptions:
        model = self._adapted.clip.model
        with torch.autocast(self._adapted.clip.device.type, enabled=False):
            if self._adapted.peft is None:
                return trace_captions(text_tower_of(self._copy), prompts, rows)
            with in_eval_mode(model), self._adapted.peft.disable_adapter():
                return trace_captions(text_tower_of(model), prompts, rows)


def _chosen(blocks: tuple[int, ...] | None, count: int) -> list[int]:
    """Positions of the blocks that a penalty is taken over."""
    return [block - 1 for block in blocks or range(1, count + 1)]


def _over_words(seen: TracedCaptions, blocks: list[int]) -> Tensor:
    """(l, K, H, T) attention over words alone, not renormalised, of the K captions that have two or more."""
    assert seen.rows is not None
    enough = seen.words.sum(1) >= LEAST_WORDS
    return seen.rows[blocks][:, enough] * seen.words[enough][:, None]


@dataclass(frozen=True)
class TextApr:
    """KL of attention over words from the backbone's, mean over blocks, heads and captions."""

    options: Apr
    blocks: int
    wants = Wants(rows=True)
    compares = True

    def __call__(self, seen: TracedCaptions, backbone: TracedCaptions | None) -> Tensor:
        assert backbone is not None
        blocks = _chosen(self.options.blocks, self.blocks)
        now, before = _over_words(seen, blocks), _over_words(backbone, blocks)
        if not now.shape[1]:
            return seen.embedding.new_zeros((), dtype=torch.float32)
        return formulas.attention_kl(now, before).mean((0, 2)).sum() / len(seen.words)


@dataclass(frozen=True)
class TextEntropyFloor:
    """Hinge on the entropy over a caption's n words below ``floor`` x ln n, summed over blocks.

    Attributes:
        floors: (L) the least normalised entropy of each block.
        frozen: so many blocks are not trained.
    """

    options: EntropyFloor
    floors: tuple[float, ...]
    frozen: int
    wants = Wants(rows=True)
    compares = False

    def __call__(self, seen: TracedCaptions, backbone: TracedCaptions | None) -> Tensor:
        blocks = [i for i in _chosen(self.options.blocks, len(self.floors)) if i >= self.frozen]
        rows = _over_words(seen, blocks) if blocks else None
        if rows is None or not rows.shape[1]:
            return seen.embedding.new_zeros((), dtype=torch.float32)
        entropy = formulas.entropy(rows)  # (l, K, H)
        words = seen.words.sum(1)
        most = words[words >= LEAST_WORDS].to(entropy.dtype).log()
        floors = entropy.new_tensor([self.floors[i] for i in blocks])[:, None] * most
        return (floors[..., None] - entropy).clamp_min(0).mean(2).sum() / len(words)


@dataclass(frozen=True)
class TextLdifs:
    """Squared distance of the pooled token's states, summed over blocks, and of the embedding."""

    options: Ldifs
    blocks: int
    wants = Wants(states=True, embedding=True)
    compares = True

    def __call__(self, seen: TracedCaptions, backbone: TracedCaptions | None) -> Tensor:
        assert backbone is not None
        blocks = _chosen(self.options.blocks, self.blocks)
        states = seen.states[blocks].float() - backbone.states[blocks].float()
        embedding = seen.embedding.float() - backbone.embedding.float()
        return states.square().sum(-1).mean(1).sum() + embedding.square().sum(-1).mean()
