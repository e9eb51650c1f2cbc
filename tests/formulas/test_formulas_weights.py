"""Weights before and after, against an oracle, their properties and their errors."""

from __future__ import annotations

import math
from inspect import unwrap

import numpy as np
import pytest
import scipy.linalg
import torch
from formula_oracles import gaussians
from torch import Tensor

from clipdrift.formulas import (
    effective_rank,
    intruder_dimensions,
    intruder_similarity,
    singular_values,
    weight_drift,
)

# --- drift


def test_weight_drift_by_hand() -> None:
    """Over all tensors together, not a mean of ratios: sqrt(9 + 16) / sqrt(4 + 0 + 96)."""
    before = {"a": torch.tensor([2.0, 0.0]), "b": torch.full((2, 3), 4.0)}
    after = {"b": before["b"].clone(), "a": torch.tensor([5.0, 4.0])}
    assert weight_drift(before, after).item() == pytest.approx(5 / 10)
    assert weight_drift(before, before).item() == 0
    assert weight_drift(before, {k: 1.5 * v for k, v in before.items()}).item() == pytest.approx(0.5)
    assert weight_drift(before, {k: -v for k, v in before.items()}).item() == pytest.approx(2)


def test_weight_drift_does_not_depend_on_the_unit() -> None:
    """A relative change has no scale, and half precision weights are summed in float64."""
    before = {"a": gaussians(30, 30).half()}
    after = {"a": (before["a"].double() + 0.1 * gaussians(30, 30, seed=1)).half()}
    expected = ((after["a"].double() - before["a"].double()).norm() / before["a"].double().norm()).item()
    assert weight_drift(before, after).item() == pytest.approx(expected, rel=1e-12)
    scaled = [{"a": 1e4 * side["a"].double()} for side in (before, after)]
    assert weight_drift(*scaled).item() == pytest.approx(expected, rel=1e-12)


def test_weight_drift_refuses_what_does_not_fit() -> None:
    """A name or shape that is on one side only would silently be left out or broadcast."""
    w = {"a": torch.ones(2, 2), "b": torch.ones(1)}
    with pytest.raises(ValueError, match=r"1 names on one side only, for example b"):
        weight_drift(w, {"a": w["a"]})
    with pytest.raises(ValueError, match=r"b: shape \(1,\) before, \(2,\) after"):
        weight_drift(w, w | {"b": torch.ones(2)})
    with pytest.raises(ValueError, match="nan or inf"):
        weight_drift(w, w | {"b": torch.tensor([math.nan])})
    with pytest.raises(ValueError, match="all zero"):
        weight_drift({"a": torch.zeros(2)}, {"a": torch.ones(2)})


# --- spectrum


def with_spectrum(m: int, n: int, values: Tensor, seed: int = 0) -> Tensor:
    """A matrix of random singular vectors and these singular values, as many as the shorter side."""
    left = torch.linalg.qr(gaussians(m, len(values), seed)).Q
    right = torch.linalg.qr(gaussians(n, len(values), seed + 1)).Q
    return (left * values) @ right.T


@pytest.mark.parametrize("shape", [(5, 5), (9, 4), (4, 9), (1, 7), (7, 1)])
def test_singular_values_are_scipys(shape: tuple[int, int]) -> None:
    """Either way round, descending, in float64 whatever comes."""
    matrix = gaussians(*shape)
    expected = scipy.linalg.svdvals(matrix.numpy())
    assert singular_values(matrix).tolist() == pytest.approx(expected.tolist(), abs=1e-12)
    assert singular_values(3 * matrix.T).tolist() == pytest.approx((3 * expected).tolist(), abs=1e-12)
    half = singular_values(matrix.half())
    assert half.dtype == torch.float64
    assert half.tolist() == pytest.approx(expected.tolist(), rel=1e-2)


def test_singular_values_refuse_what_has_none() -> None:
    """LAPACK may hang, fail or answer on nan."""
    for bad in (math.nan, math.inf):
        matrix = gaussians(4, 3)
        matrix[1, 2] = bad
        with pytest.raises(ValueError, match="nan or inf"):
            singular_values(matrix)
    with pytest.raises(ValueError, match="is empty"):
        singular_values(torch.ones(0, 3))


def test_effective_rank_is_roy_and_vetterlis() -> None:
    """exp of the entropy of the normalised singular values, by NumPy."""
    values = scipy.linalg.svdvals(gaussians(12, 7).numpy())
    p = values / values.sum()
    expected = math.exp(-(p * np.log(p)).sum())
    assert effective_rank(singular_values(gaussians(12, 7))).item() == pytest.approx(expected)


@pytest.mark.parametrize("rank", [1, 2, 8])
def test_effective_rank_of_equal_singular_values_is_the_rank(rank: int) -> None:
    """The ends of its range, through a whole matrix; neither size nor rotation counts."""
    change = with_spectrum(12, 8, torch.ones(rank).double())
    for scale in (1e-12, 1.0, 1e12):
        assert effective_rank(singular_values(scale * change)).item() == pytest.approx(rank, abs=1e-6)


def test_effective_rank_sees_the_spectrum_flatten() -> None:
    """Positive control: between 1 and k, rising as weaker directions grow."""
    ranks = [effective_rank(torch.tensor([1.0, e, e, e])).item() for e in (0.0, 0.01, 0.1, 0.5, 1.0)]
    assert ranks == sorted(ranks)
    assert ranks[0] == pytest.approx(1)
    assert ranks[-1] == pytest.approx(4)
    values = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(effective_rank, (values,))


