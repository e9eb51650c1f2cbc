"""Change of a measure from the backbone to the adapted model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Blocks = Sequence[float] | NDArray[np.float64]
"""One value per block."""


@dataclass(frozen=True)
class Drift:
    """Change of the mean over blocks and of each block, in percent of the backbone's value.

    ``absolute`` marks that the change is given in the measure's own unit instead, because the backbone's
    value is zero somewhere or changes sign over the blocks.
    """

    mean: float
    blocks: tuple[float, ...]
    absolute: bool


def drift(before: Blocks, after: Blocks) -> Drift:
    """``100 (after - before) / before`` of the mean and of every block.

    Args:
        before: (L,) the backbone's value in each block.
        after: (L,) the adapted model's.

    Raises:
        ValueError: different lengths, nan or inf.
    """
    old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if old.shape != new.shape or old.ndim != 1 or not old.size:
        raise ValueError(f"drift needs two lists of blocks of one length, got {old.shape} and {new.shape}")
    if not (np.isfinite(old).all() and np.isfinite(new).all()):
        raise ValueError("drift of nan or inf")
    absolute = bool((old.min() <= 0) and (old.max() >= 0))
    if absolute:
        return Drift(float((new - old).mean()), tuple((new - old).tolist()), True)
    mean = 100 * (new.mean() - old.mean()) / old.mean()
    return Drift(float(mean), tuple((100 * (new - old) / old).tolist()), False)
