"""Retrieval: images among captions and captions among images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import normalize

from clipdrift import formulas
from clipdrift.measures.still import still
from clipdrift.model.clip import Clip
from clipdrift.runs.record import Recall, Retrieval

KS = (1, 5, 10)
"""Numbers of candidates at which recall is told, as far as there are as many."""

_QUERIES = 1024
"""Queries that are compared with all candidates at once; no result depends on it."""
_TEXTS = 256
_RESAMPLES = 1000
_SEED = 0


def embed_texts(clip: Clip, texts: Sequence[str]) -> Tensor:
    """(M, E) projected embeddings of texts by the live text tower, in eval mode and float32, on the CPU."""
    with still(clip.model):
        parts = [clip.texts(texts[i : i + _TEXTS]).float().cpu() for i in range(0, len(texts), _TEXTS)]
    return torch.cat(parts)


def retrieval(images: Tensor, texts: Tensor, captions: Sequence[Sequence[str]]) -> Retrieval:
    """Test images and their captions against each other.

    A caption is right for every image that has one of the same words, as nothing tells them apart.

    Args:
        images: (N, E) embeddings.
        texts: (M, E) embeddings of all captions, those of the first image first.
        captions: of each image, at least one.

    Raises:
        ValueError: numbers that do not fit, embeddings of length zero, nan or inf.
    """
    counts = np.array([len(own) for own in captions])
    if len(counts) != len(images) or counts.sum() != len(texts) or not (counts >= 1).all():
        raise ValueError(f"{len(images)} images and {len(texts)} captions do not fit")
    has, words = _holding(captions)
    to_text, to_image = ranks_both_ways(_unit(images), _unit(texts), captions)
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    shared = np.asarray(has.astype(np.int64).sum(0)).ravel() > 1
    return Retrieval(
        images=len(images),
        captions=len(texts),
        repeated=int(shared[words].sum()),
        image_to_text=_recall(to_text, len(texts), (to_text == 1).astype(float), np.ones(len(images))),
        text_to_image=_recall(
            to_image, len(images), np.add.reduceat((to_image == 1).astype(float), firsts), counts
        ),
    )


def ranks_both_ways(
    images: Tensor, texts: Tensor, captions: Sequence[Sequence[str]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rank of the best match, from 1, of each image (N,) among captions and each caption (M,) among images.

    Args:
        images, texts: (N, E) and (M, E) unit vectors.
        captions: as :func:`retrieval` takes them.
    """
    has, words = _holding(captions)
    to_text = _ranks(images, texts, lambda some: has[some].toarray()[:, words])
    return to_text, _ranks(texts, images, lambda some: has[:, words[some]].toarray().T)


def recall_at(ranks: NDArray[np.int64], candidates: int) -> dict[int, float]:
    """Share of queries whose best match is among the first k of so many candidates, by k."""
    return {k: float((ranks <= k).mean()) for k in KS if k <= candidates}


def _holding(captions: Sequence[Sequence[str]]) -> tuple[csr_array, NDArray[np.int64]]:
    """(N, W) which images have which of W different captions, and (M,) the number of each caption's words."""
    number: dict[str, int] = {}
    words = np.array([number.setdefault(text, len(number)) for own in captions for text in own])
    owner = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
    shape = len(captions), len(number)
    return csr_array((np.ones(len(owner), bool), (owner, words)), shape=shape), words


def _unit(found: Tensor) -> Tensor:
    vectors = found.detach().cpu().double()
    if not torch.isfinite(vectors).all():
        raise ValueError("embeddings contain nan or inf")
    if not (vectors.norm(dim=1) > 0).all():
        raise ValueError("an embedding of length zero has no direction")
    return normalize(vectors, dim=1)


def _ranks(
    queries: Tensor, candidates: Tensor, matching: Callable[[NDArray[np.int64]], NDArray[np.bool_]]
) -> NDArray[np.int64]:
    """(N,) rank of each query's best match; ``matching`` gives (n, M) for some queries."""
    parts = []
    for start in range(0, len(queries), _QUERIES):
        some = np.arange(start, min(start + _QUERIES, len(queries)))
        match = torch.from_numpy(np.ascontiguousarray(matching(some)))
        parts.append(formulas.match_ranks(queries[start : start + _QUERIES] @ candidates.T, match))
    return torch.cat(parts).numpy()


def _recall(
    ranks: NDArray[np.int64], candidates: int, right: NDArray[np.float64], asked: NDArray[np.generic]
) -> Recall:
    """Recall from ranks.

    Args:
        right, asked: (N,) queries of each image that have their match first, and all of them.
    """
    drawn = np.random.default_rng(_SEED).multinomial(
        len(right), np.full(len(right), 1 / len(right)), _RESAMPLES
    )
    shares = 100 * (drawn @ right) / (drawn @ asked.astype(float))
    low, high = np.percentile(shares, (2.5, 97.5))
    return Recall(
        at={k: 100 * share for k, share in recall_at(ranks, candidates).items()},
        median_rank=float(np.median(ranks)),
        interval=(float(low), float(high)),
    )
