"""Several runs of one backbone in one model: uniform soup, greedy soup, Model Stock.

This front exports the result and what can be asked, which load no torch. The work is in :mod:`.mix`.
"""

from clipdrift.mixing.choice import KINDS, MixRule, parse_mix_rule
from clipdrift.mixing.result import (
    GreedyTry,
    MixAt,
    Mixed,
    MixedRun,
    MixKind,
    StockRatio,
    TaskCosine,
    read_mixed,
)

__all__ = [
    "KINDS",
    "GreedyTry",
    "MixAt",
    "MixKind",
    "MixRule",
    "Mixed",
    "MixedRun",
    "StockRatio",
    "TaskCosine",
    "parse_mix_rule",
    "read_mixed",
]
