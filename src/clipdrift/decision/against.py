"""Read BASE alone into a baseline, and a tuned model against one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from clipdrift.comparison import Comparison, Side
from clipdrift.comparison.abilities import open_test_set, read_zero_shot, texts_of, transfer_row
from clipdrift.comparison.compare import deck_factory
from clipdrift.comparison.images import ImagesLike, ProbeSet, preprocess_of
from clipdrift.comparison.measuring import open_probe, settle
from clipdrift.comparison.models import ModelLike, OpenedModel, PairError, open_model
from clipdrift.comparison.pairs import shape_of, side_of
from clipdrift.comparison.samples import Samples
from clipdrift.comparison.tables import ability, compared
from clipdrift.config import DataSet
from clipdrift.data.preprocess import Preprocess
from clipdrift.decision.baseline import Baseline, same_images, same_set, write_baseline
from clipdrift.decision.result import CheckError
from clipdrift.measures import Internals, cka_matrix, internal_readings, read_internals
from clipdrift.model.clip import on_side
from clipdrift.model.towers import tower_of
from clipdrift.model.weights import effective_weights
from clipdrift.runs.record import environment
from clipdrift.runs.reporter import Reporter


@dataclass(frozen=True)
class Options:
    """How images and models are read, whatever they are."""

    limit: int
    seed: int
    batch_size: int | None
    preprocess: object
    cache: str | Path | None
    device: str
    skip_bad: bool
    reporter: Reporter


@dataclass(frozen=True, eq=False)
class _One:
    """One opened model with its images."""

    side: OpenedModel
    place: torch.device
    preprocess: Preprocess | None
    probe: ProbeSet

    def read(self, flow: bool, options: Options) -> Internals:
        options.reporter.stage(f"reading {self.side.name}")
        images = self.probe.on(self.place)
        progress = options.reporter.advance
        return read_internals(self.side.model, images, options.batch_size, flow=flow, progress=progress)


def keep_baseline(
    path: str | Path, base: ModelLike, images: ImagesLike, sets: Sequence[DataSet], options: Options
) -> Path:
    """Read BASE on its images and transfer sets, and write what a check needs of it."""
    options.reporter.stage("loading BASE")
    with on_side("BASE"):
        side = open_model(base)
    one = _open(side, images, sets, preprocess_of(options.preprocess, side.clip), options)
    internals = one.read(True, options)
    tested = {}
    for spec in sets:
        factory = deck_factory(
            side, one.preprocess, options.cache, options.seed, options.skip_bad, options.reporter
        )
        test = open_test_set(spec, tower_of(side.model).geometry.image_size, factory)
        clip = texts_of(side, side)
        tested[spec.name] = (
            spec,
            test,
            read_zero_shot(side, clip, test, options.batch_size, options.reporter),
        )
    options.reporter.stage(f"writing {path}")
    return write_baseline(
        path,
        base=_side(side),
        shape=shape_of(tower_of(side.model)),
        probe=one.probe,
        preprocess=one.preprocess,
        internals=internals,
        tested=tested,
        limit=options.limit,
        seed=options.seed,
    )


def compare_with_baseline(
    baseline: Baseline,
    tuned: ModelLike,
    images: ImagesLike,
    sets: Sequence[DataSet],
    flow: bool,
    options: Options,
) -> tuple[Comparison, Samples]:
    """Compare a tuned model with a kept BASE: everything but weights and text towers.

    Raises:
        CheckError: other images, another transfer set, a model of another shape.
    """
    facts = baseline.facts
    options.reporter.stage("loading TUNED")
    with on_side("TUNED"):
        side = open_model(tuned)
    shape = shape_of(tower_of(side.model))
    odd = [
        f"{name.replace('_', ' ')} {old} against {new}"
        for (name, old), new in zip(
            facts.shape.model_dump().items(), shape.model_dump().values(), strict=True
        )
        if old != new
    ]
    if odd:
        raise CheckError(
            f"{side.name}: not of the shape of {facts.base.name}, whose baseline this is: {', '.join(odd)}"
        )
    own = side.clip.preprocess if side.clip else None
    preprocess = baseline.preprocess
    one = _open(side, images, sets, preprocess, options)
    same_images(baseline, one.probe)
    after = one.read(flow, options)
    options.reporter.stage("comparing representations")
    before = baseline.internals
    after = replace(  # what extensions measure here, the baseline may lack
        after,
        attention={name: v for name, v in after.attention.items() if name in before.attention},
        whole={name: v for name, v in after.whole.items() if name in before.whole},
    )
    samples = Samples(before, after, preprocess, one.probe)
    measures = compared(internal_readings(before, after))
    rows = {}
    for spec in sets:
        factory = deck_factory(
            side, preprocess, options.cache, options.seed, options.skip_bad, options.reporter
        )
        test = open_test_set(spec, shape.image_size, factory)
        same_set(baseline, test)
        seen = read_zero_shot(side, texts_of(side, side), test, options.batch_size, options.reporter)
        samples.zero_shot[spec.name] = (test, baseline.zero_shot[spec.name], seen)
        rows[spec.name] = transfer_row(test, baseline.zero_shot[spec.name], seen)
    notes = [f"BASE was read from a baseline of {facts.base.name}; weights were not compared."]
    if own is not None and own != preprocess:
        notes.append("BASE and TUNED come with different preprocessing; BASE's was used for both.")
    notes += [*one.probe.facts.notes, *(note for row in rows.values() for note in row.notes)]
    found = Comparison(
        base=facts.base,
        tuned=_side(side),
        shape=shape,
        images=one.probe.facts,
        measures=measures | ability(rows),
        cka_matrix=tuple(tuple(row) for row in cka_matrix(before, after).tolist()),
        transfer=rows,
        notes=tuple(notes),
        environment=environment(str(one.place)),
    )
    return found, samples


def _open(
    side: OpenedModel,
    images: ImagesLike,
    sets: Sequence[DataSet],
    preprocess: Preprocess | None,
    options: Options,
) -> _One:
    if sets and side.clip is None:
        raise PairError("zero-shot needs a tokenizer: give the model by name, by folder or as a Clip")
    place = settle(side, options.device)
    probe = open_probe(
        side,
        images,
        options.limit,
        options.seed,
        preprocess,
        options.cache,
        place,
        options.skip_bad,
        options.reporter,
    )
    return _One(side, place, preprocess, probe)


def _side(side: OpenedModel) -> Side:
    return side_of(side, effective_weights(side.model))
