"""The test against chance agrees with SciPy's binomial test and with counting."""

from __future__ import annotations

from math import comb

import pytest
from scipy.stats import binomtest

from clipdrift.outcomes.chance import above_chance, chance_p, correct_of


@pytest.mark.parametrize(
    ("correct", "images", "classes"), [(0, 7, 3), (3, 10, 10), (20, 150, 12), (10, 10, 2)]
)
def test_p_is_the_exact_binomial_one(correct: int, images: int, classes: int) -> None:
    p = 1 / classes
    counted = sum(comb(images, k) * p**k * (1 - p) ** (images - k) for k in range(correct, images + 1))
    assert chance_p(correct, images, classes) == pytest.approx(counted)
    assert counted == pytest.approx(binomtest(correct, images, p, alternative="greater").pvalue)


def test_as_many_right_as_guessing_gives_is_not_above_chance() -> None:
    assert not above_chance(10, 100, 10)
    assert not above_chance(14, 100, 10)  # p = 0.12
    assert above_chance(17, 100, 10)  # p = 0.02
    assert above_chance(160, 1000, 10)  # the same share of more images tells more
    assert not above_chance(5, 5, 1)  # one class: nothing can be wrong


@pytest.mark.parametrize("counts", [(-1, 5, 2), (6, 5, 2), (0, 0, 2), (1, 5, 0)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="images right"):
        above_chance(*counts)


@pytest.mark.parametrize("images", [7, 100, 9999])
def test_counts_come_back_from_percent(images: int) -> None:
    assert all(correct_of(100 * k / images, images) == k for k in range(0, images + 1, 7))
