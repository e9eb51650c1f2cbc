"""Repairing a fine-tuned model: paths to the backbone, blocks put back, intruder dimensions scaled down."""

from clipdrift.repair.rewinding import rewind
from clipdrift.repair.softening import soften
from clipdrift.repair.walk import interpolate

__all__ = ["interpolate", "rewind", "soften"]
