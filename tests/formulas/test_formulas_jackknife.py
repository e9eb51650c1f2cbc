"""CKA with each image left out: against the plain loop, and the coverage of the interval that comes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from clipdrift import formulas
from clipdrift.formulas import leave_one_out_cka

WIDTH = 12
SCALE = torch.arange(1, WIDTH + 1, dtype=torch.float64) ** -1


def draw(count: int, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Gaussian states whose covariances are known, so that the CKA of all images there are is known."""
    before = SCALE * torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    moved = SCALE * torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    return before, before + noise * moved


def true_cka(noise: float) -> float:
    """Of covariances: ``||Sxy||^2 / (||Sxx|| ||Syy||)``; here all are the same up to a factor."""
    return 1 / (1 + noise**2)


def loop(x: Tensor, y: Tensor) -> NDArray[np.float64]:
    every = torch.arange(len(x))
    return np.array([float(formulas.cka(x[every != i], y[every != i])) for i in every])


def test_true_cka_is_what_many_images_give() -> None:
    x, y = draw(4000, 0.7, torch.Generator().manual_seed(0))
    assert float(formulas.cka(x, y)) == pytest.approx(true_cka(0.7), abs=0.02)


@pytest.mark.parametrize(("count", "left", "right"), [(5, 3, 4), (12, 30, 7), (40, 8, 8)])
def test_equals_the_plain_loop(count: int, left: int, right: int) -> None:
    generator = torch.Generator().manual_seed(count)
    x = torch.randn(count, left, generator=generator) + 100
    y = torch.randn(count, right, generator=generator) * 1e-3
    y[:, 0] += 0.01 * x[:, 0]
    np.testing.assert_allclose(leave_one_out_cka(x, y).numpy(), loop(x, y), rtol=1e-8, atol=1e-10)


def test_the_same_on_both_sides_is_one() -> None:
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(leave_one_out_cka(x, 3 * x + 1).numpy(), np.ones(9), atol=1e-9)


def test_refusals() -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="at least 5 images, got 4"):
        leave_one_out_cka(x[:4], x[:4])
    with pytest.raises(ValueError, match="nan or inf"):
        leave_one_out_cka(x, x * torch.nan)
    alone = torch.zeros(6, 3)
    alone[0, 0] = 1
    alone[1, 1] = 1  # without either, all others but one are the same
    with pytest.raises(ValueError, match="undefined"):
        leave_one_out_cka(x, alone)


@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_coverage_of_the_interval(noise: float) -> None:
    """95 % intervals hold the truth in about that share of samples, and errors are as large as they say."""
    generator = torch.Generator().manual_seed(3)
    held, values, errors = 0, [], []
    samples, count = 300, 40
    for _ in range(samples):
        x, y = draw(count, noise, generator)
        value, left = np.arctanh(float(formulas.cka(x, y))), np.arctanh(leave_one_out_cka(x, y).numpy())
        error = float(np.sqrt((count - 1) * left.var()))
        values.append(value)
        errors.append(error)
        held += abs(np.arctanh(true_cka(noise)) - value) <= stats.t.ppf(0.975, count - 1) * error
    assert 0.91 <= held / samples <= 0.985
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)


def test_a_bootstrap_of_images_tells_another_cka() -> None:
    """Why it is not used: an image that is drawn twice is like itself, more so the wider the states."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 200, generator=generator)
    y = torch.randn(30, 200, generator=generator)  # unrelated
    resampled = []
    for _ in range(50):
        chosen = torch.randint(30, (30,), generator=generator)
        resampled.append(float(formulas.cka(x[chosen], y[chosen])))
    assert abs(float(formulas.cka(x, y))) < 0.2
    assert min(resampled) > 0.5
    left = leave_one_out_cka(x, y).numpy()
    assert abs(left.mean()) < 0.2
