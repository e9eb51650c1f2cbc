"""Towers alone, as image classifiers and half models hold them, and the views to read them through."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import nn

HALVES: dict[str, tuple[str, str]] = {
    "CLIPVisionModel": ("clip", ""),
    "CLIPForImageClassification": ("clip", "vision_model"),
    "SiglipVisionModel": ("siglip", ""),
    "SiglipForImageClassification": ("siglip", "vision_model"),
}
"""transformers' classes that hold an image tower and no way into the joint space: kind, and where it is."""

TEXT_HALVES: dict[str, tuple[str, str]] = {
    "CLIPTextModel": ("clip", ""),
    "CLIPTextModelWithProjection": ("clip", "text_model"),
    "SiglipTextModel": ("siglip", ""),
}
"""The same for text towers."""


class ImageHalf(nn.Module):
    """A live image tower, seen as a model whose embedding is what its last layer norm or its head gives.

    With a projection it is that of another model, put behind the tower, or its own.

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


class TextHalf(nn.Module):
    """A live text tower, seen as a whole model of which only its text weights are read.

    Attributes:
        text_model: the live tower.
        text_projection: (E, D), or nothing that has weights.
        kind: clip or siglip.
    """

    def __init__(self, tower: Any, kind: str, projection: nn.Module | None = None) -> None:
        super().__init__()
        self.text_model = tower
        self.text_projection = nn.Identity() if projection is None else projection
        self.kind = kind
        self.config = SimpleNamespace(text_config=tower.config)


def half_of(model: Any, projection: nn.Module | None = None) -> ImageHalf | None:
    """The view of a classifier's or a bare image tower; None: the model is none of these."""
    found = _tower_in(model, HALVES)
    return None if found is None else ImageHalf(found[1], found[0], projection)


def text_half_of(model: Any) -> TextHalf | None:
    """The view of a text tower alone, with its projection if it has one; None: the model is none."""
    found = _tower_in(model, TEXT_HALVES)
    return None if found is None else TextHalf(found[1], found[0], getattr(model, "text_projection", None))


def _tower_in(model: Any, table: dict[str, tuple[str, str]]) -> tuple[str, Any] | None:
    for kind in type(model).__mro__:
        if kind.__module__.startswith("transformers.") and kind.__name__ in table:
            family, place = table[kind.__name__]
            return family, getattr(model, place) if place else model
    return None
