"""Overlap of two sets of embeddings: the cosine of their covariances, without the bias of few images."""

from __future__ import annotations

import pytest
import torch

from clipdrift.formulas import covariance_overlap


def drawn(count: int, scales: list[float], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, len(scales), generator=generator).double() * torch.tensor(scales).double() + 3


ONE, OTHER = [2.0, 1.0, 0.5, 0.1], [0.3, 1.0, 1.5, 0.1]


def truth() -> float:
    one, other = (torch.tensor(scales).double() ** 2 for scales in (ONE, OTHER))
    return float((one * other).sum() / (one.norm() * other.norm()))


def test_many_images_give_the_cosine_of_the_covariances() -> None:
    x, y = drawn(4000, ONE, 0), drawn(3000, OTHER, 1)
    plain = torch.nn.functional.cosine_similarity(torch.cov(x.T).flatten(), torch.cov(y.T).flatten(), dim=0)
    assert float(covariance_overlap(x, y)) == pytest.approx(float(plain), rel=2e-3)
    assert float(plain) == pytest.approx(truth(), abs=0.03)


def test_its_norms_are_unbiased() -> None:
    """With few images of many equal dimensions the plain cosine is far below its limit of 1."""
    flat = [1.0] * 40
    found = [
        float(covariance_overlap(drawn(30, flat, seed), drawn(30, flat, 100 + seed))) for seed in range(40)
    ]
    assert sum(found) / len(found) == pytest.approx(1, abs=0.05)
    x, y = drawn(30, flat, 0), drawn(30, flat, 100)
    plain = torch.nn.functional.cosine_similarity(torch.cov(x.T).flatten(), torch.cov(y.T).flatten(), dim=0)
    assert plain < 0.6


def test_shift_scale_and_rotation_change_nothing() -> None:
    x, y = drawn(50, ONE, 0), drawn(40, OTHER, 1)
    turn = torch.linalg.qr(drawn(4, ONE, 2))[0]
    expected = float(covariance_overlap(x, y))
    assert float(covariance_overlap((5 * x + 1) @ turn, (y - 2) @ turn)) == pytest.approx(expected)
    assert float(covariance_overlap(y, x)) == pytest.approx(expected)


def test_nothing_in_common() -> None:
    x, y = drawn(200, [1, 1, 0, 0], 0), drawn(200, [0, 0, 1, 1], 1)
    assert abs(float(covariance_overlap(x, y))) < 1e-12


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(5, 3), torch.zeros(5, 4), "different widths"),
        (torch.zeros(3, 3), torch.zeros(5, 3), "at least 4 images"),
        (torch.ones(5, 3), torch.eye(5, 3), "do not vary"),
        (torch.full((5, 3), torch.nan), torch.eye(5, 3), "nan or inf"),
    ],
)
def test_what_it_refuses(x: torch.Tensor, y: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        covariance_overlap(x, y)
