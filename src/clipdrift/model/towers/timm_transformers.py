"""Image towers on timm's VisionTransformer, also behind convolutions: ViTamin, MobileCLIP-B."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from clipdrift.model.towers.base import Call, Geometry, QueriesKeys, Tower
from clipdrift.model.towers.layout import TowerLayout
from clipdrift.model.towers.timm_base import TimmTower, activation_of, embedding_width

_MEAN = "images are pooled by the mean of their patches, so no token or query looks over all of them"

_INSIDE = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
}
"""From the names in timm's transformer blocks to those of transformers' CLIPModel, where they differ."""


class TransformerTrunk(TimmTower, Tower):
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
            embedding_width=embedding_width(visual),
            image_size=int(visual.image_size[0]),
            grid=(int(rows), int(columns)),
        )
        return cls(model, geometry)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return list(self.trunk.blocks)

    @property
    def activation(self) -> str:
        return activation_of(self.trunk.blocks)

    def layout(self) -> TowerLayout:
        """Queries, keys and values are one matrix, so adapters have their place on the others."""
        stem = ("patch_embed", "cls_token", "pos_embed", "norm_pre")
        return self.laid_out(stem, "blocks", {"out": r"attn\.proj", "mlp": r"mlp\.(fc[12]|w[012])"})

    def needed(self, carried: Tensor) -> Tensor:
        return carried[:, :1] if self.first_patch else carried

    def run_from(self, carried: Tensor, start: int, call: Call) -> tuple[Tensor, Tensor]:
        def work() -> Tensor:
            trunk, found = self.trunk, carried
            for block, beside in list(zip(self.blocks, self.beside(), strict=True))[start:]:
                found = call(block, found, **beside)
            found = self.state(call(trunk.norm, found))
            for module in (trunk.fc_norm, trunk.head_drop, trunk.head, self.model.visual.head):
                found = call(module, found)
            return found

        return self.projected(work)

    def beside(self) -> Sequence[Mapping[str, Any]]:
        """What each block is given beside its tokens, by name."""
        return [{}] * self.geometry.blocks

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
                yield f"{place}.{renamed(rest, _INSIDE)}", weight


def why_not_read(trunk: Any) -> str | None:
    """Why a VisionTransformer of timm's is not read."""
    if reason := why_not_pooled(trunk):
        return reason
    for block in trunk.blocks if trunk.num_prefix_tokens else ():
        attention = getattr(block, "attn", None)
        if type(attention).__name__ != "Attention":
            return f"the attention of its blocks is timm's {type(attention).__name__}"
        if not all(isinstance(getattr(attention, name), nn.Identity) for name in ("q_norm", "k_norm")):
            return "its attention normalises queries and keys (qk_norm)"
    return None


def why_not_pooled(trunk: Any) -> str | None:
    """Why a transformer of timm's is not read by what it pools its images with."""
    kind = type(trunk).__name__
    if trunk.attn_pool is not None:
        elsewhere = (
            "; the same SigLIP is on Hugging Face, such as google/siglip-base-patch16-224"
            if kind == "VisionTransformer"
            else ""
        )
        return f"its image tower is timm's {kind} with a pooling head (global_pool 'map'){elsewhere}"
    wanted = ("token", 1) if trunk.num_prefix_tokens else ("avg", 0)
    if (trunk.global_pool, trunk.num_prefix_tokens) != wanted:
        return (
            f"its image tower is timm's {kind} with {trunk.num_prefix_tokens} token(s) before "
            f"the patches, pooled by {trunk.global_pool!r}; read are one class token pooled by 'token', and "
            "none pooled by 'avg'"
        )
    return None


def renamed(name: str, table: Mapping[str, str]) -> str:
    """A name within a block under its new beginning, of those in ``table`` the first that fits."""
    for old, new in table.items():
        if name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name
