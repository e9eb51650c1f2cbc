"""Adapt a run's backbone: by its method, with its loss and its penalties."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.nn.functional import normalize

from clipdrift import formulas
from clipdrift.adapt import Adapted, Penalties, Setting, adapt, build
from clipdrift.adapt.pairs import adapt_pairs, pairs_among
from clipdrift.config import ContrastiveObjective, RunConfig
from clipdrift.measures import embed, embed_texts
from clipdrift.model.zero_shot import class_features
from clipdrift.training.decks import PairInputs
from clipdrift.training.preparation import RunInputs

REFERENCE_CAPTIONS = 256
"""Training captions that stand for classes where a penalty asks for them."""


def adapted_for(
    inputs: RunInputs, config: RunConfig, entropies: tuple[float, ...]
) -> tuple[Adapted, Penalties | None]:
    """Adapt the backbone, which from then on is the adapted model.

    Args:
        entropies: (L,) the backbone's mean attention entropy in each block on the probe set.
    """
    if inputs.pairs is None:
        classes, prompts = inputs.target.classes, inputs.target.prompts[:1]
        features = class_features(inputs.clip, classes, prompts) if config.penalty else None
        texts = tuple(prompts[0].format(name) for name in classes)
        adapted = adapt(inputs.clip, config.method, len(classes), config.seed, texts)
    else:
        assert isinstance(config.objective, ContrastiveObjective)
        pairs = inputs.pairs
        words = _some_captions(pairs, REFERENCE_CAPTIONS)
        features = normalize(embed_texts(inputs.clip, words), dim=-1) if config.penalty else None
        bias = _first_bias(inputs, pairs, config) if config.objective.loss == "sigmoid" else None
        adapted = adapt_pairs(
            inputs.clip, config.method, config.objective, pairs.train, pairs.groups, config.seed, bias
        )
    if features is None:
        return adapted, None
    return adapted, build(config.penalty, Setting(adapted, entropies, features.to(inputs.device)))


def _some_captions(pairs: PairInputs, most: int) -> Sequence[str]:
    """The first caption of evenly spaced training images, each text once."""
    count = len(pairs.train)
    chosen = np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))
    return list(dict.fromkeys(pairs.train.text(int(image), 0) for image in chosen))


def _first_bias(inputs: RunInputs, pairs: PairInputs, config: RunConfig) -> float:
    """Bias at which the backbone expects as many pairs in a batch as there are."""
    chosen = np.arange(min(config.optim.batch_size, len(pairs.train)))
    texts = [pairs.train.text(int(image), 0) for image in chosen]
    images = embed(inputs.clip.model, inputs.train.subset(chosen), config.evaluation.batch_size)
    one, other = (
        normalize(found.cpu().double(), dim=-1) for found in (images, embed_texts(inputs.clip, texts))
    )
    scale = float(inputs.clip.model.logit_scale.detach().exp())
    return formulas.calibrating_bias(scale * one @ other.T, pairs_among(texts, pairs.groups[chosen]))
