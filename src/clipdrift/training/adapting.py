"""Adapt a run's backbone: by its method, with its loss and its penalties."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch.nn.functional import normalize

from clipdrift import formulas
from clipdrift.adapt import Adapted, FixedTexts, Penalties, Setting, adapt, build, zero_shot_head
from clipdrift.adapt.objective import NoLoss
from clipdrift.adapt.pairs import adapt_pairs, pairs_among
from clipdrift.config import ConfigError, ContrastiveObjective, EntropyFloor, NoTask, RunConfig, ZeroShotKl
from clipdrift.config.penalties import REFERENCE_CAPTIONS, held
from clipdrift.measures import embed, embed_texts, read_texts
from clipdrift.model.clip import logit_bias_of
from clipdrift.model.zero_shot import class_features
from clipdrift.training.compared_texts import some_captions
from clipdrift.training.decks import PairInputs
from clipdrift.training.preparation import RunInputs


def adapted_for(
    inputs: RunInputs, config: RunConfig, entropies: tuple[float, ...]
) -> tuple[Adapted, Penalties | None]:
    """Adapt the backbone, which from then on is the adapted model.

    Args:
        entropies: (L,) the backbone's mean attention entropy in each block on the probe set.
    """
    text_entropies: tuple[float, ...] = ()
    if inputs.pairs is None:
        classes, prompts = inputs.target.classes, inputs.target.prompts[:1]
        words = tuple(prompts[0].format(name) for name in classes)
        features = class_features(inputs.clip, classes, prompts) if config.penalty else None
        compared = _compared(inputs) if config.penalty else None
        begins = None
        if config.head == "zero_shot":
            begins = zero_shot_head(inputs.clip, classes, inputs.target.prompts)
        adapted = adapt(inputs.clip, config.method, len(classes), config.seed, words, begins)
        if isinstance(config.objective, NoTask):
            adapted = replace(adapted, objective=NoLoss())
    else:
        assert isinstance(config.objective, ContrastiveObjective)
        pairs = inputs.pairs
        asked = (one.captions for one in config.penalty if isinstance(one, ZeroShotKl))
        words = some_captions(pairs.train, next(asked, REFERENCE_CAPTIONS))
        features = normalize(embed_texts(inputs.clip, words), dim=-1) if config.penalty else None
        compared = _compared(inputs) if config.penalty else None
        text_entropies = _text_entropies(inputs, pairs, config)
        own = logit_bias_of(inputs.clip.model) is not None
        lacks_bias = config.objective.loss == "sigmoid" and not own
        bias = _first_bias(inputs, pairs, config) if lacks_bias else None
        adapted = adapt_pairs(
            inputs.clip, config.method, config.objective, pairs.train, pairs.groups, config.seed, bias
        )
    if features is None:
        return adapted, None
    features = features.to(inputs.device)
    setting = Setting(adapted, entropies, features, compared or FixedTexts(words, features), text_entropies)
    return adapted, build(config.penalty, setting)


def _compared(inputs: RunInputs) -> FixedTexts | None:
    """Texts of another set than the target, where a penalty is taken over one."""
    if inputs.compared is None:
        return None
    features = normalize(embed_texts(inputs.clip, inputs.compared), dim=-1)
    return FixedTexts(inputs.compared, features.to(inputs.device))


def _text_entropies(inputs: RunInputs, pairs: PairInputs, config: RunConfig) -> tuple[float, ...]:
    """The text tower's mean normalised entropy in each block on the probe captions, where a penalty needs it.

    Raises:
        ConfigError: no probe caption has two words.
    """
    assert isinstance(config.objective, ContrastiveObjective)
    trained = config.objective.trained_towers(config.method)
    if not any(isinstance(one, EntropyFloor) and "text" in held(one, trained) for one in config.penalty):
        return ()
    probe = pairs.probe
    texts = list(dict.fromkeys(probe.text(image, 0) for image in range(len(probe))))
    found = read_texts(inputs.clip, texts, config.evaluation.batch_size)
    if found.short == found.texts:
        raise ConfigError(
            "penalty entropy_floor on the text tower: no probe image has a caption of two words or more, so "
            "attention over words has no entropy"
        )
    return tuple(found.blocks("text_normalised_entropy").tolist())


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
