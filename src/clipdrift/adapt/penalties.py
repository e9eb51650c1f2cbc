"""The penalties' table. To add one: options in ``config/penalties.py``, a class and a line here.

Each is computed in float32 on the CLS rows, states, embedding or weights of the batch's own forward pass;
those on the text tower are in ``text_penalties.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from clipdrift import formulas
from clipdrift.adapt.adapted import Adapted
from clipdrift.adapt.attention_blocks import AttentionBlocks
from clipdrift.adapt.entropy_pull import PullTerm
from clipdrift.adapt.reference import BackboneBatch, Wants
from clipdrift.adapt.text_penalties import TextApr, TextEntropyFloor, TextLdifs, TextTerm
from clipdrift.adapt.tower_parts import TowerParts, Towers
from clipdrift.config import Apr, ConfigError, EntropyFloor, EntropyPull, Ldifs, Penalty
from clipdrift.config.penalties import EXTENSIONS, held
from clipdrift.extensions import ExtensionError, loaded
from clipdrift.model.text_trace import TracedCaptions
from clipdrift.model.towers import tower_of
from clipdrift.model.towers.layout import within
from clipdrift.model.trace import Traced

_ON_ATTENTION = (Apr, EntropyFloor, EntropyPull)
_TEXTS = 256
"""Texts that go through the text tower together."""


@runtime_checkable
class Term(Protocol):
    """One penalty, ready to be added to the loss; not yet multiplied by its weight."""

    @property
    def wants(self) -> Wants:
        """Inputs that the term needs of a batch."""
        ...

    def __call__(self, seen: Traced, first_block: int, backbone: BackboneBatch) -> Tensor:
        """Scalar in float32.

        Args:
            seen: the batch's forward pass; states and rows are those of blocks from ``first_block`` on.
            backbone: what the backbone made of the same images, of all blocks.
        """
        ...


@dataclass(frozen=True)
class FixedTexts:
    """Texts that images are compared with, and their unit features (C, E) by the backbone."""

    words: Sequence[str]
    features: Tensor


@dataclass(frozen=True)
class Setting:
    """Inputs from which penalties are made.

    Attributes:
        entropies: (L) the backbone's mean entropy in each block on the probe set; (1) of a pooling head.
        class_features: (C, E) unit text features of the target's classes by the backbone.
        compared: what a zero-shot distribution is over; none: the target's classes, which stay as they are.
        text_entropies: (L) the backbone's mean normalised entropy over words in each block of its text tower
            on the probe set's captions, where there are any.
    """

    adapted: Adapted
    entropies: Sequence[float]
    class_features: Tensor
    compared: FixedTexts | None = None
    text_entropies: Sequence[float] = ()

    @property
    def attention(self) -> AttentionBlocks:
        """The blocks that attention is read in."""
        return AttentionBlocks.of(self.adapted, len(self.entropies))


def _over(blocks: tuple[int, ...] | None, first: int, count: int) -> tuple[list[int], int]:
    """Positions of the chosen blocks in what was traced, and how many were chosen.

    Blocks before the first one traced are frozen: they are the backbone's and add nothing.
    """
    chosen = range(1, count + 1) if blocks is None else blocks
    return [block - first for block in chosen if block >= first], len(chosen)


@dataclass(frozen=True)
class _Apr:
    options: Apr
    blocks: AttentionBlocks
    wants = Wants(rows=True)

    def __call__(self, seen: Traced, first_block: int, backbone: BackboneBatch) -> Tensor:
        first = self.blocks.first(first_block)
        active, chosen = _over(self.options.blocks, first, self.blocks.count)
        if not active or seen.patch_rows is None:
            return seen.embedding.new_zeros(())
        assert backbone.rows is not None
        now = seen.patch_rows[active]
        before = backbone.rows[[first - 1 + i for i in active]]
        return formulas.attention_kl(now, before).mean((1, 2)).sum() / chosen


@dataclass(frozen=True)
class _EntropyFloor:
    options: EntropyFloor
    floors: tuple[float, ...]
    blocks: AttentionBlocks
    frozen: int
    """So many blocks are not trained; what they lack to the floor would be a constant of the loss."""
    wants = Wants(rows=True)

    def __call__(self, seen: Traced, first_block: int, backbone: BackboneBatch) -> Tensor:
        chosen = self.options.blocks or range(1, len(self.floors) + 1)
        trained = tuple(block for block in chosen if block > self.frozen)
        first = self.blocks.first(first_block)
        active, _ = _over(trained, first, len(self.floors))
        if not active or seen.patch_rows is None:
            return seen.embedding.new_zeros(())
        entropy = formulas.entropy(seen.patch_rows[active])  # (l, B, H)
        floors = entropy.new_tensor([self.floors[first - 1 + i] for i in active])
        return (floors[:, None, None] - entropy).clamp_min(0).mean((1, 2)).sum()


@dataclass(frozen=True)
class _Ldifs:
    options: Ldifs
    blocks: int
    wants = Wants(states=True, embedding=True)

    def __call__(self, seen: Traced, first_block: int, backbone: BackboneBatch) -> Tensor:
        assert backbone.states is not None
        assert backbone.embedding is not None
        active, _ = _over(self.options.blocks, first_block, self.blocks)
        total = (seen.embedding.float() - backbone.embedding).square().sum(-1).mean()
        if active and isinstance(seen.states, tuple):
            for block in active:
                before = backbone.states[first_block - 1 + block]
                total = total + (seen.states[block].float() - before).square().sum(-1).mean()
        elif active:
            assert isinstance(backbone.states, Tensor)
            before = backbone.states[[first_block - 1 + i for i in active]]
            total = total + (seen.states[active].float() - before).square().sum(-1).mean(1).sum()
        return total


class _ZeroShotKl:
    def __init__(self, setting: Setting, towers: Towers) -> None:
        """Compare over fixed texts; those that the text tower is held by are embedded anew at each step."""
        self._texts = setting.compared or FixedTexts((), setting.class_features)
        self._scale = float(setting.adapted.clip.model.logit_scale.detach().exp())
        self._towers = towers
        self._encoder: Any = setting.adapted.clip.texts
        if "text" in towers and not self._texts.words:
            raise ValueError("to hold the text tower the texts behind the features are needed")
        # an image tower that is not trained is its own backbone
        self.wants = Wants(embedding="image" in setting.adapted.towers)

    def __call__(self, seen: Traced, first_block: int, backbone: BackboneBatch) -> Tensor:
        known = seen.embedding.detach() if backbone.embedding is None else backbone.embedding
        before = self._log_shares(known, self._texts.features)
        now = self._log_shares(seen.embedding if "image" in self._towers else known, self._features())
        return (before.exp() * (before - now)).sum(-1).mean()

    def _log_shares(self, images: Tensor, features: Tensor) -> Tensor:
        return log_softmax(self._scale * normalize(images.float(), dim=-1) @ features.T, dim=-1)

    def _features(self) -> Tensor:
        if "text" not in self._towers:
            return self._texts.features
        words = list(self._texts.words)
        parts = [self._encoder.embed(words[i : i + _TEXTS]) for i in range(0, len(words), _TEXTS)]
        return normalize(torch.cat(parts).float(), dim=-1)


class _L2Sp:
    wants = Wants()

    def __init__(self, adapted: Adapted, towers: Towers) -> None:
        """Remember where the weights were; adapters say themselves what they add."""
        self._layers: list[Callable[[], Tensor]] = []
        for name in towers:
            parts = TowerParts.of(adapted.clip, name)
            adapters = [
                path
                for path, module in parts.model.named_modules()
                if isinstance(module, LoraLayer) and within(path, parts.layout.whole)
            ]
            for path in adapters:
                self._layers.append(partial(_lora_change, parts.model.get_submodule(path)))
            for path, parameter in parts.parameters():
                if parameter.requires_grad and not within(path, tuple(adapters)):
                    start = parameter.detach().clone()
                    self._layers.append(partial(torch.sub, parameter, start))

    def __call__(self, seen: Traced, first_block: int, backbone: BackboneBatch) -> Tensor:
        changes = [change().float().square().sum() for change in self._layers]
        return torch.stack(changes).sum() if changes else seen.embedding.new_zeros(())


def _lora_change(layer: Any) -> Tensor:
    """(out, in) what an adapter adds to its matrix, with gradient."""
    name = layer.active_adapters[0]
    delta: Tensor = layer.get_delta_weight(name)
    if not layer.use_dora.get(name):
        return delta
    # DoRA: the columns' directions with the adapter, their lengths as trained
    weight = layer.get_base_layer().weight.detach()
    magnitude = layer.lora_magnitude_vector[name].weight
    moved = weight + delta
    return magnitude.view(-1, 1) * normalize(moved, dim=1) - weight


PENALTIES: dict[str, Callable[[Any, Setting], Term]] = {
    "apr": lambda options, setting: _Apr(options, setting.attention),
    "entropy_floor": lambda options, setting: _EntropyFloor(
        options,
        tuple(options.ratio * value for value in setting.entropies),
        setting.attention,
        setting.attention.frozen(setting.adapted),
    ),
    "entropy_pull": lambda options, setting: PullTerm(
        options, setting.attention, setting.attention.frozen(setting.adapted)
    ),
    "l2_sp": lambda options, setting: _L2Sp(setting.adapted, held(options, setting.adapted.towers)),
    "ldifs": lambda options, setting: _Ldifs(options, setting.adapted.clip.blocks),
    "zero_shot_kl": lambda options, setting: _ZeroShotKl(setting, held(options, setting.adapted.towers)),
}
"""What makes a term of its options, by name; options and words are in ``clipdrift.config.penalties``."""

ON_TEXTS: dict[str, Callable[[Any, Setting], TextTerm]] = {
    "apr": lambda options, setting: TextApr(options, _text_tower(setting).count),
    "entropy_floor": lambda options, setting: TextEntropyFloor(
        options,
        tuple(options.ratio * value for value in setting.text_entropies),
        _text_tower(setting).constant_blocks() or 0,
    ),
    "ldifs": lambda options, setting: TextLdifs(options, _text_tower(setting).count),
}
"""The same for a text tower, over the batch's captions; those not named here are one term for all towers."""


