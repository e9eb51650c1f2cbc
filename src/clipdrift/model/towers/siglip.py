"""Image towers of transformers' SigLIP: without a class token, read by a pooling head with one learnt query.

Zhai et al. 2023, "Sigmoid loss for language image pre-training". The SigLIP 2 models of fixed resolution are
of the same class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from clipdrift.model.towers.base import (
    Call,
    QueriesKeys,
    Reader,
    Tower,
    UnsupportedModelError,
    queries_and_keys,
    square,
)
from clipdrift.model.towers.huggingface import geometry_of, watch_projections
from clipdrift.model.towers.layout import HUGGING_FACE_MATRICES, TowerLayout
from clipdrift.shapes import Images


class Siglip(Tower):
    """transformers' SiglipModel.

    No token stands for the image before the pooling head, so a block's state is the mean over its patches,
    and the attention that is read is the head's. What the head gives is the embedding, without projection.

    Weights keep their own names, which in the blocks are CLIP's; queries, keys and values of the head, which
    CLIP has not, stay together in ``vision_model.head.attention.in_proj_weight``.
    """

    reader: Reader = "pooling head"
    first_patch = 0

    @classmethod
    def of(cls, model: Any) -> Siglip:
        """Make the tower of a whole SiglipModel, or of its image half.

        Raises:
            UnsupportedModelError: one without a pooling head.
        """
        config = getattr(model.config, "vision_config", model.config)
        if not model.vision_model.use_head:
            kind = type(model)
            raise UnsupportedModelError(
                f"{kind.__module__}.{kind.__name__} is not supported: without a pooling head "
                "(vision_use_head = false) it has neither a query to read nor an image embedding"
            )
        return cls(model, geometry_of(config, config.hidden_size))

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return list(self.model.vision_model.encoder.layers)

    def run(self, images: Images, call: Call) -> tuple[Tensor, Tensor]:
        # transformers does not look, and would add the position of every patch to an image of one patch
        square(images, self.geometry.image_size)
        pooled = call(self.model.vision_model, pixel_values=images).pooler_output
        return pooled, pooled

    def layout(self) -> TowerLayout:
        """The pooling head is the projection: it alone leads from the patches into the joint space."""
        return TowerLayout(
            whole=("vision_model",),
            stem=("vision_model.embeddings",),
            blocks=tuple(f"vision_model.encoder.layers.{i}" for i in range(self.geometry.blocks)),
            projection=("vision_model.head",),
            projected_by="pooling head",
            matrices=HUGGING_FACE_MATRICES,
        )

    def needed(self, carried: Tensor) -> Tensor:
        """All patches (B, P, D), which the pooling head reads."""
        return carried

    def run_from(self, carried: Tensor, start: int, call: Call) -> tuple[Tensor, Tensor]:
        for block in self.blocks[start:]:
            carried = self.tokens(call(block, carried, attention_mask=None))
        pooled = call(self.model.vision_model.head, call(self.model.vision_model.post_layernorm, carried))
        return pooled, pooled

    def parts(self) -> tuple[tuple[str, nn.Module], ...]:
        return (("vision_model", self.model.vision_model),)

    def state(self, tokens: Tensor) -> Tensor:
        """(B, D) mean over the patches."""
        return tokens.mean(1)

    def watch(self, block: nn.Module, whole: bool, receive: QueriesKeys) -> list[Any]:
        """As in the base, of whole maps: the first token is a patch like any other."""
        if not whole:
            raise ValueError("SigLIP has no class token; its blocks can only be watched whole")
        return watch_projections(block, whole, receive)

    def watch_reader(self, receive: QueriesKeys) -> list[Any]:
        """The head's query (B, 1, D) and its keys (B, P, D), one per patch."""

        def before(attention: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            receive(*queries_and_keys(attention, *inputs, **named))

        # searched for, as adapters may lie around it, and hooked within them, where they have been merged
        return [
            module.register_forward_pre_hook(before, with_kwargs=True)
            for module in self.model.vision_model.head.modules()
            if isinstance(module, nn.MultiheadAttention)
        ]
