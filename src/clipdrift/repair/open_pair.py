"""Open any BASE and TUNED for repair."""

from __future__ import annotations

from dataclasses import replace

import torch

from clipdrift.comparison.images import ProbeSet, preprocess_of
from clipdrift.comparison.measuring import LIMIT, open_probe, settle
from clipdrift.comparison.models import ModelLike
from clipdrift.comparison.pairs import open_pair
from clipdrift.data.deck import Deck
from clipdrift.data.sources import open_source
from clipdrift.repair import RepairError
from clipdrift.repair.context import AdapterUse, RepairContext, ends_of, side_of
from clipdrift.repair.heads import follows_texts, head_beside, moving_with, reading
from clipdrift.repair.options import Options, asked_sets, cache_of, reporter_of
from clipdrift.repair.step_measurer import StepMeasurer, ZeroShot
from clipdrift.training.decks import DeckFactory

FEW = 100
"""Images below which a result says that they are few."""


def open_two(base: ModelLike, tuned: ModelLike, adapters: AdapterUse, options: Options) -> RepairContext:
    """Open a pair on the images of the options. Models in memory are copied before anything is moved.

    Raises:
        RepairError: no images.
        PairError, ModelError, DataError, ConfigError: as :func:`clipdrift.compare`.
    """
    images = options.get("images")
    if images is None:
        raise RepairError("two models need images to be read on: name a folder or a data set with --images")
    specs, reporter = asked_sets(options), reporter_of(options)
    reporter.stage("loading both models")
    pair = open_pair(base, tuned, options.get("any_base", False))
    prepared = preprocess_of(options.get("preprocess"), pair.base.clip or pair.tuned.clip)
    settle(pair.base, options.get("device", "auto"))
    place = settle(pair.tuned, options.get("device", "auto"))
    endpoints, notes = ends_of(pair, adapters)
    texts = reading(endpoints, pair.tuned, pair.base) if specs else None
    cache, seed = cache_of(options), options.get("seed") or 0
    skip = options.get("skip_bad", False)
    limit = options.get("limit") or LIMIT
    probe = open_probe(pair.base, images, limit, seed, prepared, cache, place, skip, reporter)
    sets, said = {}, list(probe.facts.notes)
    for spec in specs:
        assert prepared is not None  # there is a tokenizer, and with it came the preprocessing
        factory = DeckFactory(prepared, cache, place, reporter, seed, skip)
        source = open_source(spec, image_size=pair.shape.image_size, parts=("test",))
        said += source.notes
        sets[spec.name] = ZeroShot(factory.part(spec, source)[0], source.classes, source.prompts[:1])
    head, record, more = head_beside(tuned, probe)
    said += more
    if pair.tuned.head is not None:
        said.append(
            "TUNED's classifier head takes no part, and is not saved: what is repaired is the whole model."
        )
    head = None if head is None else head.to(place)
    endpoints, said_of_head = moving_with(
        endpoints, head, lambda: reading(endpoints, pair.tuned, pair.base), record
    )
    if len(probe) < FEW:
        said.append(f"Only {len(probe)} images were read: take small differences for noise.")
    measurer = StepMeasurer(
        endpoints=endpoints,
        probe=probe.on(place),
        texts=texts,
        sets=sets,
        head=head,
        labelled=None if head is None else _deck(probe, place),
        test=None,
        reporter=reporter,
        refresh=None if record is None else follows_texts(record, endpoints),
        batch_size=options.get("batch_size"),
        flow=options.get("flow", False),
    )
    return RepairContext(
        measurer=measurer,
        base=pair.base,
        adapter=str(tuned),
        sides=(side_of(pair.base, pair), side_of(pair.tuned, pair)),
        shape=pair.shape,
        images=probe.facts,
        accuracy_of="" if head is None else f"{len(probe)} images of {probe.facts.source}",
        test_of="",
        notes=(*pair.notes, *notes, *said),
        of_head=said_of_head,
    )


def _deck(probe: ProbeSet, place: torch.device) -> Deck:
    assert isinstance(probe.images, Deck)  # images with labels come from one
    return replace(probe.images, device=place)
