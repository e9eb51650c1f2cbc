"""Everything that a monitor has once it is made: images, texts, what is lent, the backbone's side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from clipdrift.comparison.compare import TransferLike
from clipdrift.comparison.images import ImagesLike, ProbeSet
from clipdrift.comparison.models import ModelLike
from clipdrift.measures.shown import spread
from clipdrift.model.clip import Clip
from clipdrift.model.towers import tower_of
from clipdrift.model.weights import effective_weights
from clipdrift.monitoring.backbone import BackboneSide, restore, same_weights
from clipdrift.monitoring.errors import MonitorError
from clipdrift.monitoring.examining import Examined, read_backbone
from clipdrift.monitoring.lending import lender
from clipdrift.monitoring.live import view_of
from clipdrift.monitoring.opening import images_digest, open_images_for, open_sets, texts_of
from clipdrift.monitoring.pictures import SHOWN
from clipdrift.monitoring.surroundings import bound, clip_around
from clipdrift.rules import Rules
from clipdrift.rules.ruling import Said
from clipdrift.runs.reporter import Reporter


@dataclass(frozen=True, eq=False)
class Asked:
    """What a monitor is asked to read, as :class:`clipdrift.monitoring.monitor.DriftMonitor` takes it."""

    images: ImagesLike
    transfer: TransferLike | Sequence[TransferLike] | None
    texts: Sequence[str] | None
    backbone: ModelLike | None
    processor: object
    limit: int
    flow: bool
    batch_size: int | None
    cache: str | Path | None
    skip_bad: bool
    reporter: Reporter


@dataclass(frozen=True, eq=False)
class Opened:
    """What was opened for it.

    Attributes:
        fresh: the backbone's side was read now, and is to be kept.
        clip: the model in training with its own texts; None where it has none, or no tokenizer is known.
        projection: lent to an image tower that has none.
        notes: for people.
    """

    given: Examined
    side: BackboneSide
    fresh: bool
    clip: Clip | None
    projection: nn.Module | None
    notes: tuple[str, ...]


def open_watched(inner: nn.Module, plain: nn.Module, asked: Asked, out: Path) -> Opened:
    """Open images and texts; have the backbone's side from ``out``, where a training left it, or read it.

    Args:
        inner: what :func:`clipdrift.monitoring.live.clip_in` found.
        plain: the same, or a copy with its weights gathered.

    Raises:
        MonitorError, DataError, ConfigError, ModelError, MeasureError: in one line what is wrong.
    """
    clip, preprocess = clip_around(inner, asked.processor)
    lent = lender(inner, asked.backbone, clip)
    live = view_of(plain, lent.projection)
    if preprocess is None and lent.clip is not None:
        preprocess = lent.clip.preprocess
    reporter = asked.reporter
    probe = open_images_for(
        live, clip, asked.images, preprocess, asked.limit, asked.cache, asked.skip_bad, reporter
    )
    sets = open_sets(live, asked.transfer, preprocess, asked.cache, asked.skip_bad, reporter)
    speaks = clip or lent.clip
    if speaks is None and (sets or asked.texts):
        raise MonitorError(
            "zero-shot needs a tokenizer and a text tower: say processor=, or backbone= where the model has "
            "no text tower"
        )
    words = texts_of(asked.texts, sets, probe) if speaks is not None else ()
    given = Examined(probe, sets, words, asked.batch_size, asked.flow, _shown(probe))
    digest = images_digest(probe)
    kept = restore(out) if asked.backbone is None else None
    if kept is not None:
        notes = (*lent.notes, *_goes_on(kept, live, given, digest, out))
        return Opened(given, kept, False, clip, lent.projection, notes)
    base = live if lent.model is None else view_of(lent.model)
    reader = bound(clip, plain) if lent.model is None and clip is not None else lent.clip
    reporter.stage("reading the backbone")
    name = str(getattr(inner, "name_or_path", "") or type(inner).__name__)
    if isinstance(asked.processor, Clip) and asked.processor.model is inner:
        name = asked.processor.name
    side = read_backbone(base, reader, given, name, digest)
    return Opened(given, side, True, clip, lent.projection, lent.notes)


def _shown(probe: ProbeSet) -> tuple[int, ...]:
    """Positions of the images that are shown: of as many classes as there are, else apart from each other."""
    if probe.labels is not None:
        return tuple(spread(probe.labels, SHOWN))
    count = min(SHOWN, len(probe))
    return tuple(number * len(probe) // count for number in range(count))


def _goes_on(kept: BackboneSide, live: nn.Module, given: Examined, digest: str, out: Path) -> tuple[str, ...]:
    """Check that the backbone's side of an earlier training is about the same; what a reader should know."""
    before = {name: (one.classes, one.prompts, one.images) for name, one in kept.sets.items()}
    asked = {name: (classes, prompts, len(deck)) for name, (deck, classes, prompts) in given.sets.items()}
    for what, old, new in (
        ("a model of other sizes", kept.geometry, tower_of(live).geometry),
        ("other images", kept.images, digest),
        ("other texts", kept.texts, given.texts),
        ("other transfer sets", before, asked),
    ):
        if old != new:
            raise MonitorError(
                f"{out} has the backbone of a training with {what}: name another folder in out=, or remove "
                "this one"
            )
    if same_weights(kept.weights, effective_weights(live)):
        return ()
    return (
        f"the model is compared with the backbone in {out} ({kept.model}), from which it differs already; to "
        "begin anew name another folder",
    )


def at_chance(side: BackboneSide) -> tuple[Said, ...]:
    """A warning for each transfer set on which the backbone can do nothing, so nothing can be kept."""
    return tuple(
        Said(
            "warning",
            f"{name}: the backbone's zero-shot accuracy is not above chance ({one.accuracy:.3g} % of "
            f"{one.images} images), so there is no retention/{name} and no rule on it decides anything",
        )
        for name, one in side.sets.items()
        if not one.measurable
    )


def about(
    given: Examined, side: BackboneSide, every: int | str, rules: Rules, config: Mapping[str, Any]
) -> dict[str, Any]:
    """What is measured, on what and by which rules, as it stands beside the log.

    Args:
        config: what the caller says of the training.
    """
    sets = {
        name: {
            "before": one.accuracy,
            "images": one.images,
            "classes": len(one.classes),
            "measurable": one.measurable,
        }
        for name, one in side.sets.items()
    }
    return {
        "backbone": side.model,
        "blocks": side.geometry.blocks,
        **({"absent": dict(side.absent)} if side.absent else {}),
        "images": given.probe.facts.model_dump(mode="json"),
        "sets": sets,
        "texts": len(side.texts),
        "every": every,
        "rules": rules.described(),
        "config": dict(config),
    }
