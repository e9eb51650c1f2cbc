"""Prepare a run from its configuration: the backbone, decks of images, class features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from clipdrift import accelerator
from clipdrift.adapt import check_method, check_penalties
from clipdrift.adapt.tower_parts import TowerParts, Towers
from clipdrift.config import (
    ConfigError,
    ContrastiveObjective,
    DataConfig,
    DataSet,
    ModelConfig,
    Penalty,
    RunConfig,
    ZeroShotKl,
)
from clipdrift.data.codes import are_codes
from clipdrift.data.deck import Deck
from clipdrift.data.errors import DataError
from clipdrift.data.images import ImageSet
from clipdrift.data.pairs import open_pairs
from clipdrift.data.repeats import repeats_note
from clipdrift.data.sources import Source, fingerprint_path, open_source
from clipdrift.data.splits import divide
from clipdrift.data.worlds import WORLDS
from clipdrift.model.clip import SHIPPED, Clip, fingerprint_model, load, on_side, shipped_folder
from clipdrift.model.openclip_names import local_place
from clipdrift.model.towers import tower_of
from clipdrift.rules.run_rules import resolve_rules
from clipdrift.runs.record import DataFacts
from clipdrift.runs.reporter import Reporter
from clipdrift.training.backbone_cache import BackboneCache
from clipdrift.training.compared_texts import compared_texts
from clipdrift.training.decks import DeckFactory, PairInputs, Target, TransferSet, facts_of
from clipdrift.training.pair_preparation import count_pairs, prepare_pairs, retrieval_set


@dataclass(frozen=True, eq=False)
class RunInputs:
    """Inputs of a run before anything is adapted.

    Attributes:
        pairs: where images have captions instead of labels.
        compared: texts of another set, where a penalty is taken over one.
    """

    clip: Clip
    train: Deck
    validation: Deck
    probe: Deck
    test: Deck
    target: DataFacts
    transfer: dict[str, TransferSet]
    device: torch.device
    backbone_cache: BackboneCache
    pairs: PairInputs | None = None
    compared: tuple[str, ...] | None = None


class Resolver:
    """Turns names of existing folders into paths and fingerprints local copies, each of them once."""

    def __init__(self) -> None:
        self._models: dict[ModelConfig, ModelConfig] = {}
        self._sets: dict[DataSet, DataSet] = {}

    def __call__(self, config: RunConfig) -> RunConfig:
        """The configuration that is stored with the run and of which its key is taken.

        Raises:
            ConfigError: a path that is not there, a rule that nothing can judge.
        """
        if config.model not in self._models:
            self._models[config.model] = _resolve_model(config.model)
        data = config.data
        target = self._set(data.target, "data.target")
        transfer = tuple(self._set(spec, f"data.transfer.{i}") for i, spec in enumerate(data.transfer))
        found: dict[str, Any] = {
            "model": self._models[config.model],
            "data": data.model_copy(update={"target": target, "transfer": transfer}),
        }
        objective = config.objective
        if isinstance(objective, ContrastiveObjective) and objective.replay is not None:
            replay = self._set(objective.replay, "objective.replay")
            found["objective"] = objective.model_copy(update={"replay": replay})
        if any(isinstance(one, ZeroShotKl) and one.over is not None for one in config.penalty):
            found["penalty"] = tuple(map(self._penalty, config.penalty))
        return resolve_rules(config.model_copy(update=found))

    def _penalty(self, penalty: Penalty) -> Penalty:
        """Refer to the set that a penalty is taken over by its content."""
        if not isinstance(penalty, ZeroShotKl) or penalty.over is None:
            return penalty
        return penalty.model_copy(update={"over": self._set(penalty.over, "penalty.over")})

    def _set(self, spec: DataSet, key: str) -> DataSet:
        if spec not in self._sets:
            self._sets[spec] = _resolve_set(spec, key)
        return self._sets[spec]


def resolve(config: RunConfig) -> RunConfig:
    """One configuration as :class:`Resolver` turns it."""
    return Resolver()(config)


def _resolve_model(model: ModelConfig) -> ModelConfig:
    if model.path is None and Path(model.name).is_dir():
        model = model.model_copy(update={"path": model.name, "name": Path(model.name).name})
    if model.path is not None:
        if not Path(model.path).expanduser().is_dir():
            raise ConfigError(f"model.path = {model.path!r}: no such folder")
        model = model.model_copy(update={"fingerprint": fingerprint_model(model.path)})
    elif model.name.startswith("open_clip:") and (place := local_place(model.name)) is not None:
        model = model.model_copy(update={"fingerprint": fingerprint_model(place)})
    elif model.name in SHIPPED:  # their weights may change from one release to the next
        model = model.model_copy(update={"fingerprint": fingerprint_model(shipped_folder(model.name))})
    return model


def _resolve_set(spec: DataSet, key: str) -> DataSet:
    if spec.path is None and spec.name not in WORLDS and Path(spec.name).is_dir():
        spec = spec.model_copy(update={"path": spec.name, "name": Path(spec.name).name})
    if spec.path is None:
        return spec
    if not Path(spec.path).expanduser().exists():
        raise ConfigError(f"{key}.path = {spec.path!r}: no such folder")
    return spec.model_copy(update={"fingerprint": fingerprint_path(Path(spec.path).expanduser())})


def pick_device(name: str) -> torch.device:
    """``auto`` is a GPU where there is one. Raises ConfigError for a device that is not there."""
    if name == "auto":
        return accelerator.default_device()
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: unknown; legal: auto, cpu, cuda, cuda:N") from None
    if why := accelerator.why_not(device):
        raise ConfigError(f"--device {name}: {why}")
    return device


def prepare(config: RunConfig, cache: Path, device: torch.device, reporter: Reporter) -> RunInputs:
    """Load, divide, decode. ``config`` is a resolved one.

    Raises:
        ModelError, DataError: as loading and opening do.
    """
    reporter.stage(f"loading {config.model.name}")
    with on_side("backbone"):
        clip = load(config.model)
    for note in clip.notes:
        reporter.note(note)
    objective = config.objective
    towers: Towers = ("image",)
    if isinstance(objective, ContrastiveObjective):
        towers = objective.trained_towers(config.method)
    check_method(clip, config.method, towers)
    text_blocks = TowerParts.of(clip, "text").count if "text" in towers else 0
    tower = tower_of(clip.model)
    pooled = tower.reader == "pooling head"
    check_penalties(config.penalty, clip.blocks, text_blocks, towers, pooled, tower.lacks("entropy"))
    compared = compared_texts(config.penalty, clip.image_size)
    clip.model.to(device)
    backbone_cache = BackboneCache.of(cache, clip, device, reporter)
    factory = DeckFactory(
        clip.preprocess, cache, device, reporter, config.data.seed, config.data.skip_bad_images
    )
    if isinstance(objective, ContrastiveObjective):
        target = prepare_pairs(config.data, objective, clip, factory)
    else:
        target = _classified(config, clip, factory)
    transfer = {}
    for spec in config.data.transfer:
        if spec.retrieval:
            transfer[spec.name] = retrieval_set(spec, clip, factory)
            continue
        opened = open_source(spec, image_size=clip.image_size, parts=("test",))
        for note in opened.notes:
            reporter.note(note)
        ensemble = config.evaluation.prompt_ensemble
        transfer[spec.name] = factory.transfer(clip, spec, opened, ensemble, backbone_cache)
    return RunInputs(
        clip=clip,
        train=target.decks["train"],
        validation=target.decks["validation"],
        probe=target.decks["probe"],
        test=target.decks["test"],
        target=target.facts,
        transfer=transfer,
        pairs=target.pairs,
        compared=compared,
        device=device,
        backbone_cache=backbone_cache,
    )


def _classified(config: RunConfig, clip: Clip, factory: DeckFactory) -> Target:
    """A target of labelled images, decoded. Its facts name the prompts that its class texts are made with."""
    source, wanted = _divided(config.data, clip.image_size)
    zero_shot = config.head == "zero_shot"
    if zero_shot and are_codes(source.classes):
        raise ConfigError(
            f"head = 'zero_shot': classes of {source.name} are called by codes ({source.classes[0]}, ...), "
            "of which a text tower knows nothing; set data.target.classes to readable names"
        )
    pixels = {purpose: factory.pixels(part, f"{source.name} {purpose}") for purpose, part in wanted.items()}
    if repeats := repeats_note(source.name, pixels["train"], pixels["test"], wanted["test"]):
        source = replace(source, notes=(*source.notes, repeats))
    for note in source.notes:
        factory.reporter.note(note)
    made = {purpose: factory.deck_of(decoded) for purpose, decoded in pixels.items()}
    prompts = source.prompts if zero_shot and config.evaluation.prompt_ensemble else source.prompts[:1]
    facts = facts_of(source, {purpose: counted for purpose, (_, counted) in made.items()}, prompts)
    return Target({purpose: deck for purpose, (deck, _) in made.items()}, facts)


def _divided(data: DataConfig, image_size: int) -> tuple[Source, dict[str, ImageSet]]:
    """The target and its images by purpose; nothing is decoded."""
    source = open_source(data.target, image_size=image_size, train_per_class=_asked_of_world(data))
    if source.train is None or source.test is None:
        raise DataError(f"{source.name}: a target needs a training and a test split")
    division = divide(
        source.train.labels,
        source.test.labels,
        protocol=data.protocol,
        seed=data.seed,
        train_per_class=data.train_per_class,
        validation_per_class=data.validation_per_class,
        probe_per_class=data.probe_per_class,
        classes=source.classes,
    )
    halves = {"train": source.train, "test": source.test}
    return source, {
        "train": source.train.subset(division.train),
        "validation": halves[division.validation_from].subset(division.validation),
        "probe": halves[division.probe_from].subset(division.probe),
        "test": source.test.subset(division.test),
    }


def count_images(config: RunConfig, image_size: int) -> dict[str, int]:
    """Count the images a run works on: by purpose, and of each transfer set under ``transfer <name>``.

    Also ``classes``, those of the target. Raises DataError as :func:`prepare` does; nothing is decoded, so
    that identical images are not known.
    """
    data = config.data
    if isinstance(config.objective, ContrastiveObjective):
        counts = {"classes": 0} | count_pairs(data)
    else:
        source, parts = _divided(data, image_size)
        counts = {"classes": len(source.classes)} | {name: len(part) for name, part in parts.items()}
    for spec in data.transfer:
        if spec.retrieval:
            counts[f"transfer {spec.name}"] = len(open_pairs(spec).images)
            continue
        opened = open_source(spec, image_size=image_size, parts=("test",))
        if opened.test is None:
            raise DataError(f"{spec.name}: a transfer set needs a test split")
        there = len(opened.test) - len(opened.classes) * (spec.skip_per_class or 0)
        asked = len(opened.classes) * spec.per_class if spec.per_class else there
        counts[f"transfer {spec.name}"] = min(asked, there)
    return counts


def _asked_of_world(data: DataConfig) -> int | None:
    """Training images a generated world has to draw per class, where more than its usual number is wanted."""
    world = WORLDS.get(data.target.name)
    parts = (data.train_per_class, data.validation_per_class or 0, data.probe_per_class or 0)
    if world is None or data.train_per_class is None:
        return None
    return max(world.train, sum(p or 0 for p in parts))
