"""Bootstrap over images: intervals of means and of what follows from means. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES = 4000
_LEVEL = 0.95
_NUMBERS = 4_000_000
"""Draws that are held at once."""


def resampled(
    columns: Array, statistic: Callable[[Array], Array], seed: int, count: int = RESAMPLES
) -> Array:
    """A statistic of the means over images, in ``count`` resamples of the images.

    Images are drawn whole: the columns of an image stay together, so values before and after are paired.

    Args:
        columns: (N, k) values of N images.
        statistic: (m, k) means of m resamples -> (m,).
        seed: same seed, same draws.
    """
    n = len(columns)
    generator = np.random.default_rng(seed)
    step = max(1, _NUMBERS // n)
    found = []
    for start in range(0, count, step):
        counts = generator.multinomial(n, np.full(n, 1 / n), size=min(step, count - start))
        found.append(statistic(counts @ columns / n))
    return np.concatenate(found)


def percentiles(draws: Array) -> tuple[float, float]:
    """The 95 % percentile interval, of the draws that are defined."""
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(draws[np.isfinite(draws)], [tail, 1 - tail])
    return float(low), float(high)


def unseen(images: int) -> float:
    """The largest share that what none of so many images showed may have: exact, at 97.5 %."""
    return float(1 - ((1 - _LEVEL) / 2) ** (1 / images))
