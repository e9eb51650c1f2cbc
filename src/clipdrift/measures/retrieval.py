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
    number: dict[str, int] = {}
    words = np.array([number.setdefault(text, len(number)) for own in captions for text in own])
    owner = np.repeat(np.arange(len(images)), counts)
    has = csr_array((np.ones(len(owner), bool), (owner, words)), shape=(len(images), len(number)))
    left, right = (_unit(found) for found in (images, texts))
    to_text = _ranks(left, right, lambda some: has[some].toarray()[:, words])
    to_image = _ranks(right, left, lambda some: has[:, words[some]].toarray().T)
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
        at={k: 100 * float((ranks <= k).mean()) for k in KS if k <= candidates},
        median_rank=float(np.median(ranks)),
        interval=(float(low), float(high)),
    )
