"""Prepare targets and transfer sets of images with captions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipdrift.config import ContrastiveObjective, DataConfig, DataSet
from clipdrift.data.caption_store import CaptionSource, count_too_long
from clipdrift.data.deck import Deck
from clipdrift.data.errors import DataError
from clipdrift.data.joined import JoinedCaptions, joined_decks
from clipdrift.data.pairs import (
    TEST,
    VALIDATION,
    PairDivision,
    PairSource,
    divide_pairs,
    open_pairs,
    pixel_groups,
)
from clipdrift.data.pixels import Pixels
from clipdrift.model.clip import Clip
from clipdrift.runs.record import DataFacts, ImageCounts
from clipdrift.training.decks import DeckFactory, PairInputs, Target, TransferSet

_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def prepare_pairs(
    data: DataConfig, objective: ContrastiveObjective, clip: Clip, factory: DeckFactory
) -> Target:
    """Open a target of images with captions, decode it, and divide it by images.

    Raises:
        DataError: nothing to read, or too few images.
    """
    source, pixels = _opened(data.target, factory)
    groups = pixel_groups(pixels.digests)
    division = _divide(source.part[pixels.kept], groups, data)
    whole = Deck.of(pixels, factory.preprocess, factory.device)
    rows = {
        "train": division.train, "validation": division.validation,
        "probe": division.probe, "test": division.test,
    }  # fmt: skip
    captions = {purpose: source.captions.subset(pixels.kept[found]) for purpose, found in rows.items()}
    notes = [*source.notes, *division.notes, *_doubts(captions, clip, factory, data.flip)]
    for note in notes:
        factory.reporter.note(note)
    facts = _facts(source, pixels, rows, captions, notes)
    decks = {purpose: whole.subset(found) for purpose, found in rows.items()}
    pairs = PairInputs(
        train=captions["train"],
        validation=captions["validation"],
        probe=captions["probe"],
        test=captions["test"],
        groups=groups[division.train],
    )
    target = Target(decks, facts, pairs)
    if objective.replay is None:
        return target
    held_out = pixels.digests[np.concatenate([division.validation, division.probe, division.test])]
    return _replaying(target, pixels.digests[division.train], held_out, objective.replay, factory)


def _replaying(
    target: Target,
    trained: NDArray[np.uint64],
    held_out: NDArray[np.uint64],
    spec: DataSet,
    factory: DeckFactory,
) -> Target:
    """The target with another set's training images after its own.

    Args:
        trained, held_out: digests of the target's images that are trained on, and of those that are not.
    """
    assert target.pairs is not None
    source, pixels = _opened(spec, factory)
    part = source.part[pixels.kept]
    apart = np.isin(part, (VALIDATION, TEST))
    rows = np.flatnonzero(~apart) if not apart.all() else np.arange(len(part))
    fresh = ~np.isin(pixels.digests[rows], held_out)
    rows = rows[fresh]
    if not len(rows):
        raise DataError(f"{spec.name}: all of its images are held out in the target; there is none to replay")
    notes = list(source.notes)
    if not fresh.all():
        notes.append(f"{spec.name}: {int((~fresh).sum())} images are held out in the target; not replayed")
    for note in notes:
        factory.reporter.note(note)
    other = Deck.of(pixels, factory.preprocess, factory.device).subset(rows)
    decks = target.decks | {"train": joined_decks(target.decks["train"], other)}
    captions = source.captions.subset(pixels.kept[rows])
    pairs = replace(
        target.pairs,
        train=JoinedCaptions(target.pairs.train, captions),
        groups=pixel_groups(np.concatenate([trained, pixels.digests[rows]])),
        replayed=len(rows),
    )
    facts = target.facts.model_copy(
        update={
            "images": target.facts.images | {"replay": _counted(pixels, rows, pixels.bad)},
            "captions": target.facts.captions | {"replay": int(captions.counts.sum())},
            "notes": (*target.facts.notes, *notes),
        }
    )
    return Target(decks, facts, pairs)


def count_pairs(data: DataConfig) -> dict[str, int]:
    """Count images by purpose; none is decoded, so all count as different ones."""
    part = open_pairs(data.target).part
    found = _divide(part, np.arange(len(part)), data)
    return {name: len(getattr(found, name)) for name in ("train", "validation", "probe", "test")}


def _divide(part: NDArray[np.int8], groups: NDArray[np.int64], data: DataConfig) -> PairDivision:
    try:
        return divide_pairs(
            part,
            groups,
            seed=data.seed,
            train=data.train_images,
            validation=data.validation_images,
            probe=data.probe_images,
            test=data.test_images,
        )
    except DataError as error:
        raise DataError(f"{data.target.name}: {error}") from None


def retrieval_set(spec: DataSet, clip: Clip, factory: DeckFactory) -> TransferSet:
    """Open a transfer set of images with captions: its test images, or all where it names none.

    Raises:
        DataError: nothing to read.
    """
    source, pixels = _opened(spec, factory)
    part = source.part[pixels.kept]
    rows = np.flatnonzero(part == TEST) if (part == TEST).any() else np.arange(len(part))
    captions = source.captions.subset(pixels.kept[rows])
    notes = [*source.notes, *_doubts({"test": captions}, clip, factory, flip=False)]
    for note in notes:
        factory.reporter.note(note)
    facts = _facts(source, pixels, {"test": rows}, {"test": captions}, notes)
    deck = Deck.of(pixels, factory.preprocess, factory.device).subset(rows)
    return TransferSet(deck, None, facts, captions)


def _opened(spec: DataSet, factory: DeckFactory) -> tuple[PairSource, Pixels]:
    factory.reporter.stage(f"reading captions of {spec.name}")
    source = open_pairs(spec)
    return source, factory.pixels(source.images, source.name)


def _facts(
    source: PairSource,
    pixels: Pixels,
    rows: Mapping[str, NDArray[np.int64]],
    captions: Mapping[str, CaptionSource],
    notes: Sequence[str],
) -> DataFacts:
    """Facts of a set by purpose; images that cannot be read are told under the first."""
    first = next(iter(rows))
    return DataFacts(
        kind=source.kind,
        classes=(),
        prompts=(),
        images={
            purpose: _counted(pixels, found, pixels.bad if purpose == first else ())
            for purpose, found in rows.items()
        },
        captions={purpose: int(found.counts.sum()) for purpose, found in captions.items()},
        notes=tuple(notes),
        passed=tuple(map(astuple, source.passed)),
    )


def _counted(pixels: Pixels, rows: NDArray[np.int64], bad: tuple[tuple[str, str], ...]) -> ImageCounts:
    which = hashlib.sha256(pixels.fingerprint.encode() + np.ascontiguousarray(rows, "<i8").tobytes())
    return ImageCounts(count=len(rows), fingerprint=which.hexdigest()[:16], bad=bad)


def _doubts(captions: dict[str, CaptionSource], clip: Clip, factory: DeckFactory, flip: bool) -> list[str]:
    """Captions that the model does not read to their end, and those that mirroring makes wrong."""
    encoder: Any = clip.texts
    most, count, advance = encoder.longest, encoder.count_tokens, factory.reporter.advance
    factory.reporter.stage("counting the captions' tokens")
    long = sum(count_too_long(found, count, most, advance) for found in captions.values())
    total = sum(int(found.counts.sum()) for found in captions.values())
    notes = []
    if long:
        notes.append(f"{long} of {total} captions have more than the {most} tokens that {clip.name} reads")
    if flip and "train" in captions:
        sides = sum(bool(_SIDES.search(text)) for own in captions["train"] for text in own)
        if sides:
            notes.append(
                f"{sides} training captions speak of left or right, and half of the images are mirrored; "
                "data.flip = false leaves them as they are"
            )
    return notes
