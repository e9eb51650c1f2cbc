"""Pictures. They compute nothing: every number comes from a record or a comparison."""

from clipdrift.figures.runs import COLOURS, attention_maps, block_drift

__all__ = ["COLOURS", "attention_maps", "block_drift"]
