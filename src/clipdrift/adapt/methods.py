"""The methods' table. To add one: options in ``config/methods.py``, a function and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from clipdrift.adapt.adapted import Adapted, Artefact
from clipdrift.adapt.heads import Head, linear_head
from clipdrift.adapt.objective import Contrastive, CrossEntropy, Objective
from clipdrift.adapt.tower_parts import TowerParts, Towers
from clipdrift.config import (
    BiasOnly,
    ConfigError,
    Flyp,
    FullFineTuning,
    LastBlocks,
    LinearProbe,
    LogitScale,
    LoraOptions,
    LoraPlus,
    LpFt,
    Method,
    NormOnly,
    Projections,
)
from clipdrift.config.methods import EXTENSIONS
from clipdrift.extensions import ExtensionError, loaded
from clipdrift.model.clip import Clip, logit_bias_of
from clipdrift.model.quiet import quiet
from clipdrift.model.towers import text_tower_of, tower_of


@dataclass(frozen=True)
class MethodPlan:
    """Result of a method, besides which parameters are trained."""

    artefact: Artefact = "model"
    peft: PeftModel | None = None
    objective: Objective = field(default_factory=CrossEntropy)
    rates: Mapping[str, float] = field(default_factory=dict)
    head_warmup: tuple[int, float] | None = None


def _train_towers(clip: Clip, frozen_blocks: int, freeze_embeddings: bool, towers: Towers) -> None:
    """Train towers and their projections, except the first blocks and, on request, the stem before them."""
    for name in towers:
        tower = TowerParts.of(clip, name)
        tower.train()
        tower.train(tower.layout.blocks[:frozen_blocks], on=False)
        if freeze_embeddings:
            tower.train(tower.layout.stem, on=False)


def _keep(clip: Clip, wanted: Callable[[str, nn.Module], bool]) -> None:
    """Keep trainable only parameters that ``wanted`` accepts, by their own name and module."""
    for module in clip.model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and not wanted(name, module):
                parameter.requires_grad_(False)


def _full_ft(clip: Clip, options: FullFineTuning, texts: Sequence[str], towers: Towers) -> MethodPlan:
    _train_towers(clip, options.frozen_blocks, options.freeze_embeddings, towers)
    return MethodPlan()


def _lora(
    clip: Clip, options: LoraOptions, texts: Sequence[str], towers: Towers, **variant: Any
) -> MethodPlan:
    for name in towers:
        (tower_of if name == "image" else text_tower_of)(clip.model).make_adaptable()
    layouts = [TowerParts.of(clip, name).layout for name in towers]
    # whole paths: the bare names would hit both towers
    matrices = [path for one in layouts for path in one.matrices_of(options.targets, options.frozen_blocks)]
    projections = [name for one in layouts for name in one.projection_modules or one.projection]
    config = LoraConfig(
        r=options.rank,
        lora_alpha=2 * options.rank if options.alpha is None else options.alpha,
        lora_dropout=options.dropout,
        bias="none",
        target_modules="|".join(matrices),
        modules_to_save=projections or None if options.train_projection else None,
        **variant,
    )
    with quiet():
        peft = get_peft_model(clip.model, config)
    if not isinstance(peft, PeftModel):
        raise TypeError(f"peft returned {type(peft).__name__}")
    return MethodPlan("adapter", peft)


def _rslora(clip: Clip, options: LoraOptions, texts: Sequence[str], towers: Towers) -> MethodPlan:
    return _lora(clip, options, texts, towers, use_rslora=True)


def _dora(clip: Clip, options: LoraOptions, texts: Sequence[str], towers: Towers) -> MethodPlan:
    return _lora(clip, options, texts, towers, use_dora=True)


def _lora_plus(clip: Clip, options: LoraPlus, texts: Sequence[str], towers: Towers) -> MethodPlan:
    plan = _lora(clip, options, texts, towers)
    return MethodPlan("adapter", plan.peft, rates={".lora_B.": options.rate_ratio})


def _linear_probe(clip: Clip, options: LinearProbe, texts: Sequence[str], towers: Towers) -> MethodPlan:
    return MethodPlan("head")


def _projections(clip: Clip, options: Projections, texts: Sequence[str], towers: Towers) -> MethodPlan:
    for name in towers:
        tower = TowerParts.of(clip, name)
        tower.train(tower.layout.projection)
    return MethodPlan()


def _last_blocks(clip: Clip, options: LastBlocks, texts: Sequence[str], towers: Towers) -> MethodPlan:
    for name in towers:
        blocks = TowerParts.of(clip, name).count
        _train_towers(clip, blocks - options.blocks, freeze_embeddings=True, towers=(name,))
    return MethodPlan()


def _bias_only(clip: Clip, options: BiasOnly, texts: Sequence[str], towers: Towers) -> MethodPlan:
    _train_towers(clip, options.frozen_blocks, options.freeze_embeddings, towers)
    # the biases of queries, keys and values: in_proj_bias in torch's attention, the others in timm's of Eva
    _keep(clip, lambda name, module: name in ("bias", "in_proj_bias", "q_bias", "v_bias"))
    return MethodPlan()


def _norm_only(clip: Clip, options: NormOnly, texts: Sequence[str], towers: Towers) -> MethodPlan:
    _train_towers(clip, options.frozen_blocks, options.freeze_embeddings, towers)
    norms = tuple(norm for name in towers for norm in TowerParts.of(clip, name).layout.norms)
    _keep(clip, lambda name, module: isinstance(module, norms))
    return MethodPlan()


def _lp_ft(clip: Clip, options: LpFt, texts: Sequence[str], towers: Towers) -> MethodPlan:
    _train_towers(clip, options.frozen_blocks, options.freeze_embeddings, towers)
    return MethodPlan(head_warmup=(options.probe_epochs, options.probe_learning_rate))


def _flyp(clip: Clip, options: Flyp, texts: Sequence[str], towers: Towers) -> MethodPlan:
    if not texts:
        raise ValueError("flyp needs the texts of the classes")
    _train_towers(clip, options.frozen_blocks, options.freeze_embeddings, towers)
    if options.train_texts:
        TowerParts.of(clip, "text").train()
        clip.model.logit_scale.requires_grad_(True)
        if options.loss == "sigmoid":
            clip.model.logit_bias.requires_grad_(True)
    return MethodPlan(objective=Contrastive(clip, tuple(texts), options.train_texts, options.loss))


def _logit_scale(clip: Clip, options: LogitScale, texts: Sequence[str], towers: Towers) -> MethodPlan:
    return MethodPlan()  # the loss has it trained


METHODS: dict[str, Callable[[Clip, Any, Sequence[str], Towers], MethodPlan]] = {
    "full_ft": _full_ft,
    "lora": _lora,
    "rslora": _rslora,
    "dora": _dora,
    "lora_plus": _lora_plus,
    "linear_probe": _linear_probe,
    "projections": _projections,
    "last_blocks": _last_blocks,
    "bias_only": _bias_only,
    "norm_only": _norm_only,
    "lp_ft": _lp_ft,
    "flyp": _flyp,
    "logit_scale": _logit_scale,
}
"""What prepares the model, by name; options and words are in ``config/methods.py``. All is frozen before."""


def prepared(
    clip: Clip, options: Method, seed: int, texts: Sequence[str] = (), towers: Towers = ("image",)
) -> MethodPlan:
    """Prepare the model by a method of this package or of another one, all else frozen.

    Args:
        seed: of adapters.
        texts: one for each class, where there are classes.
        towers: what a method of this package is applied to.
    """
    torch.manual_seed(seed)  # peft draws its adapters from the global generator
    clip.model.requires_grad_(False)
    if options.name in METHODS:
        return METHODS[options.name](clip, options, texts, towers)
    extension = EXTENSIONS.usable[options.name]
    plan = loaded(extension, extension.spec.prepare)(clip, options, texts)
    if not isinstance(plan, MethodPlan):
        raise ExtensionError(
            f"method {options.name} of {extension.distribution}: {extension.spec.prepare} returned "
            f"{type(plan).__name__}, not a MethodPlan"
        )
    return plan


def adapt(
    clip: Clip,
    options: Method,
    classes: int,
    seed: int,
    texts: Sequence[str] = (),
    begins: Head | None = None,
) -> Adapted:
    """Prepare ``clip`` for training by the method that ``options`` names; changes the model in place.

    Args:
        clip: the backbone. Measure it before: afterwards this object is the adapted model.
        options: the method and its options.
        classes: size of the head.
        seed: of the head and the adapters.
        texts: one for each class, which flyp trains against.
        begins: the head to begin with; none: a linear one, drawn at random.

    Raises:
        ModelError: a model that cannot be trained.
        ConfigError: more blocks frozen or trained than there are; matrices for adapters that it has not.
    """
    check_method(clip, options)
    plan = prepared(clip, options, seed, texts)
    head = linear_head(clip, classes, seed) if begins is None else begins
    if isinstance(plan.objective, Contrastive):
        if not isinstance(head, nn.Linear):
            raise ConfigError(
                f"head = 'zero_shot' with method {options.name}: its head is the class texts at every step"
            )
        head.requires_grad_(False)
        with torch.no_grad():
            head.bias.zero_()
        plan.objective.refresh(head)
    return Adapted(clip, head, plan.artefact, plan.peft, plan.objective, dict(plan.rates), plan.head_warmup)


def check_method(clip: Clip, options: Method, towers: Towers = ("image",)) -> None:
    """Refuse what cannot be done with this model; to be called before data are prepared.

    Args:
        towers: what the method is to be applied to.

    Raises:
        ModelError, ConfigError: as :func:`adapt`.
    """
    image = TowerParts.of(clip, "image")
    parts = [image if name == "image" else TowerParts.of(clip, name) for name in towers]
    if isinstance(options, Flyp):
        if options.train_texts:
            TowerParts.of(clip, "text")
        if options.loss == "sigmoid" and logit_bias_of(clip.model) is None:
            raise ConfigError(
                f"method.loss = 'sigmoid': {clip.name} has no logit bias, as it was not trained with that "
                "loss; take softmax"
            )
    if not parts:
        return
    fewest = min(parts, key=lambda one: one.count)
    blocks, where = fewest.count, " in its text tower" if fewest.tower == "text" else ""
    if isinstance(options, Projections):
        for one in parts:
            if not one.layout.projection:
                raise ConfigError(
                    f"method projections: the {one.tower} tower of {clip.name} has no projection to train"
                )
    for key, least in (("frozen_blocks", 0), ("blocks", 1)):
        asked = dict(options).get(key)
        # adapters must have somewhere to be; other methods still train the final layer norm and projection
        most = blocks - (key == "frozen_blocks" and isinstance(options, LoraOptions))
        if asked is not None and asked > most:
            raise ConfigError(
                f"method.{key} = {asked}: {clip.name} has {blocks} blocks{where}; legal: {least} to {most}"
            )
    if not isinstance(options, LoraOptions):
        return
    for one in parts:
        if not one.layout.matrices:
            raise ConfigError(
                f"method {options.name}: the {one.tower} tower of {clip.name} has no matrices that adapters "
                "are put on, as its blocks are convolutions; full_ft, last_blocks, norm_only and bias_only "
                "train such towers"
            )
        if lost := [target for target in options.targets if target not in one.layout.matrices]:
            raise ConfigError(
                f"method.targets: the blocks of the {one.tower} tower of {clip.name} have no matrix "
                f"{lost[0]!r}; legal: {', '.join(one.layout.matrices)}"
            )
