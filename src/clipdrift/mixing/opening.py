"""Open several runs on one backbone: what may be mixed, their weights, a live model that takes any mix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipdrift.adapt.heads import load_head
from clipdrift.comparison import Side
from clipdrift.comparison.measuring import settle
from clipdrift.comparison.models import ModelLike
from clipdrift.comparison.pairs import ModelPair, open_pair
from clipdrift.config import ModelConfig
from clipdrift.mixing.averaging import RunWeights
from clipdrift.repair import RepairError
from clipdrift.repair.context import RepairContext, side_of
from clipdrift.repair.endpoints import HEAD, Endpoints, MovingTensor, movable, plain_ends
from clipdrift.repair.open_run import finished_record, open_run, run_folder
from clipdrift.repair.options import Options
from clipdrift.runs.layout import WEIGHTS
from clipdrift.runs.record import Record
from clipdrift.texts import rate


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """A run that is to be mixed."""

    folder: Path
    record: Record

    @property
    def text(self) -> str:
        config = self.record.config
        return f"{config.method.name} {rate(config.optim.learning_rate)} seed {config.seed}"

    @property
    def form(self) -> str:
        return str(self.record.artefacts.get("kind", "model"))


@dataclass(frozen=True, eq=False)
class MixContext:
    """Everything a mix works on.

    Attributes:
        context: the first run's, whose live model moves between the backbone and any mix.
        weights: of all runs.
        sides: the runs as they stand in a result.
        notes: what a reader should know of all of them.
    """

    context: RepairContext
    runs: tuple[OpenedRun, ...]
    weights: RunWeights
    sides: tuple[Side, ...]
    notes: tuple[str, ...]

    @torch.no_grad()
    def put(self, weights: Mapping[str, Tensor], head: Mapping[str, Tensor] | None) -> None:
        """Make the live model, and its head, that of some weights."""
        for name, move in self.context.measurer.endpoints.moves.items():
            move.tensor.copy_(weights[name])
        own: nn.Module | None = self.context.measurer.head
        if own is not None and head is not None:
            own.load_state_dict(dict(head), strict=True)


def checked_runs(given: Sequence[ModelLike]) -> tuple[OpenedRun, ...]:
    """The runs, from their records alone: each of one backbone, on the same images.

    Raises:
        RepairError: fewer than two, one twice, or two that cannot be mixed; says which and why.
    """
    if len(given) < 2:
        raise RepairError(f"{len(given)} run: a mix needs at least two; name their folders, runs/<key>")
    folders = [run_folder(one, "give the folders of finished runs (runs/<key>)") for one in given]
    for at, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:at]]:
            raise RepairError(f"{folder}: named twice; each run counts once")
    runs = tuple(OpenedRun(folder, finished_record(folder)) for folder in folders)
    for other in runs[1:]:
        if why := _apart(runs[0].record, other.record):
            raise RepairError(f"{runs[0].folder} and {other.folder} cannot be mixed: {why}")
    return runs


def _apart(one: Record, other: Record) -> str:
    """Why two runs cannot be mixed; empty: they can."""
    if not _same_backbone(one.config.model, other.config.model):
        names = [record.config.model.path or record.config.model.name for record in (one, other)]
        return f"their backbones are {names[0]} and {names[1]}, with different weights"
    objectives = [record.config.objective.name for record in (one, other)]
    if objectives[0] != objectives[1]:
        return f"the objective of one is {objectives[0]}, that of the other {objectives[1]}"
    if (one.config.method.name == "flyp") != (other.config.method.name == "flyp"):
        return "the head of one is its class texts (flyp), that of the other was trained"
    if one.config.head != other.config.head:
        return "the head of one began as the texts of the classes, that of the other was drawn at random"
    if one.target.classes != other.target.classes:
        counts = [
            f"{record.config.data.target.name} ({len(record.target.classes)})" for record in (one, other)
        ]
        return f"their heads know other classes, those of {counts[0]} and {counts[1]}"
    for purpose, why in (
        ("validation", "one may have been trained on what would choose"),
        ("test", "their test accuracies are of different images"),
        ("probe", "their internals were read on different images"),
    ):
        prints = [record.target.images[purpose].fingerprint for record in (one, other)]
        if prints[0] != prints[1]:
            return f"their {purpose} images differ (data.seed, data.{purpose}_per_class, data.target): {why}"
    return ""


def _same_backbone(one: ModelConfig, other: ModelConfig) -> bool:
    """By the content of the files; of a model on the hub, which has none recorded, by everything that names
    it."""
    if one.fingerprint and other.fingerprint:
        return one.fingerprint == other.fingerprint
    return one == other


def open_mix(runs: tuple[OpenedRun, ...], options: Options) -> MixContext:
    """Load all runs, and keep of each what it moved.

    Raises:
        RepairError, PairError, ModelError, DataError, ConfigError: in one line what is wrong.
    """
    context = open_run(runs[0].folder, "merged", options)
    measurer = context.measurer
    # heads have a mean of their own
    own = {name: move for name, move in measurer.endpoints.moves.items() if move.place != HEAD}
    if not own:
        raise RepairError(f"{runs[0].folder} has the very weights of its backbone: there is nothing to mix")
    device, reporter = str(measurer.device), measurer.reporter
    live = movable(measurer.endpoints.model)
    starts = {name: _kept(move.start) for name, move in own.items()}
    ends = [{name: _kept(move.end) for name, move in own.items()}]
    sides = [context.sides[1]]
    for run in runs[1:]:
        reporter.stage(f"loading {run.folder}")
        assert context.base.clip is not None  # a run has its backbone whole
        pair = open_pair(context.base.clip, run.folder, any_base=True)
        settle(pair.tuned, device)
        found = _moves(pair, live)
        starts |= {name: _kept(move.start) for name, move in found.items()}
        ends.append({name: _kept(move.end) for name, move in found.items()})
        sides.append(side_of(pair.tuned, pair))
    moves = {
        name: MovingTensor(
            live[name][0],
            start.to(live[name][0].device),
            ends[0].get(name, start).to(live[name][0].device),
            live[name][1],
        )
        for name, start in starts.items()
    }
    endpoints = replace(measurer.endpoints, moves=moves, form="model")
    heads = [] if measurer.head is None else [_head(run) for run in runs]
    weights = RunWeights(starts, ends, heads)
    context = replace(context, measurer=replace(measurer, endpoints=endpoints))
    return MixContext(context, runs, weights, tuple(sides), tuple(_notes(context, runs)))


def _moves(pair: ModelPair, live: Mapping[str, Any]) -> Mapping[str, MovingTensor]:
    found: Endpoints = plain_ends(pair.base.model, pair.tuned.model, pair.tuned.clip, own=True)
    if not found.moves:
        raise RepairError(f"{pair.tuned.name} has the very weights of its backbone: there is nothing to mix")
    odd = sorted(found.moves.keys() - live.keys())
    if odd:
        raise RepairError(f"{pair.tuned.name}: {odd[0]} has no place in the first run's model")
    return found.moves


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _head(run: OpenedRun) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in load_head(run.folder / WEIGHTS).state_dict().items()}


def _notes(context: RepairContext, runs: Sequence[OpenedRun]) -> list[str]:
    notes = list(context.notes)
    adapters = sum(run.form == "adapter" for run in runs)
    if adapters:
        notes.append(
            f"{adapters} of the {len(runs)} runs are adapters: merged into the weights to be mixed, so that "
            "what is saved is a full model."
        )
    if context.measurer.head is not None and context.measurer.refresh is None:
        zero_shot = runs[0].record.config.head == "zero_shot"
        own = "the backbone's would be its class texts" if zero_shot else "the backbone has none"
        notes.append(f"The head of a mix is the mean of its runs' heads; {own}.")
        seeds = sorted({run.record.config.seed for run in runs})
        if len(seeds) > 1 and not zero_shot:
            notes.append(
                f"Runs of different seeds ({', '.join(map(str, seeds))}) began with differently drawn heads, "
                "and features learnt for one head do not fit another: such soups may lose accuracy that "
                "soups of one seed, or of flyp, do not."
            )
    sets = {tuple(sorted(spec.name for spec in run.record.config.data.transfer)) for run in runs}
    if len(sets) > 1:
        named = ", ".join(context.measurer.sets) or "none"
        notes.append(f"The runs have different transfer sets; all were tested on: {named}.")
    return notes
