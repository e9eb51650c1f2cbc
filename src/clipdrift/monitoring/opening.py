"""Open what a monitor is given: images, transfer sets and texts, for a model in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clipdrift.comparison.compare import TransferLike, transfer_sets
from clipdrift.comparison.images import ImagesLike, ProbeSet, preprocess_of
from clipdrift.comparison.measuring import open_probe
from clipdrift.comparison.models import OpenedModel
from clipdrift.data.deck import Deck
from clipdrift.data.sources import open_source
from clipdrift.model.clip import Clip
from clipdrift.model.towers import tower_of
from clipdrift.monitoring.errors import MonitorError
from clipdrift.runs.layout import cache_folder
from clipdrift.runs.reporter import Reporter
from clipdrift.training.decks import DeckFactory

PART = 500
"""Images of a transfer set that are tested, balanced over classes, unless a set says ``per_class``."""


def open_images_for(
    model: nn.Module,
    clip: Clip | None,
    images: ImagesLike,
    preprocess: object,
    limit: int,
    cache: str | Path | None,
    skip_bad: bool,
    reporter: Reporter,
) -> ProbeSet:
    """The images on which a monitor reads, preprocessed.

    Raises:
        DataError: nothing there, unreadable, too few, or no preprocessing known.
    """
    opened = OpenedModel(type(model).__name__, "in memory", model, clip)
    place = next(model.parameters()).device
    return open_probe(opened, images, limit, 0, preprocess, cache, place, skip_bad, reporter)


def open_sets(
    model: nn.Module,
    transfer: TransferLike | Sequence[TransferLike] | None,
    preprocess: object,
    cache: str | Path | None,
    skip_bad: bool,
    reporter: Reporter,
) -> Mapping[str, tuple[Deck, tuple[str, ...], tuple[str, ...]]]:
    """Deck, classes and prompts of a part of each transfer set.

    Raises:
        DataError, ConfigError: what cannot be opened, and why.
        MonitorError: no preprocessing known.
    """
    specs = transfer_sets(() if transfer is None else transfer)
    if not specs:
        return {}
    known = preprocess_of(preprocess, None)
    if known is None:
        raise MonitorError(
            "transfer sets need the model's preprocessing and tokenizer: say processor=, the model's "
            "transformers processor or the name of its files"
        )
    tower = tower_of(model)
    place = torch.device(next(model.parameters()).device)
    factory = DeckFactory(
        known, cache_folder(None if cache is None else Path(cache)), place, reporter, 0, skip_bad
    )
    found = {}
    for spec in specs:
        source = open_source(spec, image_size=tower.geometry.image_size, parts=("test",))
        if spec.per_class is None and source.test is not None:
            counts = np.bincount(source.test.labels, minlength=len(source.classes))
            each = max(1, min(PART // max(1, len(source.classes)), int(counts.min())))
            spec = spec.model_copy(update={"per_class": each})
        deck, _ = factory.part(spec, source)
        found[spec.name] = (deck, source.classes, source.prompts[:1])
    return found


def texts_of(
    given: Sequence[str] | None,
    sets: Mapping[str, tuple[Deck, tuple[str, ...], tuple[str, ...]]],
    probe: ProbeSet,
) -> tuple[str, ...]:
    """Texts over which zero-shot distributions are taken: as given, else of the first transfer set's classes,
    else captions or classes of the images."""
    if given is not None:
        texts = tuple(dict.fromkeys(map(str, given)))
        if len(texts) < 2:
            raise MonitorError("texts=: two different ones at least, as a distribution is taken over them")
        return texts
    for _, classes, prompts in sets.values():
        return tuple(dict.fromkeys(prompts[0].format(name) for name in classes))
    captions = [text for position in sorted(probe.captions) for text in probe.captions[position]]
    found = tuple(dict.fromkeys(captions or probe.class_texts))
    return found if len(found) >= 2 else ()


def images_digest(probe: ProbeSet) -> str:
    """16 hex digits of the images as a model takes them."""
    digest = hashlib.sha256()
    images: Any = probe.on(torch.device("cpu"))
    for batch, _ in images.batches(64):
        digest.update(batch.float().numpy().tobytes())
    return digest.hexdigest()[:16]
