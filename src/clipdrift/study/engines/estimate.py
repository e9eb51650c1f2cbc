"""Estimate what a study will take: parameters, images, time and disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from clipdrift.adapt import FixedTexts, Setting, adapt, build
from clipdrift.adapt.pairs import adapt_pairs
from clipdrift.adapt.tower_parts import TowerParts
from clipdrift.config import ContrastiveObjective, RunConfig
from clipdrift.data.caption_store import CaptionPacker
from clipdrift.data.deck import Deck
from clipdrift.errors import ClipdriftError
from clipdrift.measures import embed, read_internals
from clipdrift.model.clip import Clip, load, logit_bias_of
from clipdrift.model.zero_shot import class_features
from clipdrift.runs.reporter import Reporter
from clipdrift.study.engines.jobs import StudyJob
from clipdrift.training.loop import train_model
from clipdrift.training.order import Order
from clipdrift.training.preparation import count_images, pick_device

Result = TypeVar("Result")

_IMAGES = 8
_CLASSES = 5


@dataclass(frozen=True)
class RunEstimate:
    """One run; None: cannot be known before it starts."""

    trained: int | None = None
    images: int | None = None
    seconds: float | None = None

    @property
    def trained_text(self) -> str:
        return "?" if self.trained is None else f"{self.trained:,}"

    @property
    def images_text(self) -> str:
        return "?" if self.images is None else f"{self.images:,}"

    @property
    def time_text(self) -> str:
        return "?" if self.seconds is None else span(self.seconds)


@dataclass(frozen=True)
class Estimate:
    """A study's cost.

    Attributes:
        runs: by key.
        weights: bytes of all adapted weights together, where they are kept.
        state: bytes of the largest training state; one at a time stands on the disk for each run at work.
        pixels: bytes of decoded images in the cache.
        notes: what could not be known, and why.
    """

    runs: dict[str, RunEstimate]
    weights: int
    state: int
    pixels: int
    notes: tuple[str, ...]

    @property
    def summary(self) -> str:
        known = [one.seconds for one in self.runs.values() if one.seconds is not None]
        told = f"some {span(sum(known))} one after the other" if known else "time unknown"
        if known and len(known) < len(self.runs):
            told += f" for the {len(known)} that could be timed"
        return (
            f"{told}; disk: {size(self.pixels)} of decoded images in the cache, {size(self.state)} of "
            f"training state while a run goes on, {size(self.weights)} of weights with --keep-weights"
        )


@dataclass(frozen=True)
class _Kind:
    """Seconds per image, and what a run of this kind trains: the head, by class, and the rest."""

    step: float
    read: float
    embed: float
    head: int
    rest: int


def estimate(jobs: tuple[StudyJob, ...], device: str, reporter: Reporter) -> Estimate:
    """Time a few steps of each kind of run on random images, and count what each works on.

    Nothing is decoded or written; models are loaded and data sets opened, which may download them.
    """
    place = pick_device(device)
    notes: dict[str, None] = {}
    sizes: dict[str, int | None] = {}
    counts: dict[str, dict[str, int] | None] = {}
    kinds: dict[str, _Kind | None] = {}
    runs, weights, state, pixels = {}, 0, 0, {}
    for done, job in enumerate(jobs):
        reporter.stage(f"estimating {done + 1} of {len(jobs)}: {job.label}")
        config = job.config
        name = _kind(config)
        if name not in kinds:
            kinds[name] = _noted(partial(_time, config, place), notes)
        kind = kinds[name]
        if kind is None:  # without the model nothing is known of its images' size either
            runs[job.key] = RunEstimate()
            continue
        model = config.model.model_dump_json()
        if model not in sizes:
            sizes[model] = load(config.model).image_size
        side = sizes[model] or 0
        sets = config.objective.name + config.data.model_dump_json() + model
        if sets not in counts:
            counts[sets] = _noted(partial(count_images, config, side), notes)
        count = counts[sets]
        if count is None:
            runs[job.key] = RunEstimate(trained=None)
            continue
        trained = kind.rest + kind.head * count["classes"]
        runs[job.key] = RunEstimate(trained, count["train"], _seconds(config, count, kind))
        weights += 4 * trained
        state = max(state, 16 * trained)  # weights, two moments of AdamW, the best epoch's weights
        for part, images in count.items():
            if part != "classes":
                pixels[f"{model} {config.data.target.name} {part}"] = 3 * side**2 * images
    return Estimate(runs, weights, state, sum(pixels.values()), tuple(notes))


def _noted(work: Callable[[], Result], notes: dict[str, None]) -> Result | None:
    try:
        return work()
    except ClipdriftError as error:
        notes[str(error)] = None
        return None


def _kind(config: RunConfig) -> str:
    """Runs of one kind take the same time per image."""
    parts = [config.model, config.method, config.objective, *config.penalty]
    return " ".join([str(config.optim.batch_size), *(part.model_dump_json() for part in parts)])


def _time(config: RunConfig, place: torch.device) -> _Kind:
    clip = load(config.model)
    clip.model.to(place)
    deck = _random(clip, place, config.optim.batch_size)
    embed(clip.model, deck)  # the first pass of a process is slower
    embedding = _clock(lambda: embed(clip.model, deck)) / len(deck)
    reading = _clock(lambda: read_internals(clip.model, deck)) / len(deck)
    classes = tuple(str(k) for k in range(_CLASSES))
    targets = None
    if isinstance(config.objective, ContrastiveObjective):
        packer = CaptionPacker()
        for image in range(len(deck)):
            packer.add(image, [f"a photo of number {image}, as captions are"])
        captions = packer.packed()[1]
        begins = config.objective.loss == "sigmoid" and logit_bias_of(clip.model) is None
        bias = 0.0 if begins else None
        groups = np.arange(len(deck))
        adapted = adapt_pairs(clip, config.method, config.objective, captions, groups, config.seed, bias)
        targets = lambda epoch: groups  # noqa: E731
    else:
        adapted = adapt(clip, config.method, len(classes), config.seed, classes)
    penalties = None
    if config.penalty:
        read = read_internals(clip.model, deck)
        entropies = tuple(read.blocks("entropy").tolist()) if "entropy" in read.measures else ()
        features = class_features(clip, classes, ("{}",))
        texts = TowerParts.of(clip, "text").count if "text" in adapted.towers else 0
        held = (0.9,) * texts  # any value: the work is the same
        setting = Setting(adapted, entropies, features, FixedTexts(classes, features), held)
        penalties = build(config.penalty, setting)
    optim = config.optim.model_copy(update={"epochs": 2, "warmup": 0.0, "batch_size": len(deck)})
    moments = train_model(
        adapted, deck, optim, seed=0, flip=config.data.flip, targets=targets, penalties=penalties
    )
    next(moments)  # the first epoch also computes what frozen blocks keep
    step = _clock(lambda: next(moments)) / len(deck)
    numbers = {name: p.numel() for name, p in adapted.parameters()}
    head = sum(n for name, n in numbers.items() if name.startswith("head."))
    return _Kind(step, reading, embedding, head // len(classes), sum(numbers.values()) - head)


def _random(clip: Clip, place: torch.device, batch: int) -> Deck:
    size, rng = clip.image_size, np.random.default_rng(0)
    count = min(_IMAGES, batch)
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % _CLASSES
    return Deck(images, np.arange(count), labels, clip.preprocess, place)


def _clock(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _seconds(config: RunConfig, count: Mapping[str, int], kind: _Kind) -> float:
    epochs, evaluation = config.optim.epochs, config.evaluation
    taken = Order.of(count["train"], config.optim).looks(evaluation.per_epoch, evaluation.at)
    looks = len(taken) + 6  # three more with whole maps, which take twice as long
    transfer = sum(n for name, n in count.items() if name.startswith("transfer "))
    embedded = epochs * count["validation"] + count["test"] + 3 * transfer
    return epochs * count["train"] * kind.step + looks * count["probe"] * kind.read + embedded * kind.embed


def span(seconds: float) -> str:
    """Format a time for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Format a number of bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
