"""Image towers of OpenCLIP that are one of timm's trunks: convolutional, hybrid, or plain transformers.

Neither library is imported: classes are known by their names. What a trunk is pooled by decides what is read:
a class token has attention; a mean over places has nobody who looks, and so no attention.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from clipdrift.model.towers.base import (
    Call,
    FeatureMaps,
    Geometry,
    QueriesKeys,
    Reader,
    Tower,
    UnsupportedModelError,
    square,
)
from clipdrift.model.towers.layout import Places, TowerLayout
from clipdrift.shapes import Images


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


_STAGED: Mapping[str, Trunk] = {
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

_MEAN = "images are pooled by the mean of their patches, so no token or query looks over all of them"

_NOT_READ: Mapping[str, str] = {
    "Eva": "turns queries and keys by their positions (rotary embeddings), where no hook reaches",
    "VisionTransformerRelPos": "adds a bias by relative position to its scores, where no hook reaches",
}
"""Why the attention of a trunk's class token cannot be read; by timm's class."""

_PROJECTIONS = ("head.proj", "head.mlp")
"""Where OpenCLIP puts a projection behind a trunk; else the trunk's own classifier is it."""

_STEMS = ("stem.", "patch_embed.", "cls_token", "pos_embed")
"""How the names of what comes before the blocks begin."""

_INSIDE = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
}
"""From the names in timm's transformer blocks to those of transformers' CLIPModel, where they differ."""


def timm_tower(model: Any) -> Tower:
    """Make the tower of an OpenCLIP model with a TimmModel.

    Raises:
        UnsupportedModelError: a trunk of another class, another pooling, images that are not square,
            attention that cannot be read.
    """
    visual = model.visual
    trunk = visual.trunk
    package, kind = type(trunk).__module__.partition(".")[0], type(trunk).__name__
    reason = None
    height, width = visual.image_size
    pool = next((type(part).__name__ for name, part in visual.head.named_children() if name == "pool"), None)
    if height != width:
        reason = f"its images are not square ({height}*{width})"
    elif pool is not None:
        reason = f"its images are pooled by timm's {pool}"
    elif package == "timm" and kind in _STAGED:
        return StagedTrunk.of(model, _STAGED[kind])
    elif package == "timm" and kind == "VisionTransformer":
        reason = _not_a_plain_transformer(trunk)
        if reason is None:
            return TransformerTrunk.of(model)
    elif package == "timm" and kind in _NOT_READ:
        reason = f"its image tower is timm's {kind}, which {_NOT_READ[kind]}"
    else:
        known = ", ".join((*_STAGED, "VisionTransformer"))
        reason = f"its image tower is {package}'s {kind}; of timm's (TimmModel) these are read: {known}"
    name = type(model)
    raise UnsupportedModelError(f"{name.__module__}.{name.__name__} is not supported: {reason}")


class _TimmTower:
    """What all trunks have in common: the projection behind them, and their names."""

    model: Any
    geometry: Geometry

    @property
    def trunk(self) -> Any:
        return self.model.visual.trunk

    def projection(self) -> str:
        """Where in the image tower the projection is; empty where there is none."""
        return _projection(self.model.visual)

    def run(self, images: Images, call: Call) -> tuple[Tensor, Tensor]:
        square(images, self.geometry.image_size)
        return self.projected(lambda: call(self.model.visual, images.to(_dtype(self.trunk))))

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


class StagedTrunk(_TimmTower, FeatureMaps):
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
            embedding_width=_width(visual),
            image_size=side,
            grid=(places, places),
        )
        return cls(model, geometry, kind)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return list(getattr(self.trunk, self.kind.stages))

    @property
    def activation(self) -> str:
        return _activation(self.trunk)

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


