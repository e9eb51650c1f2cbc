"""Repair a fine-tuned model: interpolate to the backbone, rewind blocks, soften intruder dimensions.

This front exports the result and what can be asked, which load no torch. The work is in
:mod:`.interpolating`, :mod:`.rewinding` and :mod:`.softening`.
"""

from clipdrift.repair.arguments import (
    AlphaRule,
    RepairError,
    parse_alpha_rule,
    parse_alphas,
    parse_blocks,
    parse_factors,
)
from clipdrift.repair.choice import ChosenStep, check_alpha_rule, check_retention, choose
from clipdrift.repair.result import Repaired, read_repaired
from clipdrift.repair.steps import RepairKind, Step, TransferTest, TruncatedUpdate

__all__ = [
    "AlphaRule",
    "ChosenStep",
    "RepairError",
    "RepairKind",
    "Repaired",
    "Step",
    "TransferTest",
    "TruncatedUpdate",
    "check_alpha_rule",
    "check_retention",
    "choose",
    "parse_alpha_rule",
    "parse_alphas",
    "parse_blocks",
    "parse_factors",
    "read_repaired",
]
