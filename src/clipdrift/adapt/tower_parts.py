"""Parts of a live model's towers, by what methods freeze and train."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from clipdrift.config.base import Towers
from clipdrift.model.clip import Clip, ModelError
from clipdrift.model.towers import UnsupportedModelError, text_tower_of, tower_of
from clipdrift.model.towers.layout import Places, TowerLayout, parameters_in, within

__all__ = ["TowerParts", "Towers", "copied_tower"]


@dataclass(frozen=True, eq=False)
class TowerParts:
    """One tower of a live model.

    Attributes:
        tower: which.
        model: the whole model.
        layout: where the tower's parts lie in it.
    """

    tower: Literal["image", "text"]
    model: Any
    layout: TowerLayout

    @classmethod
    def of(cls, clip: Clip, tower: Literal["image", "text"]) -> TowerParts:
        """Find the parts of one tower.

        Raises:
            ModelError: a tower that cannot be trained.
        """
        try:
            view = tower_of(clip.model) if tower == "image" else text_tower_of(clip.model)
            return cls(tower, view.model, view.layout())
        except UnsupportedModelError as error:
            raise ModelError(f"{clip.name}: {error}") from None

    @property
    def count(self) -> int:
        """Number of blocks."""
        return len(self.layout.blocks)

    def parameters(self, places: Places | None = None) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters in some of the tower's places, or in all of it, by their names in the model."""
        return parameters_in(self.model, self.layout.whole if places is None else places)

    def train(self, places: Places | None = None, on: bool = True) -> None:
        """Have what is in ``places`` trained, or left as it is."""
        for _, parameter in self.parameters(places):
            parameter.requires_grad_(on)

    def trains(self, places: Places | None = None) -> bool:
        """Whether anything in ``places`` is trained."""
        return any(parameter.requires_grad for _, parameter in self.parameters(places))

    def constant_blocks(self) -> int | None:
        """Number of first blocks whose output stays the same whatever is trained.

        None where what comes before the blocks is trained; the number of all blocks where nothing before the
        final layer norm is.
        """
        if self.trains(self.layout.stem):
            return None
        trained = (number for number, block in enumerate(self.layout.blocks) if self.trains((block,)))
        return next(trained, self.count)


def copied_tower(clip: Clip, tower: Literal["image", "text"]) -> Any:
    """A model whose one tower is a frozen copy in eval mode; all else is the live model's own, uncopied.

    Only parameters are told apart: modules outside of the tower are copied with the live parameters in them,
    and stay in their mode.
    """
    parts = TowerParts.of(clip, tower)
    live = {
        id(parameter): parameter
        for name, parameter in clip.model.named_parameters()
        if not within(name, parts.layout.whole)
    }
    copied = copy.deepcopy(clip.model, dict[int, Any](live))
    copied.eval()
    for _, parameter in parameters_in(copied, parts.layout.whole):
        parameter.requires_grad_(False)
    return copied
