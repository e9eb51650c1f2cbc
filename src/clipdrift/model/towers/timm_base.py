"""What image towers on timm's trunks have in common: the projection behind them, and names of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from clipdrift.model.towers.base import Call, Geometry, square
from clipdrift.model.towers.layout import Places, TowerLayout
from clipdrift.shapes import Images

_PROJECTIONS = ("head.proj", "head.mlp")
"""Where OpenCLIP puts a projection behind a trunk; else the trunk's own classifier is it."""

_STEMS = ("stem.", "patch_embed.", "cls_token", "pos_embed", "rope.")
"""How the names of what comes before the blocks begin."""


class TimmTower:
    """What all trunks have in common: the projection behind them, and their names."""

    model: Any
    geometry: Geometry

    @property
    def trunk(self) -> Any:
        return self.model.visual.trunk

    def projection(self) -> str:
        """Where in the image tower the projection is; empty where there is none."""
        return projection_of(self.model.visual)

    def run(self, images: Images, call: Call) -> tuple[Tensor, Tensor]:
        square(images, self.geometry.image_size)
        return self.projected(lambda: call(self.model.visual, images.to(dtype_of(self.trunk))))

    def projected(self, work: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """What goes into the projection and what comes out of it, of a forward pass."""
        place = self.projection()
        if not place:
            found = work()
            return found, found
        pooled: list[Tensor] = []
        handle = self.model.visual.get_submodule(place).register_forward_pre_hook(
            lambda _module, inputs: pooled.append(inputs[0])
        )
        try:
            found = work()
        finally:
            handle.remove()
        return pooled[0], found

    def parts(self) -> tuple[tuple[str, nn.Module], ...]:
        return (("visual", self.model.visual),)

    def laid_out(self, stem: Places, blocks: str, matrices: Mapping[str, str]) -> TowerLayout:
        """Where methods find what they freeze and train.

        Args:
            stem, blocks: places in the trunk.
            matrices: as :class:`TowerLayout` has them.
        """
        place = self.projection()
        return TowerLayout(
            whole=("visual",),
            stem=tuple(f"visual.trunk.{name}" for name in stem),
            blocks=tuple(f"visual.trunk.{blocks}.{i}" for i in range(self.geometry.blocks)),
            projection=(f"visual.{place}",) if place else (),
            projected_by="projection",
            matrices=matrices,
            norms=(nn.LayerNorm, nn.BatchNorm2d, nn.GroupNorm),
        )

    def outside(self, inner: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """A weight outside of the blocks."""
        place = self.projection()
        if place and inner.startswith(f"{place}."):
            yield f"visual_projection{inner.removeprefix(place)}", weight
        else:
            rest = inner.removeprefix("trunk.")
            before = "embeddings." if rest.startswith(_STEMS) else ""
            yield f"vision_model.{before}{rest}", weight


def projection_of(visual: Any) -> str:
    modules = dict(visual.named_modules())
    for place in _PROJECTIONS:
        if place in modules:
            return place
    own = visual.trunk.get_classifier()
    if isinstance(own, nn.Identity):
        return ""
    return next(place for place, module in modules.items() if module is own)


def embedding_width(visual: Any) -> int:
    """Of the embedding."""
    place = projection_of(visual)
    if not place:
        return int(visual.trunk.num_features)
    module = visual.get_submodule(place)
    return int((module.fc2 if place == "head.mlp" else module).out_features)


def activation_of(module: nn.Module) -> str:
    """The class of the first activation of a module, whose name ends alike in torch and timm."""
    names = (type(part).__name__ for part in module.modules())
    return next((name for name in names if name.endswith(("ELU", "Swish", "ELUTanh", "SiLU"))), "none")


def dtype_of(trunk: nn.Module) -> Any:
    return next(trunk.parameters()).dtype