def test_effective_rank_refuses_what_has_no_spectrum() -> None:
    """A matrix that did not change has no effective rank, least of all 1."""
    with pytest.raises(ValueError, match="zeros"):
        effective_rank(torch.zeros(3))
    with pytest.raises(ValueError, match="zeros"):
        effective_rank(torch.zeros(0))
    for bad in (math.nan, math.inf, -1.0):
        with pytest.raises(ValueError, match="finite and not negative"):
            effective_rank(torch.tensor([1.0, bad]))


# --- intruders

SHAPES = [(30, 30), (50, 20), (20, 50)]


def numpy_similarity(before: Tensor, after: Tensor) -> list[float]:
    """By a singular value decomposition of both, vector by vector."""
    known, found = (np.linalg.svd(w.numpy(), full_matrices=False)[0] for w in (before, after))
    return [max(abs(float(u @ v)) for u in known.T) for v in found.T]


@pytest.mark.parametrize("shape", SHAPES)
def test_intruder_similarity_is_numpys(shape: tuple[int, int]) -> None:
    """By NumPy's decomposition; counted below any threshold, among any number of directions."""
    before = gaussians(*shape)
    after = before + 0.3 * gaussians(*shape, seed=1)
    expected = numpy_similarity(before, after)
    assert intruder_similarity(before, after).tolist() == pytest.approx(expected, abs=1e-9)
    assert intruder_similarity(before, after, top=7).tolist() == pytest.approx(expected[:7], abs=1e-9)
    for threshold in (0.3, 0.5, 0.9):
        for top in (None, 1, 10):
            count = sum(value < threshold for value in expected[:top])
            assert intruder_dimensions(before, after, threshold, top) == count
    assert 0 < intruder_dimensions(before, after, 0.8) < min(shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_no_change_no_intruder(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """The same directions are the same, whatever the size and precision of the weights."""
    before = with_spectrum(*shape, torch.logspace(1, -1, min(shape)).double()).to(dtype)
    similarity = intruder_similarity(before, before)
    assert similarity.dtype == torch.float64
    assert similarity.tolist() == pytest.approx([1] * min(shape), abs=1e-9)
    assert intruder_dimensions(before, before) == 0
    assert intruder_dimensions(1e-30 * before.double(), -1e30 * before.double(), threshold=0.999) == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_a_stronger_direction_is_no_intruder(shape: tuple[int, int]) -> None:
    """Full fine-tuning mostly reweights: the same directions in another order are no intruders."""
    values = torch.logspace(1, -1, 20).double()
    before = with_spectrum(*shape, values)
    reordered = with_spectrum(*shape, values[torch.randperm(20, generator=torch.Generator().manual_seed(0))])
    assert intruder_dimensions(before, reordered, threshold=0.999) == 0


@pytest.mark.parametrize("shape", [(200, 200), (300, 100), (100, 300)])
@pytest.mark.parametrize("count", [1, 3])
def test_new_strong_directions_are_intruders(shape: tuple[int, int], count: int) -> None:
    """Positive control: as many strong random directions as were added, first in the spectrum."""
    before = with_spectrum(*shape, torch.logspace(1, -1, 20).double())
    added = with_spectrum(*shape, 100 + torch.arange(count).double(), seed=7)
    assert intruder_dimensions(before, before + added, top=10) == count
    similarity = intruder_similarity(before, before + added, top=10)
    assert (similarity[:count] < 0.4).all()
    assert (similarity[count:] > 0.7).all()
    assert intruder_dimensions(before, before + 1e-4 * added, top=10) == 0


def test_rotation_of_the_input_side_is_no_intruder() -> None:
    """Left singular vectors know nothing of the right ones."""
    before = gaussians(30, 20)
    rotation = torch.linalg.qr(gaussians(20, 20, seed=3)).Q
    assert intruder_dimensions(before, before @ rotation, threshold=0.999) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_directions_of_zero_strength_are_no_evidence(dtype: torch.dtype) -> None:
    """Arbitrary vectors of a null space count neither as found in ``after`` nor as known in ``before``."""
    for shape in ((40, 30), (30, 40), (30, 30)):
        low = with_spectrum(*shape, torch.tensor([5.0, 4.0, 3.0]).double())
        similarity = intruder_similarity(low.to(dtype), low.to(dtype))
        assert similarity.tolist() == pytest.approx([1] * 3, abs=1e-6)
        assert intruder_dimensions(gaussians(*shape), low.to(dtype), threshold=1.0) == 3
    left = torch.eye(40, dtype=dtype)
    new = torch.outer(left[9], torch.ones(30, dtype=dtype))
    before = torch.outer(left[0], gaussians(1, 30)[0].to(dtype))
    assert intruder_similarity(before, before + 9 * new).tolist() == pytest.approx([0, 1], abs=0.1)
    assert intruder_dimensions(before, new) == 1


def test_intruders_need_two_matrices_that_fit() -> None:
    """Errors of shapes, arguments and values."""
    matrix = gaussians(4, 3)
    with pytest.raises(ValueError, match="do not fit"):
        unwrap(intruder_similarity)(matrix, matrix.T)
    for top in (0, -1):
        with pytest.raises(ValueError, match="top = "):
            intruder_dimensions(matrix, matrix, top=top)
    for threshold in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="threshold = "):
            intruder_dimensions(matrix, matrix, threshold)
    for before, after in ((matrix, math.nan * matrix), (math.inf * matrix, matrix)):
        with pytest.raises(ValueError, match="nan or inf"):
            intruder_similarity(before, after)
    for before, after in ((matrix, 0 * matrix), (0 * matrix, matrix)):
        with pytest.raises(ValueError, match="zeros"):
            intruder_similarity(before, after)
