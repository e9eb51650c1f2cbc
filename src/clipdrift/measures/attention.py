"""Attention measures: from the CLS rows of one block to one number per image, averaged over heads."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from clipdrift import formulas

ATTENTION: dict[str, Callable[[Tensor], Tensor]] = {
    "entropy": lambda rows: formulas.entropy(rows).mean(-1),
    "erf95": lambda rows: formulas.effective_receptive_field(rows, 0.95).mean(-1),
    "gini": lambda rows: formulas.gini(rows).mean(-1),
    "head_diversity": formulas.head_diversity,
}
"""Each takes the rows of one block over patches (B, H, P) and returns (B,)."""
