"""The blocks of an image tower whose attention penalties look at."""

from __future__ import annotations

from dataclasses import dataclass

from clipdrift.adapt.adapted import Adapted
from clipdrift.model.towers import tower_of


@dataclass(frozen=True)
class AttentionBlocks:
    """Blocks that attention is read in: all of them, or one that stands for a pooling head.

    Attributes:
        count: how many.
        pooled: the one is a pooling head, behind all blocks.
    """

    count: int
    pooled: bool = False

    @classmethod
    def of(cls, adapted: Adapted, count: int) -> AttentionBlocks:
        return cls(count, tower_of(adapted.clip.model).reader == "pooling head")

    def first(self, traced: int) -> int:
        """The first block, from 1, in what was traced from block ``traced`` on."""
        return 1 if self.pooled else traced

    def frozen(self, adapted: Adapted) -> int:
        """So many first ones stay as they are; a pooling head reads what moves before it."""
        return 0 if self.pooled else adapted.constant_blocks() or 0
