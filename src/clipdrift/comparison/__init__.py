"""Compare any two checkpoints: open, measure, lay side by side.

This front exports the result, plain data that loads no torch; the work starts in :mod:`.compare`.
"""

from clipdrift.comparison.facts import (
    BesideRow,
    Compared,
    CrossedTowers,
    HeadDrift,
    HeadRow,
    JointSpace,
    ProbeImages,
    Retrieval,
    Sensitivity,
    Shape,
    Side,
    SpectrumRow,
    Subsets,
    TextTowers,
    TransferRow,
)
from clipdrift.comparison.index_facts import IndexMemory
from clipdrift.comparison.result import AT_ONE, FAMILIES, Comparison, ComparisonError, read_comparison

__all__ = [
    "AT_ONE",
    "FAMILIES",
    "BesideRow",
    "Compared",
    "Comparison",
    "ComparisonError",
    "CrossedTowers",
    "HeadDrift",
    "HeadRow",
    "IndexMemory",
    "JointSpace",
    "ProbeImages",
    "Retrieval",
    "Sensitivity",
    "Shape",
    "Side",
    "SpectrumRow",
    "Subsets",
    "TextTowers",
    "TransferRow",
    "read_comparison",
]
