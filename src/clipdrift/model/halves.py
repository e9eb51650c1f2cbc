"""Image towers without a projection, as image classifiers hold them, and a view to read them through."""

from __future__ import annotations

from typing import Any

from torch import nn

HALVES: dict[str, tuple[str, str]] = {
    "CLIPVisionModel": ("clip", ""),
    "CLIPForImageClassification": ("clip", "vision_model"),
    "SiglipVisionModel": ("siglip", ""),
    "SiglipForImageClassification": ("siglip", "vision_model"),
}
"""transformers' classes that hold an image tower and no way into the joint space: kind, and where it is."""


class ImageHalf(nn.Module):
    """A live image tower, seen as a model whose embedding is what its last layer norm or its head gives.

    With a projection it is that of another model, put behind the tower.

    Attributes:
        vision_model: the live tower.
        visual_projection: (E, D), or nothing that has weights.
        kind: clip or siglip.
    """

    def __init__(self, tower: Any, kind: str, projection: nn.Module | None = None) -> None:
        super().__init__()
        self.vision_model = tower
        self.visual_projection = nn.Identity() if projection is None else projection
        self.kind = kind
        self.config = tower.config

    @property
    def embedding_width(self) -> int:
        found: Any = self.visual_projection
        return int(found.weight.shape[0] if hasattr(found, "weight") else self.config.hidden_size)


def half_of(model: Any, projection: nn.Module | None = None) -> ImageHalf | None:
    """The view of a classifier's or a bare image tower; None: the model is none of these."""
    for kind in type(model).__mro__:
        if kind.__module__.startswith("transformers.") and kind.__name__ in HALVES:
            family, place = HALVES[kind.__name__]
            tower = getattr(model, place) if place else model
            return ImageHalf(tower, family, projection)
    return None
