"""Compare BASE with TUNED: open, check, read both, lay side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from clipdrift.comparison import Comparison, HeadRow, TransferRow
from clipdrift.comparison.abilities import (
    has_texts,
    open_test_set,
    read_zero_shot,
    retrieval,
    same_texts,
    texts_of,
    transfer_row,
)
from clipdrift.comparison.architectures import Interpolate
from clipdrift.comparison.attention import attention_of
from clipdrift.comparison.beside import beside_rows, several
from clipdrift.comparison.head import head_accuracy, head_preprocess, open_head
from clipdrift.comparison.images import ImagesLike, ProbeSet, named_source, preprocess_of
from clipdrift.comparison.index_images import INDEX_LIMIT, IndexOptions
from clipdrift.comparison.indexing import read_index
from clipdrift.comparison.measuring import LIMIT, open_probe, settle
from clipdrift.comparison.models import ModelLike, OpenedModel, PairError
from clipdrift.comparison.pairs import ModelPair, open_pair, side_of
from clipdrift.comparison.samples import Samples
from clipdrift.comparison.tables import (
    ability,
    compared,
    heads,
    spectrum_row,
    subsets,
)
from clipdrift.comparison.texts import compare_texts
from clipdrift.config import DataSet, parse_config
from clipdrift.data.preprocess import Preprocess
from clipdrift.measures import (
    Internals,
    cka_matrix,
    internal_readings,
    read_internals,
    spectra,
    weight_readings,
)
from clipdrift.runs.laps import Laps
from clipdrift.runs.layout import cache_folder
from clipdrift.runs.record import environment
from clipdrift.runs.reporter import Reporter, Silent
from clipdrift.training.decks import DeckFactory

TransferLike = str | Path | DataSet | Mapping[str, Any]
"""A data set's name, ``name=path``, a folder, or a DataSet (or its content as a dictionary)."""


def compare(
    base: ModelLike,
    tuned: ModelLike,
    images: ImagesLike,
    *,
    transfer: TransferLike | Sequence[TransferLike] = (),
    target: TransferLike | None = None,
    limit: int = LIMIT,
    seed: int = 0,
    batch_size: int | None = None,
    flow: bool = True,
    spectrum: bool = True,
    beside: ModelLike | Sequence[ModelLike] = (),
    shown: int = 6,
    index: ImagesLike | None = None,
    index_queries: ImagesLike | None = None,
    index_limit: int = INDEX_LIMIT,
    preprocess: object = None,
    any_base: bool = False,
    interpolate: Interpolate | None = None,
    cache: str | Path | None = None,
    device: str = "auto",
    skip_bad: bool = False,
    reporter: Reporter | None = None,
) -> Comparison:
    """Measure what became of BASE in TUNED: attention, representation, weights, zero-shot ability.

    Text towers are measured too, where they differ.

    Models in memory are left as they were.

    Args:
        base, tuned: hub id, folder, run, peft adapter (on BASE), OpenCLIP name, a Clip, or a model in memory;
            TUNED may be half a model, an image tower, a text tower or an image classifier, which is completed
            by BASE's other parts.
        images: a folder, a data set's name, preprocessed floats (n, 3, S, S), a Deck, or a list of PIL
            images, paths or arrays of bytes.
        transfer: sets on which zero-shot ability is tested on both sides.
        target: labelled set on which the head of TUNED, an image classifier, is tested.
        limit: images read at most, chosen by ``seed``, balanced over classes where there are any.
        batch_size: images per forward pass, by default some 4,096 tokens; no number depends on it.
        flow: rollout and patch entropy too, which need whole attention maps.
        spectrum: effective rank and intruder dimensions of every changed matrix, which take a while.
        beside: other models made from BASE, whose task vectors (what they added to BASE's weights) are laid
            beside TUNED's: the cosine over the image tower and by block. They are not read on the images.
        shown: images whose attention is kept for pictures.
        index: images of a retrieval index: how much of it, embedded by BASE, TUNED can still search, and what
            a linear map wins back.
        index_queries: images that are looked for there; none: a fifth of the index is held out.
        index_limit: images of the index read at most, with those held out.
        preprocess: for models in memory: a transformers image processor, its dictionary, or a Preprocess.
        any_base: accept an adapter or a run made from another backbone than BASE.
        interpolate: whose positions are interpolated where the two take images of different sizes, ``tuned``
            or ``base``; none: such a pair is refused.
        cache: where decoded images are kept; default `~/.cache/clipdrift` or $CLIPDRIFT_CACHE.
        device: for models given by name; those in memory stay where they are.
        skip_bad: leave unreadable images out.

    Raises:
        PairError: the two cannot be compared; says why.
        ModelError, UnsupportedModelError, DataError, ConfigError, MeasureError: in one line what is wrong.
    """
    return compare_in_detail(
        base,
        tuned,
        images,
        transfer=transfer,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        flow=flow,
        spectrum=spectrum,
        beside=several(beside),
        shown=shown,
        preprocess=preprocess,
        any_base=any_base,
        cache=cache,
        device=device,
        skip_bad=skip_bad,
        reporter=reporter,
        index=index,
        index_queries=index_queries,
        index_limit=index_limit,
        target=target,
        interpolate=interpolate,
    )[0]


