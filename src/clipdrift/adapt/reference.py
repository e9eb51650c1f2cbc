"""Backbone outputs that penalties compare with, computed once per image and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clipdrift.adapt.adapted import Adapted
from clipdrift.adapt.tower_parts import copied_tower
from clipdrift.data.deck import Deck
from clipdrift.model.modes import in_eval_mode
from clipdrift.model.trace import trace


@dataclass(frozen=True)
class Wants:
    """Values that penalties need of the backbone and of the adapted model on a batch."""

    rows: bool = False
    states: bool = False
    embedding: bool = False

    def __or__(self, other: Wants) -> Wants:
        return Wants(self.rows or other.rows, self.states or other.states, self.embedding or other.embedding)

    @property
    def anything(self) -> bool:
        return self.rows or self.states or self.embedding


@dataclass(frozen=True, eq=False)
class BackboneBatch:
    """Backbone values of a batch, float32.

    Attributes:
        rows: (L, B, H, P) attention over patches, renormalised; a pooling head's is one block.
        states: (L, B, D) after each block; (B, D) of each where they differ in width.
        embedding: (B, E).
    """

    rows: Tensor | None
    states: Tensor | tuple[Tensor, ...] | None
    embedding: Tensor | None


_BLOCK = "states of block "

_Asked = tuple[NDArray[np.int64], NDArray[np.bool_]]
"""Images, and which of them are mirrored."""


@dataclass(eq=False)
class Reference:
    """The backbone's values on training images and their mirror images.

    Where adapters can be switched off the live model is its own backbone; otherwise a frozen copy of the
    image tower is held, made before training.
    """

    adapted: Adapted
    deck: Deck
    wants: Wants
    _copy: Any = None
    _kept: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    _known: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), bool))
    _group: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    _groups: list[_Asked] = field(default_factory=list)
    computed: int = 0
    """Images that went through the backbone; each image and mirror image at most once."""

    def __post_init__(self) -> None:
        self._known = np.zeros((2, len(self.deck)), bool)
        self._group = np.full((2, len(self.deck)), -1)
        if self.wants.anything and self.adapted.peft is None:
            self._copy = copied_tower(self.adapted.clip, "image")

    def expect(self, picked: NDArray[np.int64], mirrored: NDArray[np.bool_]) -> None:
        """Say what will be, or was before a pause, asked for, in that order.

        Images are computed with those they were first asked for: the last bits of a value depend on which
        images go through the model together, so a training that goes on must form the same groups.
        """
        if not self.wants.anything:
            return
        side = mirrored.astype(np.int64)
        new = self._group[side, picked] < 0
        if new.any():
            self._group[side[new], picked[new]] = len(self._groups)
            self._groups.append((picked[new], mirrored[new]))

    def of(self, picked: NDArray[np.int64], mirrored: NDArray[np.bool_]) -> BackboneBatch:
        """The backbone's values on a batch."""
        if not self.wants.anything:
            return BackboneBatch(None, None, None)
        self.expect(picked, mirrored)
        side = mirrored.astype(np.int64)
        for number in np.unique(self._group[side, picked][~self._known[side, picked]]):
            self._compute(*self._groups[number])
        device = self.deck.device
        found: dict[str, Tensor] = {}
        for name, store in self._kept.items():
            values = torch.from_numpy(store[side, picked]).to(device)  # (B, L, ...) or (B, E)
            found[name] = values if name == "embedding" else values.transpose(0, 1)
        apart = tuple(values[0] for name, values in found.items() if name.startswith(_BLOCK))
        return BackboneBatch(found.get("rows"), apart or found.get("states"), found.get("embedding"))

    @torch.no_grad()
    def _compute(self, picked: NDArray[np.int64], mirrored: NDArray[np.bool_]) -> None:
        images = self.deck.images(picked, torch.from_numpy(mirrored))
        with self._backbone() as model, torch.autocast(images.device.type, enabled=False):
            seen = trace(model, images, rows=self.wants.rows)
        found: dict[str, Tensor] = {}
        if (patches := seen.patch_rows) is not None:
            found["rows"] = (patches / patches.sum(-1, keepdim=True)).transpose(0, 1)
        if self.wants.states:
            found |= self._states(seen.states)
        if self.wants.embedding:
            found["embedding"] = seen.embedding.float()
        side = mirrored.astype(np.int64)
        for name, values in found.items():
            if name not in self._kept:
                self._kept[name] = np.zeros((2, len(self.deck), *values.shape[1:]), np.float32)
            self._kept[name][side, picked] = values.cpu().numpy()
        self._known[side, picked] = True
        self.computed += len(picked)

    @staticmethod
    def _states(states: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
        """(B, L, D) in one, or (B, 1, D) of each block where they differ in width."""
        if isinstance(states, Tensor):
            return {"states": states.float().transpose(0, 1)}
        return {f"{_BLOCK}{number}": state.float()[:, None] for number, state in enumerate(states)}

    @contextmanager
    def _backbone(self) -> Iterator[nn.Module]:
        if self.adapted.peft is None:
            yield self._copy
            return
        model = self.adapted.clip.model
        with in_eval_mode(model), self.adapted.peft.disable_adapter():
            yield model
