"""Measure a live model against the backbone's side: one row of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clipdrift import formulas
from clipdrift.comparison.images import ProbeSet
from clipdrift.data.deck import Deck
from clipdrift.measures import (
    Internals,
    MeasureError,
    NotFiniteError,
    Reading,
    TextInternals,
    embed,
    own_readings,
    read_internals,
    read_texts,
    readings,
    text_readings,
)
from clipdrift.measures.still import still
from clipdrift.model.clip import Clip
from clipdrift.model.towers import Geometry, UnsupportedModelError, tower_of
from clipdrift.model.weights import effective_weights, text_weights
from clipdrift.model.zero_shot import class_features, predict
from clipdrift.monitoring.backbone import BackboneSide, SetSide, apart, same_weights
from clipdrift.monitoring.pictures import ProbeAttention
from clipdrift.outcomes.chance import accuracy_p, measurable

Row = dict[str, Any]
"""Numbers by key: ``drift/cka``, ``drift/cka/block_6``, ``measure/entropy``, ``retention/cifar100``."""

LEAST_TEXTS = 4
"""Debiased CKA needs as many."""


@dataclass(frozen=True, eq=False)
class Examined:
    """Images, texts and sets on which a model is read.

    Attributes:
        probe: unlabelled images.
        sets: deck, class names and prompts of each transfer set.
        texts: over which zero-shot distributions are taken, and on which the text tower is read.
        flow: rollout and patch entropy too.
        shown: positions of the images whose attention is kept for pictures.
    """

    probe: ProbeSet
    sets: Mapping[str, tuple[Deck, tuple[str, ...], tuple[str, ...]]]
    texts: tuple[str, ...] = ()
    batch_size: int | None = None
    flow: bool = False
    shown: tuple[int, ...] = ()


def read_backbone(
    model: nn.Module, clip: Clip | None, given: Examined, name: str, images: str
) -> BackboneSide:
    """The backbone's side, of a model as it is now.

    Args:
        model: what :func:`clipdrift.monitoring.live.view_of` gives.
        clip: with its own texts; None: nothing is tested that needs them.
        images: digest of the images.

    Raises:
        MeasureError: nan, inf, or something undefined.
    """
    place = _device(model)
    internals = _read(model, given)
    readings(internals, internals, *[effective_weights(model)] * 2, minibatch=False)  # defined, or said now
    features = read = None
    words: dict[str, Tensor] = {}
    scale = None
    sets: dict[str, SetSide] = {}
    if clip is not None:
        scale = _scale(clip)
        if given.texts:
            features = _features(clip, given.texts, ("{}",))
        for set_name, (deck, classes, prompts) in given.sets.items():
            own = _features(clip, classes, prompts)
            found = _accuracy(embed(model, replace(deck, device=place), given.batch_size), own, deck)
            able = measurable(accuracy_p(found, len(deck), len(classes)))
            sets[set_name] = SetSide(found, len(deck), classes, prompts, able, own)
        read = _texts_of(clip, given.texts)
        words = apart(text_weights(clip.model)) if read is not None else {}
    return BackboneSide(
        model=name,
        geometry=tower_of(model).geometry,
        images=images,
        internals=internals,
        weights=apart(effective_weights(model)),
        scale=scale,
        texts=given.texts,
        features=features,
        text_internals=read,
        text_weights=words,
        sets=sets,
        attention=_pictured(given, internals, tower_of(model).geometry),
        absent=dict(tower_of(model).absent),
    )


def _read(model: nn.Module, given: Examined) -> Internals:
    probe = given.probe.on(_device(model))
    return read_internals(model, probe, given.batch_size, flow=given.flow, shown=given.shown)


def _pictured(given: Examined, internals: Internals, geometry: Geometry) -> ProbeAttention | None:
    """The images that are shown, with the backbone's attention; None where their pictures are lost."""
    images = given.probe.pictures(given.shown) if given.shown else None
    if images is None or internals.shown is None:
        return None
    titles = tuple(given.probe.titles[position] for position in given.shown)
    return ProbeAttention(
        np.ascontiguousarray(images),
        titles,
        internals.shown,
        geometry.grid,
        geometry.blocks,
        internals.reader,
    )