def _text_tower(setting: Setting) -> TowerParts:
    return TowerParts.of(setting.adapted.clip, "text")


def _term(options: Penalty, setting: Setting) -> Term:
    """Make the term of a penalty of this package or of another one."""
    if options.name in PENALTIES:
        return PENALTIES[options.name](options, setting)
    extension = EXTENSIONS.usable[options.name]
    term = loaded(extension, extension.spec.term)(options, setting)
    if not (callable(term) and isinstance(getattr(term, "wants", None), Wants)):
        raise ExtensionError(
            f"penalty {options.name} of {extension.distribution}: {extension.spec.term} returned "
            f"{type(term).__name__}; a term is callable and has wants"
        )
    made: Term = term
    return made


@dataclass(frozen=True, eq=False)
class Penalties:
    """The weighted sum of a run's penalties.

    Attributes:
        on_texts: those on the batch's captions.
    """

    terms: tuple[tuple[float, Term], ...]
    on_texts: tuple[tuple[float, TextTerm], ...] = ()

    @property
    def wants(self) -> Wants:
        total = Wants()
        for _, term in self.terms:
            total = total | term.wants
        return total

    def __call__(self, seen: Traced, first_block: int, backbone: BackboneBatch) -> Tensor:
        with torch.autocast(seen.embedding.device.type, enabled=False):
            total = seen.embedding.new_zeros((), dtype=torch.float32)
            for weight, term in self.terms:
                total = total + weight * term(seen, first_block, backbone)
            return total

    @property
    def text_rows(self) -> bool:
        """Whether attention over the captions' words is needed."""
        return any(term.wants.rows for _, term in self.on_texts)

    @property
    def compares_texts(self) -> bool:
        """Whether the backbone's text tower is needed."""
        return any(term.compares for _, term in self.on_texts)

    def of_texts(self, seen: TracedCaptions, backbone: TracedCaptions | None) -> Tensor:
        """The weighted sum of those on a batch's captions."""
        with torch.autocast(seen.embedding.device.type, enabled=False):
            total = seen.embedding.new_zeros((), dtype=torch.float32)
            for weight, term in self.on_texts:
                total = total + weight * term(seen, backbone)
            return total


