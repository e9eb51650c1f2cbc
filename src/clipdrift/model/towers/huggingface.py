"""Image towers of transformers' CLIP: CLIPModel and CLIPVisionModelWithProjection."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from clipdrift.model.towers.base import Call, Geometry, QueriesKeys, Tower
from clipdrift.model.towers.layout import HUGGING_FACE_MATRICES, TowerLayout
from clipdrift.shapes import Images


def geometry_of(config: Any, embedding_width: int) -> Geometry:
    """Sizes from a transformers vision configuration."""
    side = config.image_size // config.patch_size
    return Geometry(
        blocks=int(config.num_hidden_layers),
        heads=int(config.num_attention_heads),
        width=int(config.hidden_size),
        embedding_width=int(embedding_width),
        image_size=int(config.image_size),
        grid=(int(side), int(side)),
    )


class HuggingFaceClip(Tower):
    """transformers' CLIPModel, or its image half with projection; adapters in it are seen as they act."""

    @classmethod
    def of(cls, model: Any) -> HuggingFaceClip:
        """Make the tower of a whole CLIPModel."""
        return cls(model, geometry_of(model.config.vision_config, model.config.projection_dim))

    @classmethod
    def of_vision(cls, model: Any) -> HuggingFaceClip:
        """Make the tower of a CLIPVisionModelWithProjection."""
        return cls(model, geometry_of(model.config, model.config.projection_dim))

    @classmethod
    def of_half(cls, model: Any) -> HuggingFaceClip:
        """Make the tower of an :class:`clipdrift.model.halves.ImageHalf`."""
        return cls(model, geometry_of(model.config, model.embedding_width))

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return list(self.model.vision_model.encoder.layers)

    def run(self, images: Images, call: Call) -> tuple[Tensor, Tensor]:
        pooled = call(self.model.vision_model, pixel_values=images).pooler_output
        return pooled, call(self.model.visual_projection, pooled)

    def layout(self) -> TowerLayout:
        return TowerLayout(
            whole=("vision_model", "visual_projection"),
            stem=("vision_model.embeddings", "vision_model.pre_layrnorm"),
            blocks=tuple(f"vision_model.encoder.layers.{i}" for i in range(self.geometry.blocks)),
            projection=("visual_projection",),
            projected_by="visual projection",
            matrices=HUGGING_FACE_MATRICES,
        )

    def run_from(self, carried: Tensor, start: int, call: Call) -> tuple[Tensor, Tensor]:
        for block in self.blocks[start:]:
            carried = self.tokens(call(block, carried, attention_mask=None))
        pooled = call(self.model.vision_model.post_layernorm, carried[:, 0])
        return pooled, call(self.model.visual_projection, pooled)

    def parts(self) -> tuple[tuple[str, nn.Module], ...]:
        return (
            ("vision_model", self.model.vision_model),
            ("visual_projection", self.model.visual_projection),
        )

    def watch(self, block: nn.Module, whole: bool, receive: QueriesKeys) -> list[Any]:
        return watch_projections(block, whole, receive)


def watch_projections(block: Any, whole: bool, receive: QueriesKeys) -> list[Any]:
    """Hooks on ``self_attn.q_proj`` and ``k_proj`` and, when both have run, on the attention itself."""
    return watch_layers(block.self_attn, whole, receive)


def watch_layers(attention: Any, whole: bool, receive: QueriesKeys) -> list[Any]:
    """The same of any attention with layers ``q_proj`` and ``k_proj``."""
    seen: dict[str, Tensor] = {}
    return [
        attention.q_proj.register_forward_hook(partial(_keep, seen, "queries", whole)),
        attention.k_proj.register_forward_hook(partial(_keep, seen, "keys", True)),
        attention.register_forward_hook(partial(_hand_on, seen, receive)),
    ]


def _keep(
    seen: dict[str, Tensor], name: str, whole: bool, _module: nn.Module, _inputs: object, output: Tensor
) -> None:
    seen[name] = output if whole else output[:, :1]


def _hand_on(
    seen: dict[str, Tensor], receive: QueriesKeys, _module: nn.Module, _inputs: object, _output: object
) -> None:
    receive(seen.pop("queries"), seen.pop("keys"))
