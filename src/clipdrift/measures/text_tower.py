"""Measures of the text tower: attention of the token that a text is pooled at, representation, weights.

Attention is taken over a text's words: without the start token, a sink that takes its share whatever the text
says and is told by itself; without the pooled token, as the class token's attention to
itself is left out; and without padding. Texts differ in length, so those of one length are read together, and
no value comes from a place that another text has and this one lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdrift.measures.attention import ATTENTION, BlockRows
from clipdrift.measures.errors import NotFiniteError, defined
from clipdrift.measures.readings import Reading, drifted, reading_of, tower_readings
from clipdrift.measures.representation import alike
from clipdrift.measures.states import KeptStates
from clipdrift.measures.still import in_float32, still
from clipdrift.measures.weights import TEXT_TOWER
from clipdrift.model.base import Clip
from clipdrift.model.text_trace import TracedTexts, trace_texts
from clipdrift.model.towers import text_tower_of
from clipdrift.model.towers.base import per_pass
from clipdrift.model.towers.text import Prompt
from clipdrift.shapes import Embedding

LEAST_WORDS = 2
"""Over fewer there is no distribution: ln 1 = 0."""

OVER_WORDS = ("entropy", "normalised_entropy", "erf95", "gini", "head_diversity")
"""Measures of attention that a text tower has too, over words in place of patches."""

START_SHARE = "text_start_share"


@dataclass(frozen=True, eq=False)
class TextInternals:
    """A text tower on M texts.

    Attributes:
        attention: for each measure (K, L) per text and block, float64, of the K texts that have two words or
            more, in their order; empty where none has. ``text_start_share`` only where the tokenizer puts a
            start token, ``text_head_diversity`` only where a block has several heads.
        heads: the same, (L, H) mean over those texts.
        states: (L, M, D) state of the pooled token after each block, before the final layer norm, float32.
        embedding: (M, E) projected embeddings, not normalised, float32, on the CPU.
        words: (M,) number of words, in tokens, of each text.
    """

    attention: dict[str, NDArray[np.float64]]
    heads: dict[str, NDArray[np.float64]]
    states: KeptStates
    embedding: Embedding
    words: NDArray[np.int64]

    @property
    def texts(self) -> int:
        return len(self.embedding)

    @property
    def short(self) -> int:
        """Texts that measures of attention leave out: those of fewer than two words."""
        return int((self.words < LEAST_WORDS).sum())

    def blocks(self, measure: str) -> NDArray[np.float64]:
        """(L,) mean over texts of a measure of attention in each block."""
        return np.asarray(self.attention[measure].mean(axis=0))


def read_texts(
    clip: Clip,
    texts: Sequence[str],
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TextInternals:
    """Run texts through the text tower in float32 and eval mode; no value depends on ``batch_size``.

    The model is left as it was: modes, hooks, gradients, random numbers. Memory grows with the number of
    texts: 4 L D bytes each, 24 KiB in ViT-B/32's text tower.

    Args:
        clip: its model's text tower and its tokenizer are used as they are.
        texts: cut to as many tokens as the tower takes.
        batch_size: texts per pass; none: some 4,096 tokens.
        progress: told after each pass how many texts of how many are done.

    Raises:
        UnsupportedModelError: a model whose text tower cannot be read.
        MeasureError: nan or inf in attention, a state or an embedding.
        ValueError: no texts.
    """
    if not texts:
        raise ValueError("there are no texts")
    tower = text_tower_of(clip.model)
    device = next(tower.model.parameters()).device
    prompts = tower.prompts(clip.tokenizer, texts)
    states: list[Tensor] = [torch.empty(0)] * len(texts)
    embedding: list[Tensor] = [torch.empty(0)] * len(texts)
    values: dict[str, dict[int, Tensor]] = {}
    done = 0
    with still(tower.model):
        for positions in _batches(prompts, batch_size, device):
            ids = torch.tensor([prompts[i].ids for i in positions], device=device)
            seen = trace_texts(tower, ids, in_float32)
            _check(seen)
            for name, found in _attention(seen, prompts[positions[0]]).items():
                values.setdefault(name, {}).update(zip(positions, found.cpu(), strict=True))
            for i, state, embedded in zip(
                positions, seen.states.unbind(1), seen.embedding.float().cpu(), strict=True
            ):
                states[i], embedding[i] = state.float().cpu(), embedded
            done += len(positions)
            if progress:
                progress(done, len(texts))
    kept = KeptStates()
    kept.add(torch.stack(states, dim=1))
    single = {name: torch.stack([of[i] for i in sorted(of)]) for name, of in values.items()}  # (K, L, H)
    return TextInternals(
        attention={name: found.mean(-1).numpy() for name, found in single.items()},
        heads={name: found.mean(0).numpy() for name, found in single.items()},
        states=kept,
        embedding=torch.stack(embedding),
        words=np.array([prompt.length for prompt in prompts]),
    )


def _batches(prompts: Sequence[Prompt], batch_size: int | None, device: torch.device) -> Iterator[list[int]]:
    """Positions of texts that pass together: those with as many tokens, and with words at the same places."""
    groups: dict[tuple[int, bool, int], list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault((len(prompt.ids), prompt.start, prompt.words), []).append(i)
    for (tokens, *_), positions in groups.items():
        size = per_pass(tokens, device) if batch_size is None else batch_size
        for first in range(0, len(positions), size):
            yield positions[first : first + size]


def _attention(seen: TracedTexts, prompt: Prompt) -> dict[str, Tensor]:
    """Every measure of attention, (B, L, H) float64 each; none where there are too few words."""
    if prompt.length < LEAST_WORDS:
        return {}
    columns: dict[str, list[Tensor]] = {}
    for block, rows in enumerate(seen.rows.double(), start=1):
        view = BlockRows(rows[..., prompt.span], None)
        for name in OVER_WORDS if rows.shape[1] > 1 else OVER_WORDS[:-1]:
            with defined(f"text_{name} of block {block}"):
                columns.setdefault(f"text_{name}", []).append(ATTENTION[name](view))
        if prompt.start:
            columns.setdefault(START_SHARE, []).append(rows[..., 0])
    return {name: torch.stack(parts, dim=1) for name, parts in columns.items()}


def _check(seen: TracedTexts) -> None:
    for block, (state, rows) in enumerate(zip(seen.states, seen.rows, strict=True), start=1):
        if not torch.isfinite(rows).all():
            raise NotFiniteError(f"text attention of block {block} contains nan or inf")
        if not torch.isfinite(state).all():
            raise NotFiniteError(f"state of the pooled token after block {block} contains nan or inf")
    if not torch.isfinite(seen.embedding).all():
        raise NotFiniteError("the text embedding contains nan or inf")


def text_readings(
    before: TextInternals,
    after: TextInternals,
    weights_before: Mapping[str, Tensor],
    weights_after: Mapping[str, Tensor],
) -> dict[str, Reading]:
    """Every measure of one text tower against another, in the order of tables.

    Args:
        before, after: of the same texts, four or more.
        weights_before, weights_after: as :func:`clipdrift.model.weights.text_weights` names them.

    Raises:
        MeasureError: undefined, naming measure and block; weights that do not fit.
    """
    found = {
        name: drifted(before.blocks(name), after.blocks(name))
        for name in after.attention
        if name in before.attention
    }
    representation = alike(before, after, "text_")
    del representation["text_cka_biased"]  # near 1 for texts as few as there are
    found |= {name: reading_of(values) for name, values in representation.items()}
    return found | text_weight_readings(weights_before, weights_after)


def text_weight_readings(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Reading]:
    """Read how far the text tower's weights have moved: as a whole, by block, and the projection's."""
    moved = tower_readings(before, after, TEXT_TOWER)
    return {f"text_{name}": reading for name, reading in moved.items()}
