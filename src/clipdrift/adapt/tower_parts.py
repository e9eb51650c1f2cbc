"""Parts of either tower of transformers' CLIP, by what methods freeze and train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from clipdrift.model.clip import Clip

Towers = tuple[Literal["image", "text"], ...]


@dataclass(frozen=True, eq=False)
class TowerParts:
    """One tower.

    Attributes:
        name: ``vision`` or ``text``, as transformers' names begin.
        stem: what comes before the blocks.
        blocks: the transformer blocks.
        projection: the matrix into the space that both towers share.
        parts: all of the tower, and its projection.
    """

    name: str
    stem: Sequence[nn.Module]
    blocks: Sequence[nn.Module]
    projection: nn.Module
    parts: Sequence[nn.Module]

    @classmethod
    def of(cls, clip: Clip, tower: Literal["image", "text"]) -> TowerParts:
        """The parts of one tower of a model that training knows."""
        model: Any = clip.model
        if tower == "image":
            inner, projection = model.vision_model, model.visual_projection
            stem = [inner.embeddings, inner.pre_layrnorm]
        else:
            inner, projection = model.text_model, model.text_projection
            stem = [inner.embeddings]
        name = "vision" if tower == "image" else "text"
        return cls(name, stem, list(inner.encoder.layers), projection, [inner, projection])

    @property
    def projected_by(self) -> str:
        """The projection's name."""
        return "visual_projection" if self.name == "vision" else "text_projection"
