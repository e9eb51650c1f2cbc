"""Image towers on timm's trunks of stages: ConvNeXt, FastViT (MobileCLIP), Swin."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from clipdrift.model.towers.base import Call, FeatureMaps, Geometry, Reader
from clipdrift.model.towers.layout import TowerLayout
from clipdrift.model.towers.timm_base import TimmTower, activation_of, embedding_width


@dataclass(frozen=True)
class Trunk:
    """A trunk of stages.

    Attributes:
        stem: what comes before the stages.
        stages: where they are.
        tail: what follows the last one, up to and with the pooling.
        channels_last: its feature maps are (B, rows, columns, D).
        absent: why it has no attention that is read.
    """

    stem: str
    stages: str
    tail: tuple[str, ...]
    absent: str
    channels_last: bool = False


STAGED: Mapping[str, Trunk] = {
    "ConvNeXt": Trunk(
        "stem", "stages", ("norm_pre", "head"),
        "its stages are convolutions and images are pooled by their mean, so nothing in it attends",
    ),
    "FastVit": Trunk(
        "stem", "stages", ("final_conv", "head"),
        "images are pooled by their mean, so no token or query looks over all patches; its last stages alone "
        "may attend, from patch to patch",
    ),
    "SwinTransformer": Trunk(
        "patch_embed", "layers", ("norm", "head"),
        "images are pooled by their mean and its attention stays within windows, so nothing looks over all "
        "patches",
        channels_last=True,
    ),
}  # fmt: skip
"""By timm's class."""


class StagedTrunk(TimmTower, FeatureMaps):
    """A trunk of stages, pooled by the mean: ConvNeXt, FastViT (MobileCLIP), Swin.

    A block is a stage, its state the mean over the stage's feature map. There is no attention to read.
    """

    reader: Reader = "none"

    def __init__(self, model: Any, geometry: Geometry, kind: Trunk) -> None:
        super().__init__(model, geometry)
        self.kind = kind
        self.absent = MappingProxyType({"attention": kind.absent, "flow": kind.absent})
        self._block = re.compile(rf"trunk\.{kind.stages}\.(\d+)\.(.+)")

    @classmethod
    def of(cls, model: Any, kind: Trunk) -> StagedTrunk:
        visual = model.visual
        trunk = visual.trunk
        side = int(visual.image_size[0])
        last = trunk.feature_info[-1]
        places = max(1, side // int(last["reduction"]))
        geometry = Geometry(
            blocks=len(getattr(trunk, kind.stages)),
            heads=0,
            width=int(last["num_chs"]),
            embedding_width=embedding_width(visual),
            image_size=side,
            grid=(places, places),
        )
        return cls(model, geometry, kind)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return list(getattr(self.trunk, self.kind.stages))

    @property
    def activation(self) -> str:
        return activation_of(self.trunk)

    def layout(self) -> TowerLayout:
        """Adapters have their place on the matrices of the MLPs, which all such stages have."""
        return self.laid_out((self.kind.stem,), self.kind.stages, {"mlp": r"blocks\.\d+\.mlp\.fc[12]"})

    def run_from(self, carried: Tensor, start: int, call: Call) -> tuple[Tensor, Tensor]:
        def work() -> Tensor:
            found = carried
            tail = [getattr(self.trunk, name) for name in self.kind.tail]
            for module in (*self.blocks[start:], *tail, self.model.visual.head):
                found = call(module, found)
            return found

        return self.projected(work)

    def tokens(self, output: object) -> Tensor:
        if not self.kind.channels_last:
            return super().tokens(output)
        assert isinstance(output, Tensor)
        return output.flatten(1, 2)

    def canonical(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Stages as blocks, ``vision_model.encoder.layers.0.1.mlp.fc1.weight`` for the second block of the
        first stage; what comes before them as embeddings."""
        inner = name.removeprefix("visual.")
        found = self._block.fullmatch(inner)
        if found is None:
            yield from self.outside(inner, weight)
        else:
            yield f"vision_model.encoder.layers.{found[1]}.{found[2].removeprefix('blocks.')}", weight
