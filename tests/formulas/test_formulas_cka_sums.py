"""CKA from sums must be CKA of all images at once, however they come."""

from __future__ import annotations

import math
from inspect import unwrap

import pytest
import torch
from formula_oracles import gaussians, related
from torch import Tensor

from clipdrift.formulas import CkaSums, cka


def summed(x: Tensor, y: Tensor, size: int) -> CkaSums:
    sums = CkaSums(x.shape[1], y.shape[1])
    for a, b in zip(x.split(size), y.split(size), strict=True):
        sums.update(a, b)
    return sums


def both(n: int, wide: bool) -> tuple[Tensor, Tensor]:
    """Related representations, of widths below or above the number of images."""
    x, y = related(n)
    if wide:
        x, y = x @ gaussians(12, 3 * n, seed=5), y @ gaussians(8, 2 * n, seed=6)
    return x, y


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_sums_give_cka_of_all_images(size: int, debiased: bool, wide: bool, offset: float) -> None:
    """For any batches, with an offset that dwarfs the differences, fewer images than features or more."""
    x, y = both(60, wide)
    x, y = x + offset * gaussians(1, x.shape[1], seed=8), 1e-3 * y - offset
    sums = summed(x, y, size)
    assert sums.images == 60
    value = sums.cka(debiased)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(cka(x, y, debiased).item(), abs=1e-9)
    assert 0.2 < value < 1


@pytest.mark.parametrize("n", [4, 5, 9])
def test_sums_of_few_images(n: int) -> None:
    """Where the corrections of the unbiased estimate are largest, far from 0 and 1."""
    x, y = related(n, seed=n)
    for debiased in (True, False):
        assert summed(x, y, 2).cka(debiased).item() == pytest.approx(cka(x, y, debiased).item(), abs=1e-9)
    assert summed(x[:2], x[:2], 1).cka(debiased=False).item() == pytest.approx(1)


def test_sums_can_be_read_at_any_time() -> None:
    """Reading changes nothing, and later images count; an empty batch does not."""
    x, y = related(90)
    sums = CkaSums(12, 8)
    for part in range(0, 90, 30):
        sums.update(x[part : part + 30], y[part : part + 30])
        sums.update(x[:0], y[:0])
        seen = part + 30
        for _ in range(2):
            assert sums.cka().item() == pytest.approx(cka(x[:seen], y[:seen]).item(), abs=1e-9)
            assert sums.cka(debiased=False).item() == pytest.approx(
                cka(x[:seen], y[:seen], debiased=False).item(), abs=1e-9
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sums_of_low_precision_states(dtype: torch.dtype) -> None:
    """Sums are float64; the same states are still alike to the last digits."""
    x, y = (100 + z for z in related(50))
    x, y = x.to(dtype), y.to(dtype)
    assert summed(x, y, 8).cka().item() == pytest.approx(cka(x, y).item(), abs=1e-9)
    assert summed(x, x, 8).cka().item() == pytest.approx(1, abs=1e-12)


def test_sums_keep_no_graph_and_no_images() -> None:
    """Memory does not grow: neither autograd's graph nor anything of the size of the images is kept."""
    x, y = related(500)
    sums = summed(x.requires_grad_(), y, 50)
    held = [value for value in vars(sums).values() if isinstance(value, Tensor)]
    assert not any(value.requires_grad for value in held)
    assert max(value.numel() for value in held) == 20 * 20
    assert not sums.cka().requires_grad


def test_an_outlier_first_costs_digits_but_no_sense() -> None:
    """The worst shift: the first image, in a batch by itself, a thousand spreads away from all others."""
    x, y = related(60)
    x[0] += 1000
    y[0] -= 1000
    for debiased in (True, False):
        assert summed(x, y, 1).cka(debiased).item() == pytest.approx(cka(x, y, debiased).item(), abs=1e-3)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("scale", [0.0, 0.1, 1234.567, 1e6])
def test_a_constant_side_is_an_error(debiased: bool, size: int, scale: float) -> None:
    """0/0, also where the mean of equal numbers differs from them by rounding."""
    constant = scale * gaussians(1, 16).expand(100, 16)
    other = gaussians(100, 5, seed=3)
    for x, y in ((constant, other), (other, constant), (constant.float(), other.float())):
        with pytest.raises(ValueError, match="same for every image"):
            summed(x, y, size).cka(debiased)


@pytest.mark.parametrize("debiased", [True, False])
def test_differences_in_the_last_bit_are_no_representation(debiased: bool) -> None:
    """What rounding alone makes of a constant is refused by both."""
    x = (1 + gaussians(1, 16).abs()).repeat(100, 1)
    x[gaussians(100, 16, seed=1) > 0] *= 1 + torch.finfo(torch.float64).eps
    y = gaussians(100, 5, seed=3)
    assert len(x.unique(dim=0)) > 50
    for undefined in (lambda: cka(x, y, debiased), lambda: summed(x, y, 30).cka(debiased)):
        with pytest.raises(ValueError, match="same for every image"):
            undefined()


@pytest.mark.parametrize("where", [0, 3, 99])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_single_outlier_among_equals_is_an_error(where: int, size: int) -> None:
    """The unbiased HSIC is exactly 0, in sums rounding of either sign; the biased estimate has a value."""
    x = (1234.567 * gaussians(1, 16)).repeat(100, 1)
    x[where] += gaussians(1, 16, seed=4)[0]
    y = gaussians(100, 5, seed=3)
    sums = summed(x, y, size)
    with pytest.raises(ValueError, match="all but one"):
        sums.cka()
    assert sums.cka(debiased=False).item() == pytest.approx(cka(x, y, debiased=False).item(), abs=1e-9)


def test_sums_refuse_what_cka_refuses() -> None:
    """And a batch that is refused leaves the sums as they were."""
    x, y = related(20)
    sums = summed(x, y, 20)
    value = sums.cka().item()
    for bad in (math.nan, math.inf):
        wrong = y.clone()
        wrong[3, 2] = bad
        with pytest.raises(ValueError, match="nan or inf"):
            sums.update(x, wrong)
    update = unwrap(CkaSums.update)
    with pytest.raises(ValueError, match="got 20 and 19"):
        update(sums, x, y[1:])
    with pytest.raises(ValueError, match="announced were 12 and 8"):
        sums.update(y, x)
    assert sums.images == 20
    assert sums.cka().item() == value
    with pytest.raises(ValueError, match="at least 1"):
        CkaSums(0, 3)
    with pytest.raises(ValueError, match="at least 4 images, got 3"):
        summed(x[:3], y[:3], 2).cka()
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        summed(x[:1], y[:1], 1).cka(debiased=False)
    with pytest.raises(ValueError, match="at least 4 images, got 0"):
        CkaSums(3, 3).cka()


def test_sums_see_a_change() -> None:
    """Positive control: the more noise on one side, the lower."""
    x = gaussians(200, 10)
    noise = gaussians(200, 10, seed=1)
    values = [summed(x, x + level * noise, 64).cka().item() for level in (0.0, 0.3, 1.0, 10.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(1)
    assert values[-1] < 0.1
