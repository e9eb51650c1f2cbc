"""What comparing two models found: plain data with its tables. Loads no torch."""

from clipdrift.comparison.facts import (
    Compared,
    HeadDrift,
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
    "HeadDrift",
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
