"""Representation measures: the adapted model's states and embeddings against the backbone's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdrift import formulas
from clipdrift.measures.errors import defined
from clipdrift.measures.internals import Internals
from clipdrift.measures.others import compare_others
from clipdrift.measures.states import KeptStates

REPRESENTATION = ("cka", "cka_biased", "cka_embedding", "embedding_drift")

GRAM_IMAGES = 1024
"""Up to so many images CKA is taken from Gram matrices; above, summed over pieces of that size."""


def representation(backbone: Internals, adapted: Internals) -> dict[str, list[float]]:
    """Each measure's value per block, or a single value for those of the embedding.

    Exact for any number of images, in memory that does not grow with it.
    Comparisons of other packages follow.

    Raises:
        MeasureError: where one is undefined, naming measure and block.
    """
    return alike(backbone, adapted) | compare_others(backbone, adapted)


@runtime_checkable
class Represented(Protocol):
    """What a representation is read from: states (N, D) by block and embeddings (N, E) of images or texts."""

    @property
    def states(self) -> KeptStates: ...
    @property
    def embedding(self) -> Tensor: ...


def alike(backbone: Represented, adapted: Represented, whose: str = "") -> dict[str, list[float]]:
    """The measures of ``REPRESENTATION``, in its order, of any tower.

    Args:
        whose: begins the name of each, also in errors; ``text_`` for a text tower.

    Raises:
        MeasureError: where one is undefined, naming measure and block.
    """
    cka, cka_biased, cka_embedding, embedding_drift = (f"{whose}{name}" for name in REPRESENTATION)
    out: dict[str, list[float]] = {cka: [], cka_biased: []}
    for block in range(len(backbone.states)):
        with defined(f"{cka} of block {block + 1}"):
            debiased, biased = _both(backbone.states, adapted.states, block)
        out[cka].append(debiased)
        out[cka_biased].append(biased)
    with defined(f"{whose}embedding"):
        out[cka_embedding] = [_embedding_cka(backbone.embedding, adapted.embedding)]
        out[embedding_drift] = [float(formulas.embedding_drift(backbone.embedding, adapted.embedding))]
    return out


def cka_minibatch(backbone: Internals, adapted: Internals, size: int = 100) -> list[float]:
    """Minibatch CKA of each block: unbiased HSIC terms summed over batches of ``size`` images.

    What a streaming evaluation can have without a second pass; :func:`representation` is exact.

    Raises:
        MeasureError: undefined in a block.
    """
    out = []
    for block in range(len(backbone.states)):
        pairs = list(
            zip(backbone.states.pieces(block, size), adapted.states.pieces(block, size), strict=True)
        )
        with defined(f"minibatch cka of block {block + 1}"):
            out.append(float(formulas.minibatch_cka(pair for pair in pairs if len(pair[0]) >= 4)))
    return out


def cka_matrix(backbone: Internals, adapted: Internals) -> NDArray[np.float64]:
    """(L, L) debiased CKA of every block of the backbone (rows) with every block of the adapted model.

    Up to ``GRAM_IMAGES`` images; of more, that many spread evenly over them are taken.

    Raises:
        MeasureError: undefined in some pair of blocks.
    """
    count = backbone.images
    chosen = torch.linspace(0, count - 1, min(count, GRAM_IMAGES)).round().long()
    before, after = (
        [_picked(kept, block, chosen) for block in range(len(kept))]
        for kept in (backbone.states, adapted.states)
    )
    with defined("cka matrix"):
        return formulas.cka_matrix(before, after).numpy()


def _picked(kept: KeptStates, block: int, chosen: Tensor) -> Tensor:
    parts, start = [], 0
    for piece in kept.pieces(block, GRAM_IMAGES):
        inside = chosen[(chosen >= start) & (chosen < start + len(piece))] - start
        parts.append(piece[inside])
        start += len(piece)
    return torch.cat(parts)


def _both(before: KeptStates, after: KeptStates, block: int) -> tuple[float, float]:
    """Debiased and biased CKA of one block."""
    if before.images <= GRAM_IMAGES:
        x, y = before.block(block), after.block(block)
        debiased, biased = formulas.cka_estimates(x, y)
        return float(debiased), float(biased)
    pieces = zip(before.pieces(block, GRAM_IMAGES), after.pieces(block, GRAM_IMAGES), strict=True)
    return _summed(pieces, before.widths[block], after.widths[block])


def _embedding_cka(before: Tensor, after: Tensor) -> float:
    if len(before) <= GRAM_IMAGES:
        return float(formulas.cka(before, after))
    pieces = zip(before.split(GRAM_IMAGES), after.split(GRAM_IMAGES), strict=True)
    return _summed(pieces, before.shape[1], after.shape[1])[0]


def _summed(pieces: Iterable[tuple[Tensor, Tensor]], width_x: int, width_y: int) -> tuple[float, float]:
    sums = formulas.CkaSums(width_x, width_y)
    for x, y in pieces:
        sums.update(x, y)
    return float(sums.cka()), float(sums.cka(debiased=False))
