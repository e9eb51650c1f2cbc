"""Neighbours and maps against scikit-learn, SciPy's definition by hand, and known answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from clipdrift import formulas
from clipdrift.formulas.maps import PENALTIES


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- neighbours


def test_nearest_are_scikit_learns() -> None:
    """By cosine, whatever the lengths."""
    gallery, queries = drawn(60, 5) * 3, drawn(9, 5, seed=1)
    theirs = NearestNeighbors(metric="cosine").fit(gallery).kneighbors(queries, 7, return_distance=False)
    assert formulas.nearest(formulas.cosines(queries, gallery), 7).tolist() == theirs.tolist()


def test_of_ties_the_first_comes_first() -> None:
    similarity = torch.tensor([[0.5, 0.9, 0.5, 0.9, 0.5]], dtype=torch.float64)
    assert formulas.nearest(similarity, 5).tolist() == [[1, 3, 0, 2, 4]]


def test_overlap_counts_what_both_found() -> None:
    before = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]])
    after = torch.tensor([[3, 2, 1, 0], [0, 9, 8, 3], [0, 1, 2, 3]])
    found = formulas.neighbour_overlap(before, after)
    sets = [len(set(a) & set(b)) / 4 for a, b in zip(before.tolist(), after.tolist(), strict=True)]
    assert found.tolist() == sets == [1.0, 0.5, 0.0]


def test_searches_that_know_nothing_share_what_chance_gives() -> None:
    one, other = (formulas.nearest(drawn(400, 50, seed=seed), 10) for seed in (1, 2))
    assert float(formulas.neighbour_overlap(one, other).mean()) == pytest.approx(10 / 50, abs=0.02)


def test_rank_agreement_counts_pairs() -> None:
    """Pairs in the same order less pairs in the other, over pairs that are not tied."""
    before, after = drawn(4, 13), drawn(4, 13, seed=3)
    after[1] = before[1].exp()  # the same order
    after[2] = -before[2]
    after[3, :6] = after[3, 0]  # ties
    found = formulas.rank_agreement(before, after)
    for one, other, tau in zip(before.numpy(), after.numpy(), found.tolist(), strict=True):
        pairs = list(itertools.combinations(range(13), 2))
        signs = np.array([[np.sign(v[i] - v[j]) for i, j in pairs] for v in (one, other)])
        assert tau == pytest.approx(signs[0] @ signs[1] / np.sqrt(np.prod((signs**2).sum(1))))
    assert found[1:3].tolist() == pytest.approx([1, -1])
    assert formulas.rank_agreement(before[:1], torch.ones(1, 13)).isnan().all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: formulas.cosines(drawn(2, 3), drawn(4, 5)), "different widths: 3 and 5"),
        (lambda: formulas.cosines(torch.zeros(2, 3), drawn(4, 3)), "length zero"),
        (lambda: formulas.cosines(drawn(2, 3), torch.full((4, 3), torch.nan)), "nan or inf"),
        (lambda: formulas.nearest(drawn(2, 3), 4), r"k = 4: must lie in \[1, 3\]"),
        (lambda: formulas.nearest(torch.full((1, 3), torch.inf), 1), "nan or inf"),
        (
            lambda: formulas.neighbour_overlap(torch.ones(2, 3).long(), torch.ones(2, 2).long()),
            "do not fit",
        ),
        (lambda: formulas.rank_agreement(drawn(2, 3), drawn(2, 4)), "do not fit"),
    ],
)
def test_what_has_no_answer_is_refused(call: object, said: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=said):
        call()


# --- maps


def test_ridge_is_the_best_of_its_penalties_by_leaving_one_out() -> None:
    """Each candidate fitted without each pair in turn; the matrix is the closed form's."""
    x = drawn(30, 4) * torch.tensor([3.0, 1.0, 0.3, 0.1], dtype=torch.float64)
    y = x @ drawn(4, 6, seed=1) + 0.8 * drawn(30, 6, seed=2)
    found, penalty = formulas.ridge_map(x, y)
    scale = float((x**2).sum()) / 4

    def error(alpha: float) -> float:
        model = Ridge(alpha=alpha, fit_intercept=False)
        return mean_squared_error(y, cross_val_predict(model, x, y, cv=LeaveOneOut()))

    assert penalty == min((scale * one for one in PENALTIES), key=error)
    assert scale * PENALTIES[0] < penalty < scale * PENALTIES[-1]
    by_hand = torch.linalg.solve(x.T @ x + penalty * torch.eye(4, dtype=torch.float64), x.T @ y)
    assert torch.allclose(found, by_hand, atol=1e-8)


def test_a_map_that_is_there_is_found() -> None:
    """A matrix between different widths by ridge, a rotation by Procrustes."""
    x, matrix = drawn(50, 6), drawn(6, 3, seed=1)
    assert torch.allclose(formulas.ridge_map(x, x @ matrix)[0], matrix, atol=1e-4)
    turn = torch.linalg.qr(drawn(6, 6, seed=2)).Q
    found = formulas.rotation_map(x, x @ turn + 1e-9 * drawn(50, 6, seed=3))
    assert torch.allclose(found, turn, atol=1e-6)


def test_a_rotation_is_orthogonal_and_no_other_is_nearer() -> None:
    x, y = drawn(40, 5), drawn(40, 5, seed=1)
    found = formulas.rotation_map(x, y)
    assert torch.allclose(found @ found.T, torch.eye(5, dtype=torch.float64))
    best = float((x @ found - y).norm())
    others = [torch.linalg.qr(drawn(5, 5, seed=seed)).Q for seed in range(20)]
    assert best < min(float((x @ other - y).norm()) for other in others)
    left, _, right = torch.linalg.svd(x.T @ y)
    assert torch.allclose(found, left @ right)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: formulas.ridge_map(drawn(3, 4), drawn(3, 4)), "3 pairs for vectors of width 4"),
        (lambda: formulas.ridge_map(drawn(5, 4), drawn(6, 4)), "5 and 6 vectors"),
        (lambda: formulas.ridge_map(torch.zeros(5, 4), drawn(5, 4)), "all zero"),
        (lambda: formulas.rotation_map(drawn(9, 4), drawn(9, 3)), "keeps the width, and these are 4 and 3"),
        (lambda: formulas.rotation_map(drawn(3, 4), drawn(3, 4)), "3 pairs"),
        (lambda: formulas.rotation_map(drawn(9, 2), torch.full((9, 2), torch.nan)), "nan or inf"),
    ],
)
def test_a_map_that_cannot_be_fitted_is_refused(call: object, said: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=said):
        call()
