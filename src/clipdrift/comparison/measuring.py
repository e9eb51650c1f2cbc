"""Measure one model on images, without a second model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from clipdrift.comparison import ProbeImages, Shape
from clipdrift.comparison.images import ImagesLike, ProbeSet, open_images, preprocess_of
from clipdrift.comparison.models import ModelLike, OpenedModel, open_model
from clipdrift.comparison.pairs import shape_of
from clipdrift.listing import MEASURES
from clipdrift.measures import Internals, read_internals
from clipdrift.model.towers import tower_of
from clipdrift.runs.layout import cache_folder
from clipdrift.runs.reporter import Reporter, Silent
from clipdrift.training.decks import DeckFactory
from clipdrift.training.preparation import pick_device

LIMIT = 500
"""Images that are read at most, unless more are asked for."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """Everything that measures say of one model on a set of images.

    Attributes:
        name: of the model.
        shape: sizes of its image tower.
        images: what was read.
        internals: values per image and block, states, embeddings.
    """

    name: str
    shape: Shape
    images: ProbeImages
    internals: Internals

    @property
    def measures(self) -> tuple[str, ...]:
        return self.internals.measures

    def blocks(self, measure: str) -> NDArray[np.float64]:
        """(L,) mean over images in each block; (1,) for a measure that has one value."""
        return self.internals.blocks(measure)

    def mean(self, measure: str) -> float:
        """Mean over images and blocks."""
        return float(self.blocks(measure).mean())

    def to_frame(self, heads: bool = False) -> pd.DataFrame:
        """One row per measure x block: columns measure, unit, block (``<NA>``: the mean), value.

        With ``heads``, one row per image x block x head and a column for each measure that heads have; the
        measurement must have been made with ``heads=True``.

        Raises:
            ValueError: it was not.
        """
        if heads:
            if not self.internals.detail:
                raise ValueError("values of single heads were not kept; measure with heads=True")
            return self.internals.to_frame()
        rows = []
        for name in self.measures:
            found = self.blocks(name)
            unit = unit_of(name)
            rows.append({"measure": name, "unit": unit, "block": None, "value": float(found.mean())})
            if len(found) > 1:
                rows += [
                    {"measure": name, "unit": unit, "block": block, "value": float(value)}
                    for block, value in enumerate(found, start=1)
                ]
        return pd.DataFrame(rows).astype({"block": "Int64"})


def unit_of(measure: str) -> str:
    """Unit of a measure's values; a receptive field at another threshold than 0.95 has erf95's."""
    return MEASURES["erf95" if measure.startswith("erf") else measure].unit


def measure(
    model: ModelLike,
    images: ImagesLike,
    *,
    limit: int = LIMIT,
    seed: int = 0,
    batch_size: int | None = None,
    flow: bool = True,
    heads: bool = False,
    masses: Sequence[float] = (0.95,),
    preprocess: object = None,
    cache: str | Path | None = None,
    device: str = "auto",
    skip_bad: bool = False,
    reporter: Reporter | None = None,
) -> Measurement:
    """Read a model's internals on images.

    A model in memory, also in the middle of its training, is left as it was: modes of its modules, hooks,
    gradients, precision settings and random generators.

    Args:
        model: hub id, folder, run, peft adapter, OpenCLIP name, a Clip, or a model in memory (transformers'
            CLIPModel, CLIPVisionModelWithProjection, SiglipModel, OpenCLIP, in any wrapper of peft).
        images: a folder, a data set's name, preprocessed floats (n, 3, S, S), a Deck, or a list of PIL
            images, paths or arrays of bytes.
        limit: images read at most, chosen by ``seed``, balanced over classes where there are any.
        batch_size: images per forward pass, by default some 4,096 tokens; no number depends on it.
        flow: rollout and patch entropy too, which need whole attention maps.
        heads: keep every head's value on every image, for ``to_frame(heads=True)``.
        masses: thresholds of the effective receptive field, in (0, 1].
        preprocess: for a model in memory: a transformers image processor, its dictionary, or a Preprocess.
        cache: where decoded images are kept; default `~/.cache/clipdrift` or $CLIPDRIFT_CACHE.
        device: for a model given by name; one in memory stays where it is.
        skip_bad: leave unreadable images out.

    Raises:
        ModelError, UnsupportedModelError, DataError, MeasureError: in one line what is wrong.
    """
    reporter = reporter or Silent()
    reporter.stage(f"loading {model if isinstance(model, str | Path) else type(model).__name__}")
    opened = open_model(model)
    place = settle(opened, device)
    probe = open_probe(opened, images, limit, seed, preprocess, cache, place, skip_bad, reporter)
    reporter.stage(f"reading {opened.name}")
    found = read_internals(
        opened.model,
        probe.on(place),
        batch_size,
        flow=flow,
        detail=heads,
        masses=masses,
        progress=reporter.advance,
    )
    return Measurement(opened.name, shape_of(tower_of(opened.model)), probe.facts, found)


def settle(opened: OpenedModel, device: str) -> torch.device:
    """Move a model that was loaded here to the device; one in memory stays. Returns where it is."""
    if opened.kind != "in memory":
        opened.model.to(pick_device(device))
    place: Any = next(opened.model.parameters()).device
    return torch.device(place)


def open_probe(
    opened: OpenedModel,
    images: ImagesLike,
    limit: int,
    seed: int,
    preprocess: object,
    cache: str | Path | None,
    device: torch.device,
    skip_bad: bool,
    reporter: Reporter,
) -> ProbeSet:
    """The images as a model takes them."""
    known = preprocess_of(preprocess, opened.clip)
    factory = None
    if known is not None:
        folder = cache_folder(None if cache is None else Path(cache))
        factory = DeckFactory(known, folder, device, reporter, seed, skip_bad)
    return open_images(
        images,
        limit=limit,
        seed=seed,
        preprocess=known,
        image_size=tower_of(opened.model).geometry.image_size,
        device=device,
        factory=factory,
    )