def build(options: Sequence[Penalty], setting: Setting) -> Penalties:
    """Make a run's penalties; to be called after ``adapt`` and before training.

    Raises:
        ConfigError: a block that the model does not have.
    """
    trained = setting.adapted.towers
    text_blocks = _text_tower(setting).count if "text" in trained else 0
    tower = tower_of(setting.adapted.clip.model)
    check_penalties(
        options,
        setting.adapted.clip.blocks,
        text_blocks,
        trained,
        setting.attention.pooled,
        tower.lacks("entropy"),
    )
    terms, on_texts = [], []
    for one in options:
        towers = held(one, trained)
        if "image" in towers or one.name not in ON_TEXTS:
            terms.append((one.weight, _term(one, setting)))
        if "text" in towers and one.name in ON_TEXTS:
            on_texts.append((one.weight, ON_TEXTS[one.name](one, setting)))
    return Penalties(tuple(terms), tuple(on_texts))


def check_penalties(
    options: Sequence[Penalty],
    blocks: int,
    text_blocks: int = 0,
    trained: Towers = ("image",),
    pooled: bool = False,
    inattentive: str | None = None,
) -> None:
    """Raises ConfigError for a block, or for attention, that the model does not have.

    Args:
        blocks, text_blocks: of the image tower and of the text tower.
        trained: the towers that are trained.
        pooled: the image tower's attention is read in a pooling head, behind all blocks.
        inattentive: why the image tower has no attention that is read; None where it has.
    """
    for one in options:
        if inattentive and isinstance(one, _ON_ATTENTION) and "image" in held(one, trained):
            raise ConfigError(f"penalty {one.name}: the model has no attention to hold: {inattentive}")
        if pooled and isinstance(one, _ON_ATTENTION) and one.blocks and "image" in held(one, trained):
            raise ConfigError(
                f"penalty {one.name}: blocks cannot be chosen; the attention of this model is read in its "
                "pooling head alone"
            )
        chosen = dict(one).get("blocks")
        for tower, count in (("image", blocks), ("text", text_blocks)):
            if chosen and tower in held(one, trained) and max(chosen) > count:
                what = "the model" if tower == "image" else "its text tower"
                raise ConfigError(f"penalty {one.name}: block {max(chosen)}; {what} has {count}, from 1")
