"""Compare any two checkpoints: open, measure, lay side by side.

This front exports the result, plain data that loads no torch; the work starts in :mod:`.compare`.
"""

from clipdrift.comparison.facts import (
    Compared,
    CrossedTowers,
    HeadDrift,
    JointSpace,
    ProbeImages,
    Retrieval,
    Sensitivity,
    Shape,
    Side,
    SpectrumRow,
    Subsets,
    TransferRow,
)
from clipdrift.comparison.result import FAMILIES, Comparison, ComparisonError, read_comparison

__all__ = [
    "FAMILIES",
    "Compared",
    "Comparison",
    "ComparisonError",
    "CrossedTowers",
    "HeadDrift",
    "JointSpace",
    "ProbeImages",
    "Retrieval",
    "Sensitivity",
    "Shape",
    "Side",
    "SpectrumRow",
    "Subsets",
    "TransferRow",
    "read_comparison",
]
