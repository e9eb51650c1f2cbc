"""An adapted model: what runs, what is trained, what is saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clipdrift.adapt.heads import save_head
from clipdrift.adapt.objective import CrossEntropy, Objective
from clipdrift.adapt.tower_parts import TowerParts, Towers
from clipdrift.model.clip import Clip
from clipdrift.model.saving import save_adapter, save_model
from clipdrift.model.towers.layout import within

Artefact = Literal["model", "adapter", "head"]


@dataclass(frozen=True)
class Adapted:
    """Adapted model: the live CLIP, the head, and what of them is trained.

    ``clip.model`` is the very object that runs, adapters included, so everything that measures it measures
    the adapted image tower. ``peft`` is peft's view of it, where there are adapters.

    Attributes:
        head: a classifier, linear or begun as the class texts, or what a loss on captions has beside the
            model; a module.
        artefact: what is saved.
        objective: the loss.
        rates: learning rates relative to the configured one, by a part of a parameter's name.
        head_warmup: epochs and learning rate of the head alone, before all is trained.
        towers: what the method was applied to.
    """

    clip: Clip
    head: Any
    artefact: Artefact
    peft: PeftModel | None = None
    objective: Objective = field(default_factory=CrossEntropy)
    rates: Mapping[str, float] = field(default_factory=dict)
    head_warmup: tuple[int, float] | None = None
    towers: Towers = ("image",)

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return everything trained, by name, in a fixed order; the head's names start with ``head.``."""
        for name, parameter in self.clip.model.named_parameters():
            if parameter.requires_grad:
                yield name, parameter
        for name, parameter in self.head.named_parameters():
            if parameter.requires_grad:
                yield f"head.{name}", parameter

    @contextmanager
    def head_alone(self) -> Iterator[None]:
        """Train only the head inside."""
        trained = [p for p in self.clip.model.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)

    def rate(self, name: str) -> float:
        """Multiplier of the learning rate for a parameter."""
        return next((rate for part, rate in self.rates.items() if part in name), 1.0)

    @property
    def trains_texts(self) -> bool:
        """Whether class texts change during training."""
        elsewhere = (*TowerParts.of(self.clip, "image").layout.whole, "head", "logit_scale", "logit_bias")
        return any(not within(name, elsewhere) for name, _ in self.parameters())

    def constant_blocks(self) -> int | None:
        """Number of first blocks whose output for an image stays the same, as in :class:`TowerParts`."""
        return TowerParts.of(self.clip, "image").constant_blocks()

    @property
    def constant_embedding(self) -> bool:
        """Whether nothing of the image tower is trained, nor its projection."""
        return not TowerParts.of(self.clip, "image").trains()

    def train(self) -> None:
        """Switch to training mode; batch normalisation keeps the backbone's running statistics."""
        self.clip.model.train()
        for module in self.clip.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        self.head.train()

    def eval(self) -> None:
        """Switch to eval mode; a head that is made of class texts is made anew."""
        self.clip.model.eval()
        self.head.eval()
        self.objective.refresh(self.head)

    def snapshot(self) -> dict[str, Tensor]:
        """Copy everything trained to the CPU."""
        return {name: p.detach().to("cpu", copy=True) for name, p in self.parameters()}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Put a :meth:`snapshot` back; the names must fit exactly."""
        own = dict(self.parameters())
        if own.keys() != state.keys():
            raise ValueError(
                f"snapshot does not fit: {sorted(own.keys() ^ state.keys())[:3]} on one side only"
            )
        for name, parameter in own.items():
            if parameter.shape != state[name].shape:
                raise ValueError(f"snapshot does not fit: {name} is {tuple(state[name].shape)} in it")
            parameter.copy_(state[name])
        self.objective.refresh(self.head)

    def save(self, folder: Path) -> None:
        """Write what plain transformers, peft or OpenCLIP load: a full model, an adapter, or the head."""
        folder.mkdir(parents=True, exist_ok=True)
        self.objective.refresh(self.head)
        save_head(self.head, folder)
        if self.artefact == "model":
            save_model(self.clip, folder)
        elif self.peft is not None:
            save_adapter(self.clip, self.peft, folder)
