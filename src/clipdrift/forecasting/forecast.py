"""Forecast of a fine-tuning: open the model and the images, read, step, lay the result together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from clipdrift import formulas
from clipdrift.adapt import check_method
from clipdrift.comparison.abilities import texts_of
from clipdrift.comparison.compare import TransferLike, deck_factory
from clipdrift.comparison.images import ImagesLike, preprocess_of
from clipdrift.comparison.measuring import LIMIT, settle
from clipdrift.comparison.models import ModelLike, open_model
from clipdrift.config import RunConfig, parse_config
from clipdrift.config.methods import Method
from clipdrift.forecasting.ability import entropies, mean_of, right_probe, right_zero_shot, share_of
from clipdrift.forecasting.first_steps import Trial, first_steps
from clipdrift.forecasting.opening import Target, open_target, open_transfer
from clipdrift.forecasting.result import FirstStep, Forecast, ForecastError, Gradient, TransferFacts
from clipdrift.forecasting.suggesting import suggested
from clipdrift.forecasting.tested import evidence
from clipdrift.measures import embed
from clipdrift.model.clip import ModelError
from clipdrift.model.towers import tower_of
from clipdrift.model.zero_shot import class_features
from clipdrift.runs.laps import Laps
from clipdrift.runs.record import environment
from clipdrift.runs.reporter import Reporter, Silent

RATES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
"""Candidate rates unless others are given."""


def forecast(
    base: ModelLike,
    images: ImagesLike,
    *,
    labels: bool = False,
    classes: Sequence[str] = (),
    transfer: TransferLike | Sequence[TransferLike] = (),
    rates: Sequence[float] = RATES,
    method: str | Mapping[str, Any] = "full_ft",
    steps: int = 1,
    draws: int = 3,
    train_batch: int = 64,
    weight_decay: float = 0.01,
    limit: int = LIMIT,
    seed: int = 0,
    batch_size: int | None = None,
    preprocess: object = None,
    cache: str | Path | None = None,
    device: str = "auto",
    skip_bad: bool = False,
    reporter: Reporter | None = None,
) -> Forecast:
    """Tell before any training how much there is to gain, how far it is, and what a first step moves.

    Models in memory are left as they were: steps are taken on a copy.

    Args:
        base: hub id, folder, ``clipdrift/mini``, or a Clip. First steps need transformers' CLIP.
        images: the target: a folder, a data set's name; without labels also what
            :func:`clipdrift.compare` takes.
        labels: use the labels, those of class folders or of the named set; training images alone are read.
        classes: class names for images without labels, for the entropy of the zero-shot distribution.
        transfer: sets whose zero-shot ability is to be kept.
        rates: candidate learning rates.
        method: name of a method, or its options, as in ``{"name": "lora", "rank": 4}``.
        steps: after how many optimiser steps the drift is read.
        draws: batches with a head of their own, of which drifts are means.
        train_batch, weight_decay: of the training.
        limit: images read at most, of the target and of each transfer set.
        seed: which images, and the first draw.
        batch_size: images per pass; no number depends on it.
        preprocess, cache, device, skip_bad: as in :func:`clipdrift.compare`.

    Raises:
        ForecastError: no labels, one class, too few images, rates that are none; in one line.
        ConfigError, ModelError, PairError, DataError: as in :func:`clipdrift.compare` and in training.
    """
    reporter, clock = reporter or Silent(), Laps()
    wanted, options = _rates(rates), _method(method)
    for name, count in (("steps", steps), ("draws", draws), ("train_batch", train_batch), ("limit", limit)):
        if count < 1:
            raise ForecastError(f"{name} = {count}: give 1 or more")
    reporter.stage(f"loading {base if isinstance(base, str | Path) else type(base).__name__}")
    opened = open_model(base)
    if opened.clip is None:
        raise ForecastError(
            "a forecast needs a tokenizer and preprocessing: give BASE by name, by folder or as a Clip"
        )
    if any(isinstance(part, BaseTunerLayer) for part in opened.model.modules()):
        raise ForecastError(
            f"{opened.name}: has adapters in it; merge them and save the result, then forecast on that"
        )
    place = settle(opened, device)
    factory = deck_factory(opened, preprocess_of(preprocess, opened.clip), cache, seed, skip_bad, reporter)
    size = tower_of(opened.model).geometry.image_size
    target = open_target(images, labels, classes, limit, seed, size, factory)
    sets = open_transfer(transfer, limit, seed, size, factory)
    for note in (*target.notes, *(note for _, _, notes in sets.values() for note in notes)):
        reporter.note(note)
    clock("opened")

    clip = texts_of(opened, opened)
    scale = math.exp(float(opened.clip.model.logit_scale.detach().float()))
    reporter.stage(f"embedding {target.facts.source}")
    embedded = embed(opened.model, target.images, batch_size, reporter.advance)
    parts: dict[str, Any] = {}
    missing: dict[str, str] = {}
    if target.texts:
        texts = class_features(clip, target.texts, ("{}",))
        parts["entropy"] = mean_of(entropies(embedded, texts, scale), seed)
    else:
        missing["entropy"] = "no class names: give --labels, or --classes"
    if target.deck is not None:
        reporter.stage("linear probe")
        named = right_zero_shot(embedded, texts, target.deck.labels)
        learnt = right_probe(embedded, target.deck.labels, seed)
        parts["zero_shot"], parts["probe"] = share_of(named, seed), share_of(learnt, seed)
        parts["room"] = mean_of(100.0 * (learnt.astype(float) - named), seed, "points")
    else:
        missing["zero_shot"] = missing["probe"] = (
            "no labels: give --labels where folders or the set have them"
        )
    clock("read")

    facts = {}
    for name, (deck, prompts, _) in sets.items():
        reporter.stage(f"zero-shot on {name}")
        own = embed(opened.model, deck, batch_size, reporter.advance)
        right = right_zero_shot(own, class_features(clip, prompts, ("{}",)), deck.labels)
        facts[name] = TransferFacts(
            images=len(deck),
            classes=len(prompts),
            zero_shot=share_of(right, seed),
            overlap=_overlap(embedded, own),
        )
    if not sets:
        missing["overlap"] = "no transfer set: give --transfer"
    clock("transfer")

    stepped: list[FirstStep] = []
    gradient: Gradient | None = None
    if why := _why_no_steps(target, opened.clip, options):
        missing["first_steps"] = why
    else:
        assert target.deck is not None
        assert target.stepped is not None
        assert target.held_out is not None
        trial = Trial(
            stepped=target.deck.subset(target.stepped),
            held_out=target.deck.subset(target.held_out),
            transfer={name: deck for name, (deck, _, _) in sets.items()},
            texts=target.texts,
            method=options,
            steps=steps,
            draws=draws,
            batch_size=train_batch,
            seed=seed,
            weight_decay=weight_decay,
            images=batch_size,
        )
        reporter.stage(f"first step{'s' * (steps > 1)} at {len(wanted)} rates, {draws} draws")
        stepped, gradient = first_steps(opened.clip, trial, wanted, reporter)
    clock("stepped")
    known = evidence()
    return Forecast(
        base=opened.name,
        fingerprint=opened.fingerprint,
        images=target.facts,
        method=options.model_dump(mode="json"),
        steps=steps,
        draws=draws,
        batch_size=train_batch,
        seed=seed,
        transfer=facts,
        gradient=gradient,
        first_steps=tuple(stepped),
        weight_decay=weight_decay,
        suggestion=suggested(stepped, steps, known),
        tested=known.tested,
        tested_on=known.source,
        missing=missing,
        notes=(*_notes(target, train_batch), *target.notes),
        environment=environment(str(place)),
        timings=clock.seconds,
        **parts,
    )


def _rates(rates: Sequence[float]) -> list[float]:
    found = sorted(set(map(float, rates)))
    if not found:
        raise ForecastError("no rates: give one or more, as in --rates 1e-5,1e-4")
    for rate in found:
        if not (math.isfinite(rate) and 0 < rate < 1):
            raise ForecastError(f"rate {rate:g}: a learning rate is above 0 and below 1")
    return found


def _method(method: str | Mapping[str, Any]) -> Method:
    """The method's options, checked as those of a run are."""
    return parse_config({"method": method}, RunConfig).method


def _why_no_steps(target: Target, clip: Any, options: Method) -> str:
    """Why no step can be taken; empty where it can. What does not go with a model that trains is an error."""
    if target.deck is None:
        return "no labels: the loss of a step needs them"
    try:
        check_method(clip, options)
    except ModelError as error:
        return str(error)
    return ""


def _overlap(one: torch.Tensor, other: torch.Tensor) -> float | None:
    try:
        return float(formulas.covariance_overlap(one.cpu(), other.cpu()))
    except ValueError:  # few images, or all alike
        return None


def _notes(target: Target, train_batch: int) -> list[str]:
    notes = []
    facts = target.facts
    if facts.labelled and facts.stepped < train_batch:
        notes.append(
            f"The steps were taken on {facts.stepped} images, fewer than a batch of {train_batch}; raise "
            "--limit if there are more."
        )
    if facts.bad:
        notes.append(f"{len(facts.bad)} unreadable images were left out.")
    return notes
