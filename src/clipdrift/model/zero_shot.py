"""Zero-shot classification: class names through prompt templates against image embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipdrift.model.clip import Clip
from clipdrift.shapes import ClassFeatures, Embedding


@torch.no_grad()
def class_features(
    clip: Clip, classes: Sequence[str], prompts: Sequence[str], batch_size: int = 256
) -> ClassFeatures:
    """One unit text feature per class, (C, E) float32: the mean over the templates' unit features.

    Args:
        clip: its text tower is used as it is.
        classes: readable names.
        prompts: templates with one ``{}``; with one template this is plain zero-shot, with several the
            usual ensemble.
    """
    if not classes or not prompts:
        raise ValueError("zero-shot needs at least one class and one prompt")
    texts = [prompt.format(name) for name in classes for prompt in prompts]
    parts = [
        normalize(clip.texts(texts[start : start + batch_size]).float(), dim=-1)
        for start in range(0, len(texts), batch_size)
    ]
    features = torch.cat(parts).view(len(classes), len(prompts), -1).mean(1)
    return normalize(features, dim=-1)


def predict(embedding: Embedding, features: ClassFeatures) -> Tensor:
    """(B,) index of the class whose text feature has the largest cosine with each embedding."""
    return (normalize(embedding.float(), dim=-1) @ features.T).argmax(-1)