class TransformerTrunk(_TimmTower, Tower):
    """timm's VisionTransformer, also behind convolutions (ViTamin, MobileCLIP-B).

    With a class token it is read as any CLIP. Without one its patches are averaged, a state is their mean,
    and there is no attention to read. Convolutions before the transformer belong to what comes before its
    blocks.
    """

    def __init__(self, model: Any, geometry: Geometry) -> None:
        super().__init__(model, geometry)
        if not self.trunk.num_prefix_tokens:
            self.reader = "none"
            self.first_patch = 0
            self.absent = MappingProxyType({"attention": _MEAN, "flow": _MEAN})

    @classmethod
    def of(cls, model: Any) -> TransformerTrunk:
        visual = model.visual
        trunk = visual.trunk
        rows, columns = trunk.patch_embed.grid_size
        geometry = Geometry(
            blocks=len(trunk.blocks),
            heads=int(trunk.blocks[0].attn.num_heads) if trunk.num_prefix_tokens else 0,
            width=int(trunk.embed_dim),
            embedding_width=_width(visual),
            image_size=int(visual.image_size[0]),
            grid=(int(rows), int(columns)),
        )
        return cls(model, geometry)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return list(self.trunk.blocks)

    @property
    def activation(self) -> str:
        return _activation(self.trunk.blocks)

    def layout(self) -> TowerLayout:
        """Queries, keys and values are one matrix, so adapters have their place on the others."""
        stem = ("patch_embed", "cls_token", "pos_embed", "norm_pre")
        return self.laid_out(stem, "blocks", {"out": r"attn\.proj", "mlp": r"mlp\.fc[12]"})

    def needed(self, carried: Tensor) -> Tensor:
        return carried[:, :1] if self.first_patch else carried

    def run_from(self, carried: Tensor, start: int, call: Call) -> tuple[Tensor, Tensor]:
        def work() -> Tensor:
            trunk, found = self.trunk, carried
            for module in (*self.blocks[start:], trunk.norm):
                found = call(module, found)
            found = self.state(found)
            for module in (trunk.fc_norm, trunk.head_drop, trunk.head, self.model.visual.head):
                found = call(module, found)
            return found

        return self.projected(work)

    def state(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0] if self.first_patch else tokens.mean(1)

    def watch(self, block: Any, whole: bool, receive: QueriesKeys) -> list[Any]:
        if self.reader == "none":
            return super().watch(block, whole, receive)

        def after(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            queries, keys, _values = output.chunk(3, dim=-1)
            receive(queries if whole else queries[:, :1], keys)

        return [block.attn.qkv.register_forward_hook(after)]

    def canonical(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        inner = name.removeprefix("visual.")
        block = re.fullmatch(r"trunk\.blocks\.(\d+)\.(.+)", inner)
        if block is None:
            yield from self.outside(inner, weight)
        else:
            place, rest = f"vision_model.encoder.layers.{block[1]}", block[2]
            if rest.startswith("attn.qkv."):
                for letter, part in zip("qkv", weight.chunk(3), strict=True):
                    yield f"{place}.self_attn.{letter}_proj.{rest.removeprefix('attn.qkv.')}", part
            else:
                yield f"{place}.{_renamed(rest)}", weight


def _not_a_plain_transformer(trunk: Any) -> str | None:
    """Why a VisionTransformer of timm's is not read."""
    if trunk.attn_pool is not None:
        return (
            "its image tower is timm's VisionTransformer with a pooling head (global_pool 'map'); the same "
            "SigLIP is on Hugging Face, such as google/siglip-base-patch16-224"
        )
    wanted = ("token", 1) if trunk.num_prefix_tokens else ("avg", 0)
    if (trunk.global_pool, trunk.num_prefix_tokens) != wanted:
        return (
            f"its image tower is timm's VisionTransformer with {trunk.num_prefix_tokens} token(s) before "
            f"the patches, pooled by {trunk.global_pool!r}; read are one class token pooled by 'token', and "
            "none pooled by 'avg'"
        )
    for block in trunk.blocks if trunk.num_prefix_tokens else ():
        attention = getattr(block, "attn", None)
        if type(attention).__name__ != "Attention":
            return f"the attention of its blocks is timm's {type(attention).__name__}"
        if not all(isinstance(getattr(attention, name), nn.Identity) for name in ("q_norm", "k_norm")):
            return "its attention normalises queries and keys (qk_norm)"
    return None


def _projection(visual: Any) -> str:
    modules = dict(visual.named_modules())
    for place in _PROJECTIONS:
        if place in modules:
            return place
    own = visual.trunk.get_classifier()
    if isinstance(own, nn.Identity):
        return ""
    return next(place for place, module in modules.items() if module is own)


def _width(visual: Any) -> int:
    """Of the embedding."""
    place = _projection(visual)
    if not place:
        return int(visual.trunk.num_features)
    module = visual.get_submodule(place)
    return int((module.fc2 if place == "head.mlp" else module).out_features)


def _activation(module: nn.Module) -> str:
    """The class of the first activation of a module, whose name ends alike in torch and timm."""
    names = (type(part).__name__ for part in module.modules())
    return next((name for name in names if name.endswith(("ELU", "Swish", "ELUTanh", "SiLU"))), "none")


def _dtype(trunk: nn.Module) -> Any:
    return next(trunk.parameters()).dtype


def _renamed(name: str) -> str:
    for old, new in _INSIDE.items():
        if name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name
