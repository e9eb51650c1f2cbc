"""Image towers of OpenCLIP with a ModifiedResNet, whose pooling head is attention with one query.

Radford et al. 2021, "Learning transferable visual models from natural language supervision", section 2.4.
The pooling head makes its query from the mean of the last feature map, and its keys from that mean and every
place of the map.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from clipdrift.model.towers.base import (
    Call,
    FeatureMaps,
    Geometry,
    QueriesKeys,
    Reader,
    UnsupportedModelError,
    square,
)
from clipdrift.model.towers.layout import TowerLayout
from clipdrift.shapes import Images

STAGES = ("layer1", "layer2", "layer3", "layer4")
_INSIDE = re.compile(r"visual\.layer(\d)\.(\d+)\.(.+)")
_STEM = re.compile(r"visual\.((?:conv|bn)\d\..+)")
_PROJECTION = "visual.attnpool.c_proj."
_CONVOLUTIONS = "its stages are convolutions, so it has no attention from patch to patch and no patch tokens"


class OpenClipResNet(FeatureMaps):
    """OpenCLIP's CLIP or CustomTextCLIP with a ModifiedResNet.

    A block is a stage, its state the mean over the stage's feature map, as wide as the stage. The attention
    that is read is the pooling head's: its row has the mean token first, then every place of the last map.
    The head's output matrix is the projection into the joint space.
    """

    reader: Reader = "pooling head"
    absent = MappingProxyType({"flow": _CONVOLUTIONS, "sink_patches": _CONVOLUTIONS})

    @classmethod
    def of(cls, model: Any) -> OpenClipResNet:
        """Make the tower of a whole CLIP or CustomTextCLIP.

        Raises:
            UnsupportedModelError: images that are not square, an adapter that does nothing.
        """
        visual = model.visual
        pool = visual.attnpool
        kind = type(model)
        said = f"{kind.__module__}.{kind.__name__} is not supported"
        if not isinstance(visual.image_size, int) and len(set(visual.image_size)) > 1:
            height, width = visual.image_size
            raise UnsupportedModelError(f"{said}: its images are not square ({height}*{width})")
        if any(type(part) is not nn.Linear for part in (pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj)):
            raise UnsupportedModelError(
                f"{said}: an adapter in its pooling head (attnpool) does nothing, as torch takes the weights "
                "of those layers and never calls them"
            )
        side = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
        patches = pool.positional_embedding.shape[0] - 1
        geometry = Geometry(
            blocks=len(STAGES),
            heads=int(pool.num_heads),
            width=int(pool.c_proj.in_features),
            embedding_width=int(pool.c_proj.out_features),
            image_size=int(side),
            grid=(round(patches**0.5),) * 2,
        )
        return cls(model, geometry)

    @property
    def row_patch(self) -> int:
        """Behind the mean token."""
        return 1

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return [getattr(self.model.visual, stage) for stage in STAGES]

    @property
    def activation(self) -> str:
        return type(self.model.visual.act1).__name__

    def run(self, images: Images, call: Call) -> tuple[Tensor, Tensor]:
        square(images, self.geometry.image_size)
        handle = self.model.visual.register_forward_pre_hook(_in_its_precision)
        try:
            pooled = call(self.model.visual, images)
        finally:
            handle.remove()
        return pooled, pooled

    def layout(self) -> TowerLayout:
        """Adapters have no place: matrices are convolutions, and those of the pooling head are not called."""
        convolutions = tuple(f"visual.{kind}{number}" for number in (1, 2, 3) for kind in ("conv", "bn"))
        return TowerLayout(
            whole=("visual",),
            stem=convolutions,
            blocks=tuple(f"visual.{stage}" for stage in STAGES),
            projection=("visual.attnpool.c_proj",),
            projected_by="output matrix of the pooling head",
            matrices={},
            norms=(nn.BatchNorm2d,),
        )

    def run_from(self, carried: Tensor, start: int, call: Call) -> tuple[Tensor, Tensor]:
        for stage in self.blocks[start:]:
            carried = call(stage, carried)
        pooled = call(self.model.visual.attnpool, carried)
        return pooled, pooled

    def parts(self) -> tuple[tuple[str, nn.Module], ...]:
        return (("visual", self.model.visual),)

    def watch_reader(self, receive: QueriesKeys) -> list[Any]:
        """The head's query (B, 1, D) and its keys (B, 1 + P, D), the mean token's first."""

        def before(pool: Any, inputs: tuple[Any, ...]) -> None:
            places = self.tokens(inputs[0])
            tokens = torch.cat([places.mean(1, keepdim=True), places], dim=1)
            tokens = tokens + pool.positional_embedding.to(tokens.dtype)
            receive(pool.q_proj(tokens[:, :1]), pool.k_proj(tokens))

        return [self.model.visual.attnpool.register_forward_pre_hook(before)]

    def canonical(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Stages as blocks, ``vision_model.encoder.layers.0.1.conv1.weight`` for the second residual block of
        the first stage; what comes before them as embeddings."""
        found, stem = _INSIDE.fullmatch(name), _STEM.fullmatch(name)
        if name.startswith(_PROJECTION):
            yield f"visual_projection.{name.removeprefix(_PROJECTION)}", weight
        elif stem is not None:
            yield f"vision_model.embeddings.{stem[1]}", weight
        elif found is None:
            yield f"vision_model.{name.removeprefix('visual.')}", weight
        else:
            yield f"vision_model.encoder.layers.{int(found[1]) - 1}.{found[2]}.{found[3]}", weight


def _in_its_precision(visual: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Images as the first layer takes them, which in half precision OpenCLIP leaves to the caller."""
    return inputs[0].to(visual.conv1.weight.dtype), *inputs[1:]
