"""Correlation with its permutation p-value: exact up to nine values, random orders above."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import rankdata

from clipdrift.analysis.draws import Draws

CorrelationKind = Literal["Pearson", "Spearman"]
EXHAUSTIVE = 9
"""Up to so many values all n! orders are gone through."""
MIN_VALUES = 3
SAME = 1e-10
"""Statistics closer than this count as equal: they differ by rounding, as sums in another order do."""


class UndeterminedError(ValueError):
    """The data do not determine the statistic; the message says why, for the row's note."""


@dataclass(frozen=True)
class Correlation:
    """A correlation in [-1, 1], its two-sided p-value in (0, 1], the number of values, how p was found."""

    value: float
    p: float
    n: int
    method: str


def correlate(
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    kind: CorrelationKind = "Pearson",
    *,
    draws: Draws,
    strata: Sequence[object] | None = None,
) -> Correlation:
    """Correlation of two lists of n values, with a permutation p-value.

    p is the share of orders of ``y`` whose correlation is at least as far from 0 as the one found: of all n!
    orders for n <= 9 (ties count as often as they arise), else of random ones and the one found,
    (b + 1) / (draws + 1), which is never 0 (Phipson and Smyth 2010). Pairs with a nan are left out.

    Args:
        draws: where random orders come from.
        strata: a label per value. Both lists are centred within strata (Spearman: after ranking in them)
            and orders change within strata only.

    Raises:
        UndeterminedError: fewer than three pairs, or a list without variance.
        ValueError: lists of different lengths.
    """
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"two lists of the same length, not {a.shape} and {b.shape}")
    whole = np.isfinite(a) & np.isfinite(b)
    names = np.zeros(len(a), dtype="U1") if strata is None else np.array(list(map(str, strata)), dtype=str)
    labels = np.unique(names[whole], return_inverse=True)[1]
    a, b = a[whole], b[whole]
    n = len(a)
    if n < MIN_VALUES:
        raise UndeterminedError(f"{n} value{'s' if n != 1 else ''}; {MIN_VALUES} are needed")
    a, b = (_centred(_ranked(v, labels) if kind == "Spearman" else v, labels) for v in (a, b))
    size = math.sqrt(float(a @ a) * float(b @ b))
    value = float(np.clip(a @ b / size, -1.0, 1.0))
    limit = abs(value) - SAME
    if labels.max() == 0 and n <= EXHAUSTIVE:
        p = float(np.mean(np.abs(_all_products(a, b)) / size >= limit))
        return Correlation(value, p, n, "exact permutation")
    orders = draws.orders(labels)
    beyond = int(np.sum(np.abs(b[orders] @ a) / size >= limit))
    return Correlation(value, (beyond + 1) / (len(orders) + 1), n, f"permutation, {len(orders)} draws")


def _ranked(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Midranks within labels; SciPy's rankdata takes longer than all else here for a few values."""
    if len(values) > 500:
        out = np.empty_like(values)
        for label in range(labels.max() + 1):
            out[labels == label] = rankdata(values[labels == label])
        return out
    same = labels[:, None] == labels[None, :]
    lower = same & (values[None, :] < values[:, None])
    equal = same & (values[None, :] == values[:, None])
    return lower.sum(axis=1) + 0.5 * equal.sum(axis=1) + 0.5


def _centred(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    out = values - (np.bincount(labels, values) / np.bincount(labels))[labels]
    spread = float(np.sqrt(np.mean(out**2)))
    if spread <= 1e-12 * max(1e-300, float(np.max(np.abs(values)))):
        raise UndeterminedError("no variance")
    return out


def _all_products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum of a times b in all n! orders of b, (splits, h!, (n - h)!).

    An order is a choice of h places of ``b`` for the first h of ``a``, an order of these and one of the rest,
    so n! sums are additions of a few.
    """
    first, rest = _splits(len(a))
    half = first.shape[-1]
    return (b[first] @ a[:half])[:, :, None] + (b[rest] @ a[half:])[:, None, :]


@functools.cache
def _splits(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Every choice of half of 0..n-1, in all its orders, and in the same place all orders of the others."""
    chosen = list(itertools.combinations(range(n), (n + 1) // 2))
    others = [[i for i in range(n) if i not in one] for one in chosen]
    first, rest = ([list(itertools.permutations(one)) for one in side] for side in (chosen, others))
    return np.array(first), np.array(rest)
