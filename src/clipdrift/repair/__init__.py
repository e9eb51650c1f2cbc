"""Repair a fine-tuned model: interpolate to the backbone, rewind blocks, soften intruder dimensions.

This front exports the result and what can be asked, which load no torch. The work is in
:mod:`.interpolating`, :mod:`.rewinding` and :mod:`.softening`.
"""

from clipdrift.repair.arguments import (
    RepairError,
    Wish,
    parse_alphas,
    parse_blocks,
    parse_factors,
    parse_wish,
)
from clipdrift.repair.choice import Choice, check_wish, choose
from clipdrift.repair.result import Repaired, read_repaired
from clipdrift.repair.steps import Kind, Step, Tested

__all__ = [
    "Choice",
    "Kind",
    "RepairError",
    "Repaired",
    "Step",
    "Tested",
    "Wish",
    "check_wish",
    "choose",
    "parse_alphas",
    "parse_blocks",
    "parse_factors",
    "parse_wish",
    "read_repaired",
]
