"""Cosines of task vectors and Model Stock's ratio, held against numpy and plane geometry."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from clipdrift.formulas import model_stock_ratio, task_vector_cosine

SHAPES = {"a": (5, 7), "b": (3,)}


def weights(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def flat(found: dict[str, Tensor]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.concatenate([found[name].double().numpy().ravel() for name in SHAPES])


def test_the_cosine_is_numpys_over_all_tensors_together() -> None:
    """One long vector, not a mean of cosines."""
    base, one, two = weights(0), weights(1), weights(2)
    first, second = flat(one) - flat(base), flat(two) - flat(base)
    wanted = first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
    assert task_vector_cosine(base, one, two).item() == pytest.approx(wanted, rel=1e-12)
    assert task_vector_cosine(base, two, one) == task_vector_cosine(base, one, two)


def test_how_far_does_not_matter_and_which_way_does() -> None:
    """1 for a step twice as long, -1 for the opposite one."""
    base, one = weights(0), weights(1)
    for factor, wanted in ((2.0, 1.0), (0.1, 1.0), (-1.0, -1.0)):
        other = {name: base[name] + factor * (one[name] - base[name]) for name in base}
        assert task_vector_cosine(base, one, other).item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: {"a": w["a"]}, "1 names are not on all sides, for example b"),
        (lambda w: w | {"b": torch.ones(4)}, r"b: shapes \(3,\), \(3,\) and \(4,\)"),
        (lambda w: w | {"b": torch.tensor([math.nan, 0, 0])}, "nan or inf"),
        (lambda w: weights(0), "has no direction"),
    ],
)
def test_what_has_no_cosine_is_refused(change: object, said: str) -> None:
    """By name."""
    with pytest.raises(ValueError, match=said):
        task_vector_cosine(weights(0), weights(1), change(weights(1)))  # type: ignore[operator]


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("cosine", [0.9, 0.3, 0.02])
def test_the_ratio_is_the_foot_of_a_perpendicular(count: int, cosine: float) -> None:
    """The centre whose foot it is, built beside unit vectors of one angle, sees all of them and the backbone
    at right angles to each other, which is what the publication assumes."""
    gram = np.full((count, count), cosine) + (1 - cosine) * np.eye(count)
    vectors = np.hstack([np.linalg.cholesky(gram), np.zeros((count, 1))])  # the backbone is 0
    ratio = model_stock_ratio(torch.tensor(cosine, dtype=torch.float64), count).item()
    centre = ratio * vectors.mean(0)
    centre[-1] = math.sqrt(cosine - centre @ centre)
    from_centre = np.vstack([vectors, np.zeros(count + 1)]) - centre
    angles = from_centre @ from_centre.T
    assert angles[~np.eye(count + 1, dtype=bool)] == pytest.approx(0, abs=1e-12)


def test_the_ratio_at_its_ends() -> None:
    """1 for one direction, 0 for right angles and below: never backwards; 2/3 for 60 degrees."""
    found = model_stock_ratio(torch.tensor([1.0, 0.5, 0.0, -0.4, -1.0], dtype=torch.float64), 2)
    assert found.tolist() == pytest.approx([1, 2 / 3, 0, 0, 0])


def test_ratios_that_cannot_be_are_refused() -> None:
    """One model alone, and numbers that are no cosines."""
    with pytest.raises(ValueError, match="count = 1"):
        model_stock_ratio(torch.tensor(0.5), 1)
    with pytest.raises(ValueError, match="cosines must lie"):
        model_stock_ratio(torch.tensor([0.5, math.nan]), 2)