def compare_in_detail(
    base: ModelLike,
    tuned: ModelLike,
    images: ImagesLike,
    *,
    transfer: TransferLike | Sequence[TransferLike],
    limit: int,
    seed: int,
    batch_size: int | None,
    flow: bool,
    spectrum: bool,
    shown: int,
    preprocess: object,
    any_base: bool,
    cache: str | Path | None,
    device: str,
    skip_bad: bool,
    reporter: Reporter | None,
    index: ImagesLike | None = None,
    index_queries: ImagesLike | None = None,
    index_limit: int = INDEX_LIMIT,
    target: TransferLike | None = None,
    interpolate: Interpolate | None = None,
    beside: Sequence[ModelLike] = (),
) -> tuple[Comparison, Samples]:
    """:func:`compare`, with the values image by image from which its numbers follow."""
    reporter, clock = reporter or Silent(), Laps()
    if index is None and index_queries is not None:
        raise PairError("queries without an index to put them to: say which images are in the index")
    sets = transfer_sets(transfer)  # what is misspelt is said before anything is loaded
    targets = [] if target is None else transfer_sets(target)
    reporter.stage("loading both models")
    pair = open_pair(base, tuned, any_base, interpolate)
    head = open_head(pair.tuned, targets[0], pair.shape.image_size) if targets else None
    known = pair.base.clip or pair.tuned.clip
    if sets and known is None:
        raise PairError("zero-shot needs a tokenizer: give BASE by name, by folder or as a Clip")
    prepared = preprocess_of(preprocess, known)
    place = settle(pair.base, device)
    settle(pair.tuned, device)
    others, of_others = beside_rows(pair, beside, any_base, reporter)  # mistakes before images are read
    probe = open_probe(pair.base, images, limit, seed, prepared, cache, place, skip_bad, reporter)
    clock("opened")
    remembered = None
    if index is not None:
        asked = IndexOptions(index, index_queries, index_limit, seed, batch_size, prepared, cache, skip_bad)
        remembered = read_index(pair.base, pair.tuned, asked, reporter)
        clock("index_searched")
    before = _read(pair.base, probe, batch_size, flow, reporter)
    clock("base_read")
    # a text tower alone has BASE's image tower, so there is nothing to read again
    after = before if pair.images_alike else _read(pair.tuned, probe, batch_size, flow, reporter)
    clock("tuned_read")
    reporter.stage("comparing representations")
    own_before, own_after = pair.judged
    found_in_images = internal_readings(before, after)
    measures = compared(found_in_images | (weight_readings(own_before, own_after) if own_before else {}))
    matrix = tuple(tuple(row) for row in cka_matrix(before, after).tolist())
    clock("compared")
    samples = Samples(before, after, prepared, probe)
    rows, prompts = {}, list[str]()
    for spec in sets:
        factory = deck_factory(pair.base, prepared, cache, seed, skip_bad, reporter)
        test = open_test_set(spec, pair.shape.image_size, factory)
        old, new = (
            read_zero_shot(side, texts_of(side, other), test, batch_size, reporter)
            for side, other in ((pair.base, pair.tuned), (pair.tuned, pair.base))
        )
        samples.zero_shot[spec.name] = (test, old, new)
        row = transfer_row(test, old, new)
        rows[spec.name] = row.model_copy(update={"crossed": None}) if pair.images_alike else row
        prompts += test.texts
    tested = None
    if head is not None:
        own = head_preprocess(pair.tuned, prepared)
        factory = deck_factory(pair.base, own, cache, seed, skip_bad, reporter)
        tested = head_accuracy(head, factory, place, batch_size, reporter)
        if own != prepared:
            note = "TUNED's head was tested with TUNED's own preprocessing."
            tested = tested.model_copy(update={"notes": (*tested.notes, note)})
    found = None
    if probe.captions:
        reporter.stage("retrieval between images and captions")
        embeddings = (before.embedding, after.embedding)
        found = retrieval(pair.base, pair.tuned, embeddings, probe.captions)
        if pair.images_alike:  # there is no image tower of TUNED's to cross with
            found = found.model_copy(update={"image_to_text_crossed": {}, "text_to_image_crossed": {}})
    clock("tested")
    towers, of_texts, said = compare_texts(pair, _texts(probe, rows, prompts), batch_size, reporter)
    clock("texts_read")
    changes = []
    if spectrum:
        reporter.stage("spectra of the changed matrices")
        changes = spectra(own_before, own_after, progress=reporter.advance)
    clock("decomposed")
    comparison = Comparison(
        base=side_of(pair.base, pair.before),
        tuned=side_of(pair.tuned, own_after),
        shape=pair.shape,
        images=probe.facts,
        measures=measures | of_texts | ability(rows),
        cka_matrix=matrix,
        heads=heads(before, after),
        spectra=tuple(spectrum_row(change) for change in changes),
        transfer=rows,
        head=tested,
        retrieval=found,
        subsets=None if pair.images_alike else subsets(before, after, probe.labels, seed),
        beside=others,
        text_tower=towers,
        index=remembered,
        notes=(
            *_notes(pair, probe, rows, bool(rows or found), own=preprocess is None),
            *_of_head(pair, tested),
            *said,
            *of_others,
            *(() if remembered is None else remembered.notes),
        ),
        environment=environment(str(place)),
        timings=clock.seconds,
    )
    reporter.stage("attention of a few images")
    comparison._maps = attention_of(pair, probe, shown)
    return comparison, samples


