"""The space of images and texts: against SciPy and plain loops, properties, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import unwrap

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from torch import Tensor

from clipdrift.formulas import alignment, match_ranks, median_rank, modality_gap, recall_at_k, uniformity


def vectors(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, width)))


def unit(rows: Tensor) -> np.ndarray:
    found = rows.numpy()
    return np.stack([row / math.sqrt(sum(value * value for value in row)) for row in found])


def test_modality_gap_by_hand() -> None:
    images, texts = vectors(40, 6), vectors(25, 6, 1) + 2
    expected = np.sqrt(((unit(images).mean(0) - unit(texts).mean(0)) ** 2).sum())
    assert modality_gap(images, texts).item() == pytest.approx(expected, rel=1e-12)
    assert modality_gap(3 * images, texts / 7).item() == pytest.approx(
        expected, rel=1e-12
    )  # lengths say nothing
    assert modality_gap(texts, images).item() == pytest.approx(expected, rel=1e-12)


def test_the_gap_opens_when_both_kinds_move_apart() -> None:
    """0 for the same vectors, 2 for opposite points, and it grows with a shift."""
    images = vectors(30, 5)
    assert modality_gap(images, images).item() == pytest.approx(0, abs=1e-15)
    one = torch.tensor([[1.0, 0.0]])
    assert modality_gap(one, -one).item() == pytest.approx(2)
    gaps = [modality_gap(images + shift, images - shift).item() for shift in (0.0, 0.5, 1.0, 4.0)]
    assert gaps == sorted(gaps)


def test_alignment_by_hand() -> None:
    images, texts = vectors(17, 4), vectors(17, 4, 1)
    expected = np.mean([((a - b) ** 2).sum() for a, b in zip(unit(images), unit(texts), strict=True)])
    assert alignment(images, texts).item() == pytest.approx(expected, rel=1e-12)
    assert alignment(images, 5 * images).item() == pytest.approx(0, abs=1e-14)
    assert alignment(images, -images).item() == pytest.approx(4)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(0))
    assert alignment(images[order], texts[order]).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [2, 33, 1100])
def test_uniformity_is_scipys_mean_over_pairs(count: int) -> None:
    """More vectors than are taken at once, too."""
    found = vectors(count, 7)
    expected = np.log(np.exp(-2 * pdist(unit(found), "sqeuclidean")).mean())
    assert uniformity(found).item() == pytest.approx(expected, rel=1e-9)


def test_uniformity_falls_as_vectors_spread() -> None:
    """0 where all are one, -8 for two opposite points; a collapse shows."""
    point = torch.ones(5, 3)
    assert uniformity(point).item() == pytest.approx(0, abs=1e-9)
    assert uniformity(torch.tensor([[1.0, 0], [-1.0, 0]])).item() == pytest.approx(-8)
    spread = vectors(60, 8)
    values = [uniformity(spread + shift).item() for shift in (0.0, 1.0, 3.0, 10.0)]
    assert values == sorted(values)


def rank_by_sorting(similarity: Tensor, match: Tensor) -> float:
    """Candidates in falling order, those that do not match first among equals."""
    ranks = []
    for row, right in zip(similarity.tolist(), match.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda i: (-row[i], right[i]))
        ranks.append(1 + next(place for place, i in enumerate(order) if right[i]))
    return float(np.median(ranks))


@pytest.mark.parametrize("count", [9, 10])
def test_median_rank_is_that_of_sorting(count: int) -> None:
    """Several matches a query, and ties."""
    rng = np.random.default_rng(count)
    similarity = torch.from_numpy(rng.integers(0, 12, (count, 30)).astype(float))
    match = torch.from_numpy(rng.random((count, 30)) < 0.15)
    match[torch.arange(count), torch.arange(count)] = True
    found = median_rank(similarity, match).item()
    assert found == rank_by_sorting(similarity, match)
    below = recall_at_k(similarity, match, max(1, math.ceil(found)))
    assert below >= 0.5  # half of the queries have their match by then


def test_median_rank_counts_a_tie_as_a_miss() -> None:
    assert median_rank(torch.zeros(3, 8), torch.eye(3, 8, dtype=torch.bool)).item() == 8
    assert median_rank(torch.eye(4), torch.eye(4, dtype=torch.bool)).item() == 1


@pytest.mark.parametrize(("bad", "why"), [
    (torch.zeros(2, 3), "a vector of length zero"),
    (torch.full((2, 3), torch.nan), "nan or inf"),
    (torch.zeros(0, 3), "a list of vectors is needed"),
])  # fmt: skip
@pytest.mark.parametrize("work", [
    lambda x: modality_gap(x, torch.ones(2, 3)), lambda x: modality_gap(torch.ones(2, 3), x),
    lambda x: alignment(x, torch.ones(len(x), 3)), uniformity,
])  # fmt: skip
def test_what_has_no_direction_is_refused(work: Callable[[Tensor], Tensor], bad: Tensor, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        work(bad)


def test_too_few_and_no_matches_are_refused() -> None:
    """While tests run, annotations tell shapes that do not fit before the formula does."""
    with pytest.raises(ValueError, match="images have 3 dimensions, texts 4"):
        unwrap(modality_gap)(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match="pairs need one shape"):
        unwrap(alignment)(torch.ones(2, 3), torch.ones(3, 3))
    with pytest.raises(ValueError, match="do not fit"):
        unwrap(match_ranks)(torch.ones(2, 3), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least two vectors"):
        uniformity(torch.ones(1, 3))
    with pytest.raises(ValueError, match="do not fit"):
        median_rank(torch.ones(0, 4), torch.ones(0, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="1 of 2 queries have no match"):
        median_rank(torch.ones(2, 2), torch.tensor([[True, False], [False, False]]))
    with pytest.raises(ValueError, match="nan or inf"):
        median_rank(torch.full((1, 1), torch.nan), torch.ones(1, 1, dtype=torch.bool))
