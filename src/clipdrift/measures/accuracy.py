"""Ability: accuracy of the head on the target, zero-shot accuracy on transfer sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from clipdrift.data.deck import Batches, Deck
from clipdrift.measures.still import in_float32, still
from clipdrift.model.towers import tower_of
from clipdrift.model.zero_shot import predict
from clipdrift.shapes import ClassFeatures


def embed(
    model: Any,
    deck: Batches,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """(n, E) projected embeddings of a deck by the live image tower, in eval mode and float32."""
    tower = tower_of(model)
    with still(tower.model):
        parts = []
        for images, piece in deck.batches(tower.images_per_pass(batch_size)):
            parts.append(tower.run(images.float(), in_float32)[1].float())
            if progress:
                progress(piece.stop, len(deck))
    return torch.cat(parts)


def accuracy(model: Any, head: nn.Module, deck: Deck, batch_size: int | None = None) -> float:
    """Percent of a deck's images that the head classifies rightly."""
    with torch.no_grad():
        predicted = head(embed(model, deck, batch_size)).argmax(-1)
    return _percent(predicted, deck)


def zero_shot_accuracy(
    model: Any, features: ClassFeatures, deck: Deck, batch_size: int | None = None
) -> float:
    """Percent of a deck's images whose nearest class feature is the right one.

    Always through the model as it is now: with adapters on it, this is the adapted model's accuracy.
    """
    return _percent(predict(embed(model, deck, batch_size), features), deck)


def _percent(predicted: Tensor, deck: Deck) -> float:
    labels = torch.from_numpy(deck.labels).to(predicted.device)
    return 100 * (predicted == labels).double().mean().item()
