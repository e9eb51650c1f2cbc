"""Ability: accuracy of the head on the target, zero-shot accuracy on transfer sets."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import CLIPModel

from clipdrift.data.deck import Deck
from clipdrift.model.zero_shot import predict
from clipdrift.shapes import ClassFeatures


@torch.no_grad()
def embed(model: CLIPModel, deck: Deck, batch_size: int = 250) -> Tensor:
    """(n, E) projected embeddings of a deck by the live image tower, in eval mode and float32."""
    was_training = model.training
    model.eval()
    try:
        parts = [
            model.visual_projection(model.vision_model(pixel_values=images).pooler_output)
            for images, _ in deck.batches(batch_size)
        ]
    finally:
        model.train(was_training)
    return torch.cat(parts).float()


def accuracy(model: CLIPModel, head: nn.Module, deck: Deck, batch_size: int = 250) -> float:
    """Percent of a deck's images that the head classifies rightly."""
    with torch.no_grad():
        predicted = head(embed(model, deck, batch_size)).argmax(-1)
    return _percent(predicted, deck)


def zero_shot_accuracy(model: CLIPModel, features: ClassFeatures, deck: Deck, batch_size: int = 250) -> float:
    """Percent of a deck's images whose nearest class feature is the right one.

    Always through the model as it is now: with adapters on it, this is the adapted model's accuracy.
    """
    return _percent(predict(embed(model, deck, batch_size), features), deck)


def _percent(predicted: Tensor, deck: Deck) -> float:
    labels = torch.from_numpy(deck.labels).to(predicted.device)
    return 100 * (predicted == labels).double().mean().item()