def transfer_sets(
    given: TransferLike | Sequence[TransferLike], per_class: int | None = None
) -> list[DataSet]:
    """The sets that were asked for, checked.

    Args:
        per_class: images of each class in place of what the sets say; None: what they say.

    Raises:
        ConfigError: one that is misspelt, or one that is named twice.
    """
    several = [given] if isinstance(given, str | Path | DataSet | Mapping) else list(given)
    sets = []
    for one in several:
        if isinstance(one, str | Path):
            name, equals, path = str(one).partition("=")
            one = (
                {"name": name, "path": path} if equals and not Path(one).is_dir() else named_source(str(one))
            )
        sets.append(one if isinstance(one, DataSet) else parse_config(one, DataSet))
    names = [spec.name for spec in sets]
    for name in names:
        if names.count(name) > 1:
            raise PairError(f"transfer names {name!r} twice")
    if per_class is None:
        return sets
    return [spec.model_copy(update={"per_class": per_class}) for spec in sets]


def _read(
    side: OpenedModel, probe: ProbeSet, batch_size: int | None, flow: bool, reporter: Reporter
) -> Internals:
    reporter.stage(f"reading {side.name}")
    device = next(side.model.parameters()).device
    return read_internals(side.model, probe.on(device), batch_size, flow=flow, progress=reporter.advance)


def deck_factory(
    side: OpenedModel,
    preprocess: Preprocess | None,
    cache: str | Path | None,
    seed: int,
    skip_bad: bool,
    reporter: Reporter,
) -> DeckFactory:
    """What makes decks of transfer sets for a model."""
    assert preprocess is not None  # there is a tokenizer, and with it came the preprocessing
    folder = cache_folder(None if cache is None else Path(cache))
    device = next(side.model.parameters()).device
    return DeckFactory(preprocess, folder, torch.device(device), reporter, seed, skip_bad)


def _texts(
    probe: ProbeSet, rows: Mapping[str, TransferRow], prompts: Sequence[str]
) -> list[tuple[str, Sequence[str]]]:
    """Lists of texts that the text towers can be read on, the best first."""
    captions = [text for position in sorted(probe.captions) for text in probe.captions[position]]
    return [
        ("captions of the images", captions),
        (f"class prompts of {', '.join(rows)}", prompts),
        (f"class prompts of {probe.facts.source}", probe.class_texts),
    ]


def _of_head(pair: ModelPair, tested: HeadRow | None) -> tuple[str, ...]:
    head = pair.tuned.head
    if head is None:
        return ()
    if tested is None:
        return (
            f"TUNED's head of {len(head.classes)} classes was not tested: name a labelled set with --target.",
        )
    return tested.notes


def _notes(
    pair: ModelPair, probe: ProbeSet, rows: Mapping[str, TransferRow], texts: bool, own: bool
) -> tuple[str, ...]:
    notes = list(pair.notes)
    one, other = pair.base.clip, pair.tuned.clip
    if own and one and other and one.preprocess != other.preprocess:
        notes.append("BASE and TUNED come with different preprocessing; BASE's was used for both.")
    for name, side, texts_from in (("BASE", pair.base, pair.tuned), ("TUNED", pair.tuned, pair.base)):
        if texts and not has_texts(side, texts_from):
            notes.append(
                f"{name} has no text tower that is known here: {texts_from.name}'s was used for both."
            )
    if texts and not same_texts(pair.base, pair.tuned):
        also = "" if pair.images_alike else " as well"
        notes.append(f"The text towers differ{also}: each side was tested with its own texts.")
    if len(probe) < 100:
        notes.append(f"Only {len(probe)} images were read: take small differences for noise.")
    notes += [*probe.facts.notes, *(note for row in rows.values() for note in row.notes)]
    if probe.facts.bad:
        notes.append(f"{len(probe.facts.bad)} unreadable images were left out.")
    return tuple(notes)
