"""Random orders and resamples, shared by all tests of the same shape."""

from __future__ import annotations

import numpy as np

ORDERS = 9999
RESAMPLES = 2000
MOST = 20_000_000
"""Numbers kept for one shape of test; beyond some 2,000 values there are fewer orders."""


class Draws:
    """A generator and what it has drawn.

    Tests of one question on the same number of values share their orders, and those on the same cells their
    resamples. Each test by itself is as good as with draws of its own; their errors by chance are not
    independent of each other.

    Args:
        rng: where the draws come from.
        orders: random orders of a permutation test.
        resamples: resamples of a bootstrap.
    """

    def __init__(self, rng: np.random.Generator, orders: int = ORDERS, resamples: int = RESAMPLES) -> None:
        self.resamples = resamples
        self._count = orders
        self._rng = rng
        self._orders: dict[bytes, np.ndarray] = {}
        self._weights: dict[tuple[bytes, bytes], np.ndarray] = {}

    def orders(self, labels: np.ndarray) -> np.ndarray:
        """Random orders of n values that keep each within its label: (orders, n) of indices.

        There are fewer orders of very many values.

        Args:
            labels: (n,) of integers.
        """
        key = labels.tobytes()
        if key not in self._orders:
            count = max(1, min(self._count, MOST // len(labels)))
            found = np.tile(np.arange(len(labels)), (count, 1))
            for label in np.unique(labels):
                group = np.flatnonzero(labels == label)
                found[:, group] = self._rng.permuted(found[:, group], axis=1)
            self._orders[key] = found
        return self._orders[key]

    def weights(self, unit: np.ndarray, stratum: np.ndarray) -> np.ndarray:
        """Count how often each of n values occurs when whole units are drawn with replacement: (resamples,
        n).

        Args:
            unit: (n,) of integers from 0, the unit of each value.
            stratum: (units,) of integers; units are drawn within strata, as many as there are.
        """
        key = (unit.tobytes(), stratum.tobytes())
        if key not in self._weights:
            counts = np.zeros((self.resamples, len(stratum)))
            for one in np.unique(stratum):
                group = np.flatnonzero(stratum == one)
                even = np.full(len(group), 1 / len(group))
                counts[:, group] = self._rng.multinomial(len(group), even, size=self.resamples)
            self._weights[key] = counts[:, unit]
        return self._weights[key]
