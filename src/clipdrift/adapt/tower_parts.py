"""Parts of either tower of transformers' CLIP, by what methods freeze and train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from clipdrift.config.base import Towers
from clipdrift.model.clip import Clip
from clipdrift.model.towers import text_tower_of, tower_of

__all__ = ["TowerParts", "Towers"]


@dataclass(frozen=True, eq=False)
class TowerParts:
    """One tower.

    Attributes:
        name: the tower's, as in ``vision_model``.
        parts: all of the tower, and its projection.
        stem: what comes before the blocks.
        blocks: the transformer blocks.
        projection: the matrix into the space that both towers share.
        projected_by: its name, as in ``visual_projection``.
    """

    name: str
    parts: Sequence[nn.Module]
    stem: Sequence[nn.Module]
    blocks: Sequence[nn.Module]
    projection: nn.Module
    projected_by: str

    @classmethod
    def of(cls, clip: Clip, tower: Literal["image", "text"]) -> TowerParts:
        """The parts of one tower of a model that training knows."""
        view = tower_of(clip.model) if tower == "image" else text_tower_of(clip.model)
        (name, inner), (projected_by, projection) = view.parts()
        return cls(name, [inner, projection], view.stem(), view.blocks, projection, projected_by)

    @property
    def count(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def constant_blocks(self) -> int | None:
        """Number of first blocks whose output stays the same whatever is trained.

        None where what comes before the blocks is trained; the number of all blocks where nothing before the
        final layer norm is.
        """
        if any(p.requires_grad for part in self.stem for p in part.parameters()):
            return None
        for number, block in enumerate(self.blocks):
            if any(p.requires_grad for p in block.parameters()):
                return number
        return len(self.blocks)