def examine(
    model: nn.Module, clip: Clip | None, given: Examined, side: BackboneSide
) -> tuple[Row, NDArray[np.float32] | None]:
    """Every number of the model as it is now, against the backbone's.

    Returns:
        The numbers; attention of the images that are shown, as :class:`Internals` has it.

    Raises:
        MeasureError: nan or inf in the model, weights of other names or shapes than the backbone's.
    """
    place = _device(model)
    weights = effective_weights(model)
    _same_shapes(side, weights)
    now = _read(model, given)
    row = _row(readings(side.internals, now, side.weights, weights, minibatch=False))
    row |= {f"measure/{name}": reading.value for name, reading in own_readings(now).items()}
    moved = clip is not None and _texts_moved(clip, side)
    if side.features is not None and side.scale is not None:
        features, scale = side.features, side.scale
        if moved:
            assert clip is not None
            features, scale = _features(clip, side.texts, ("{}",)), _scale(clip)
        before = side.scale * _cosines(side.internals.embedding, side.features)
        after = scale * _cosines(now.embedding, features)
        row["drift/zero_shot_agreement"] = float(formulas.zero_shot_agreement(before, after))
        row["drift/zero_shot_kl"] = float(formulas.zero_shot_kl(before, after))
        if moved:
            row["measure/logit_scale"] = scale
    for name, (deck, classes, prompts) in given.sets.items():
        one = side.sets[name]
        own = one.features
        if moved:
            assert clip is not None
            own = _features(clip, classes, prompts)
        found = _accuracy(embed(model, replace(deck, device=place), given.batch_size), own, deck)
        row[f"zero_shot/{name}"] = found
        if one.measurable:
            row[f"retention/{name}"] = 100 * found / one.accuracy
    if moved and side.text_internals is not None:
        assert clip is not None
        row |= _texts_row(clip, side, now, given)
    return row, now.shown


def _texts_row(clip: Clip, side: BackboneSide, now: Internals, given: Examined) -> Row:
    """The text tower, where it has moved, and the gap between both towers' embeddings."""
    before = side.text_internals
    assert before is not None
    after = read_texts(clip, side.texts, given.batch_size)
    row = _row(text_readings(before, after, side.text_weights, text_weights(clip.model)))
    old = float(formulas.modality_gap(side.internals.embedding.double(), before.embedding.double()))
    new = float(formulas.modality_gap(now.embedding.double(), after.embedding.double()))
    return row | {"measure/modality_gap": new, "drift/modality_gap": new - old}


def _row(found: Mapping[str, Reading]) -> Row:
    """``drift/x`` of every measure: its change in percent, or, of a comparison such as CKA, its value."""
    row: Row = {}
    for name, reading in found.items():
        value, blocks = (
            (reading.value, reading.blocks)
            if reading.drift is None
            else (reading.drift.mean, reading.drift.blocks)
        )
        short = name.removesuffix("_drift") if name.endswith("_drift") and reading.drift is not None else name
        row[f"drift/{short}"] = value
        row |= {f"drift/{short}/block_{number}": one for number, one in enumerate(blocks, start=1)}
    return row


def _texts_moved(clip: Clip, side: BackboneSide) -> bool:
    """Whether the text tower is another than the backbone's; one that cannot be read is taken for another."""
    if not side.text_weights:
        return any(weight.requires_grad for name, weight in clip.model.named_parameters() if _of_text(name))
    return not same_weights(side.text_weights, text_weights(clip.model))


def _of_text(name: str) -> bool:
    return "text" in name or name.startswith(("transformer.", "token_embedding", "ln_final"))


def _texts_of(clip: Clip, texts: Sequence[str]) -> TextInternals | None:
    if len(set(texts)) < LEAST_TEXTS:
        return None
    try:
        return read_texts(clip, texts)
    except UnsupportedModelError:  # OpenCLIP's, whose texts are encoded but whose tower is not read
        return None


def _features(clip: Clip, classes: Sequence[str], prompts: Sequence[str]) -> Tensor:
    with still(clip.model):
        return class_features(clip, classes, prompts).cpu()


def _scale(clip: Clip) -> float:
    found = float(clip.model.logit_scale.detach().float().exp())
    if not math.isfinite(found):
        raise NotFiniteError(
            f"the logit scale, exp of {float(clip.model.logit_scale):g}, is beyond any number"
        )
    return found


def _cosines(images: Tensor, texts: Tensor) -> Tensor:
    left, right = (torch.nn.functional.normalize(found.cpu().double(), dim=-1) for found in (images, texts))
    return left @ right.T


def _accuracy(embedding: Tensor, features: Tensor, deck: Deck) -> float:
    labels = torch.from_numpy(deck.labels)
    return 100 * (predict(embedding.cpu(), features) == labels).double().mean().item()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _same_shapes(side: BackboneSide, weights: Mapping[str, Tensor]) -> None:
    before = {name: tuple(weight.shape) for name, weight in side.weights.items()}
    now = {name: tuple(weight.shape) for name, weight in weights.items()}
    odd = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if odd:
        raise MeasureError(
            f"its tower was replaced, or this is another model: {len(odd)} of {len(before)} weights are not "
            f"the backbone's by name or shape, {odd[0]} first"
        )
