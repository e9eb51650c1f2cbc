"""What repairing a model gave: plain data with its tables, and what was asked for. Loads no torch."""

from clipdrift.repaired.asked import RepairError, Wish, parse_alphas, parse_blocks, parse_factors, parse_wish
from clipdrift.repaired.choice import Choice, check_wish, choose
from clipdrift.repaired.result import Repaired, read_repaired
from clipdrift.repaired.steps import Kind, Step, Tested

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
