"""Open an index and its queries for both models: the same images, embedded once by each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdrift.comparison import ProbeImages
from clipdrift.comparison.images import ImagesLike, ProbeSet, choose, preprocess_of
from clipdrift.comparison.measuring import open_probe
from clipdrift.comparison.models import OpenedModel
from clipdrift.data.deck import Deck, Prepared
from clipdrift.data.errors import DataError
from clipdrift.measures import embed
from clipdrift.model.towers import tower_of
from clipdrift.runs.reporter import Reporter

INDEX_LIMIT = 2000
"""Images of an index that are read at most, unless more are asked for."""
MOST_QUERIES = 1000
LEAST_IMAGES, LEAST_QUERIES = 10, 4
"""Of the index: as many as are looked at; of queries: as many as an interval needs."""


@dataclass(frozen=True, eq=False)
class Index:
    """An index and image queries, as both models see them.

    Attributes:
        before, after: (n, E) embeddings by BASE and TUNED of all images.
        gallery, queries: positions of the images of the index and of the queries; none is in both.
        prints: (n,) content of each picture as it was read: equal for exact copies.
        classes: (n,) names of classes; None where there are none on a side.
        captions: texts by position.
    """

    before: Tensor
    after: Tensor
    gallery: NDArray[np.int64]
    queries: NDArray[np.int64]
    prints: NDArray[np.str_]
    classes: NDArray[np.str_] | None
    captions: Mapping[int, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class IndexOptions:
    """What is read as an index, and how.

    Attributes:
        source: the images of the index.
        queries: image queries from elsewhere; None: some images of the index are held out.
        limit: images of the index that are read at most, with those held out.
    """

    source: ImagesLike
    queries: ImagesLike | None = None
    limit: int = INDEX_LIMIT
    seed: int = 0
    batch_size: int | None = None
    preprocess: object = None
    cache: str | Path | None = None
    skip_bad: bool = False


def open_index(
    base: OpenedModel, tuned: OpenedModel, options: IndexOptions, reporter: Reporter
) -> tuple[Index, list[ProbeImages], list[str]]:
    """Images of index and queries embedded by both; what they are, once for each source; notes."""
    probes = [_probes(base, options.source, options.limit, tuned, options, reporter)]
    if options.queries is not None:
        probes.append(_probes(base, options.queries, MOST_QUERIES, tuned, options, reporter))
    embedded = [
        torch.cat([_embed(model, probe[side], options, reporter) for probe in probes])
        for side, model in enumerate((base, tuned))
    ]
    ours = [probe[0] for probe in probes]
    count = len(ours[0])
    if options.queries is None:
        asked = choose(ours[0].labels, count, min(MOST_QUERIES, max(LEAST_QUERIES, count // 5)), options.seed)
        gallery = np.setdiff1d(np.arange(count), asked)
    else:
        gallery, asked = np.arange(count), np.arange(count, count + len(ours[1]))
    if len(gallery) < LEAST_IMAGES or len(asked) < LEAST_QUERIES:
        raise DataError(
            f"{ours[0].facts.source}: {len(gallery)} images for the index and {len(asked)} queries; "
            f"{LEAST_IMAGES} and {LEAST_QUERIES} are needed at least"
        )
    classes = None
    if all(probe.facts.classes for probe in ours):
        classes = np.concatenate([np.asarray(probe.titles) for probe in ours])
    start, captions = 0, dict[int, tuple[str, ...]]()
    for probe in ours:
        captions |= {start + position: texts for position, texts in probe.captions.items()}
        start += len(probe)
    notes = [note for probe in ours for note in probe.facts.notes]
    bad = sum(len(probe.facts.bad) for probe in ours)
    if bad:
        notes.append(f"{bad} unreadable images of index and queries were left out.")
    one, other = (preprocess_of(options.preprocess, side.clip) for side in (base, tuned))
    if None not in (one, other) and one != other:
        notes.append("BASE and TUNED come with different preprocessing; each saw the index by its own.")
    prints = np.concatenate([_prints(probe) for probe in ours])
    sources = [probe.facts for probe in ours]
    return Index(embedded[0], embedded[1], gallery, asked, prints, classes, captions), sources, notes


def _probes(
    base: OpenedModel,
    source: ImagesLike,
    limit: int,
    tuned: OpenedModel,
    options: IndexOptions,
    reporter: Reporter,
) -> tuple[ProbeSet, ProbeSet]:
    """The same images as each model takes them."""
    found: list[ProbeSet] = []
    for side in (base, tuned):
        if found and _alike(base, tuned, options):
            found.append(found[0])
            continue
        place = next(side.model.parameters()).device
        # a model in memory is shown the images as the other one is
        given = options.preprocess or preprocess_of(None, side.clip or base.clip or tuned.clip)
        opened = open_probe(
            side, source, limit, options.seed, given, options.cache, place, options.skip_bad, reporter
        )
        found.append(opened)
    if found[0].titles != found[1].titles:
        raise DataError(
            f"{found[0].facts.source}: BASE reads {len(found[0])} of its images and TUNED {len(found[1])} "
            "others; leave out those that one of them cannot read"
        )
    return found[0], found[1]


def _alike(base: OpenedModel, tuned: OpenedModel, options: IndexOptions) -> bool:
    """Whether both models take images in the same form."""
    sizes = [tower_of(side.model).geometry.image_size for side in (base, tuned)]
    if sizes[0] != sizes[1]:
        return False
    if options.preprocess is not None or base.clip is None or tuned.clip is None:
        return True
    return base.clip.preprocess == tuned.clip.preprocess


def _embed(side: OpenedModel, probe: ProbeSet, options: IndexOptions, reporter: Reporter) -> Tensor:
    reporter.stage(f"embedding {len(probe)} images of {probe.facts.source}, {side.name}")
    device = next(side.model.parameters()).device
    return embed(side.model, probe.on(device), options.batch_size, reporter.advance).cpu().double()


def _prints(probe: ProbeSet) -> NDArray[np.str_]:
    """(n,) a hash of every picture as it was read."""
    if isinstance(probe.images, Deck):
        data, rows = probe.images.data, probe.images.rows
        pictures = (np.ascontiguousarray(data[int(row)]) for row in rows)
    else:
        assert isinstance(probe.images, Prepared)
        pictures = (np.ascontiguousarray(image.cpu().numpy()) for image in probe.images.images)
    return np.asarray([hashlib.blake2b(picture.data, digest_size=16).hexdigest() for picture in pictures])
