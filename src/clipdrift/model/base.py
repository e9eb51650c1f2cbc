"""A loaded model with its texts' encoder and preprocessing, and the error of one that cannot be loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from clipdrift.data.preprocess import Preprocess
from clipdrift.errors import ClipdriftError
from clipdrift.model.finite import broken_tensors
from clipdrift.model.texts import TextEncoder
from clipdrift.model.towers import Geometry, tower_of


class ModelError(ClipdriftError):
    """A model that cannot be loaded; the message names the model, the reason and what to do."""


class BrokenWeightsError(ModelError):
    """Weights with nan or inf in them."""


def check_finite(model: Any, name: str) -> None:
    """Refuse a model with nan or inf in any weight. Raises BrokenWeightsError."""
    if said := broken_tensors(model.named_parameters()):
        raise BrokenWeightsError(f"{name}: {said}")


def logit_bias_of(model: Any) -> nn.Parameter | None:
    """The bias that a model has beside its scale, as those have that were trained with the sigmoid loss."""
    found = getattr(model, "logit_bias", None)
    return found if isinstance(found, nn.Parameter) else None


@contextmanager
def on_side(side: str) -> Iterator[None]:
    """Say in an error about broken weights whose they are: BASE, TUNED, the backbone."""
    try:
        yield
    except BrokenWeightsError as error:
        raise BrokenWeightsError(f"{side} {error}") from None


@dataclass(frozen=True)
class Clip:
    """A CLIP, or a model of its kind, ready for work.

    The model in float32 and eval mode, its texts' encoder, its preprocessing.
    """

    name: str
    model: Any
    """As its library makes it: transformers' CLIPModel, say."""
    tokenizer: Any
    preprocess: Preprocess
    preprocessor: dict[str, Any]
    """The model's own preprocessing as its file says it, to be written beside adapted weights."""
    texts: TextEncoder
    """From texts to embeddings (n, E) in the joint space, not normalised."""
    notes: tuple[str, ...] = ()
    """What was done to read it that a reader should know."""
    files: Mapping[str, Any] = field(default_factory=dict)
    """What OpenCLIP's configuration file says, to be written beside weights; empty for other libraries."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        found: torch.device = next(self.model.parameters()).device
        return found

    @property
    def geometry(self) -> Geometry:
        return tower_of(self.model).geometry

    @property
    def blocks(self) -> int:
        return self.geometry.blocks

    @property
    def heads(self) -> int:
        return self.geometry.heads

    @property
    def width(self) -> int:
        return self.geometry.width

    @property
    def embedding_width(self) -> int:
        return self.geometry.embedding_width

    @property
    def image_size(self) -> int:
        return self.geometry.image_size

    @property
    def patches(self) -> int:
        return self.geometry.patches
