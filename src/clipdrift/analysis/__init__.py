"""Statistics: the tidy table of runs in, one row per test out. Loads no torch."""

from clipdrift.analysis.questions import analyse
from clipdrift.analysis.rows import Row
from clipdrift.analysis.runs import AnalyseError

__all__ = ["AnalyseError", "Row", "analyse"]
