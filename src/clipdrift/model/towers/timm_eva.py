"""Image towers on timm's Eva (EVA01-CLIP and EVA02-CLIP): queries and keys are turned by their positions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from torch import Tensor, cat, nn
from torch.nn.functional import linear

from clipdrift.model.towers.base import QueriesKeys
from clipdrift.model.towers.layout import TowerLayout
from clipdrift.model.towers.timm_transformers import TransformerTrunk, renamed, why_not_pooled

_ATTENTIONS = ("EvaAttention", "AttentionRope")
"""timm's classes of attention in such blocks."""

_INSIDE = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
    "attn": "self_attn",
}
"""From the names in timm's Eva blocks to those of transformers' CLIPModel, where they differ."""

_PACKED = re.compile(r"attn\.(?:qkv\.(weight|bias)|([qv])_bias)")


class EvaTrunk(TransformerTrunk):
    """timm's Eva, as EVA01-CLIP and EVA02-CLIP have it in OpenCLIP.

    The queries and keys of patches, not those of the class token, are turned by their positions (rotary
    embeddings) behind every layer that a hook could reach. So they are taken from the layers, and what timm
    does to them next (norms of queries and keys, the turn) is done to them here, by timm's own function. Such
    blocks keep queries, keys and values in one matrix (``qkv``) or in three, and their MLPs may be gated.
    """

    def layout(self) -> TowerLayout:
        """Adapters have their place on queries, keys and values only where each has a matrix of its own."""
        stem = ("patch_embed", "cls_token", "pos_embed", "norm_pre", "rope")
        split = {letter: rf"attn\.{letter}_proj" for letter in "qkv"} if self.split else {}
        return self.laid_out(
            stem, "blocks", {**split, "out": r"attn\.proj", "mlp": r"mlp\.(fc[12]|fc1_[gx])"}
        )

    @property
    def split(self) -> bool:
        """Whether queries, keys and values have a matrix each."""
        return all(block.attn.qkv is None for block in self.trunk.blocks)

    def beside(self) -> Sequence[Mapping[str, Any]]:
        """The angles of every place, which are learnt and other in each block where they are mixed."""
        trunk = self.trunk
        if trunk.rope is None:
            return super().beside()
        named = {"shape": list(self.geometry.grid)} if trunk.dynamic_img_size else {}
        angles = trunk.rope.get_embed(**named)
        mixed = getattr(trunk, "rope_mixed", False)
        return [{"rope": angles[number] if mixed else angles} for number in range(self.geometry.blocks)]

    def watch(self, block: Any, whole: bool, receive: QueriesKeys) -> list[Any]:
        if self.reader == "none":
            return super().watch(block, whole, receive)
        seen: dict[str, Any] = {}

        def before(_module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            seen["rope"] = named.get("rope", inputs[1] if len(inputs) > 1 else None)

        def after(attention: Any, _inputs: object, _output: object) -> None:
            queries, keys, rope = seen.pop("queries"), seen.pop("keys"), seen.pop("rope")
            queries = queries if whole else queries[:, :1]
            receive(
                _placed(attention, attention.q_norm, queries, rope),
                _placed(attention, attention.k_norm, keys, rope),
            )

        return [
            block.attn.register_forward_pre_hook(before, with_kwargs=True),
            *_watch_layers(block.attn, seen),
            block.attn.register_forward_hook(after),
        ]

    def canonical(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Queries, keys and values each by itself, as are gate and value of a gated MLP, ``mlp.fc1_g`` and
        ``mlp.fc1_x``."""
        inner = name.removeprefix("visual.")
        block = re.fullmatch(r"trunk\.blocks\.(\d+)\.(.+)", inner)
        if block is None:
            yield from self.outside(inner, weight)
            return
        place, rest = f"vision_model.encoder.layers.{block[1]}", block[2]
        packed = _PACKED.fullmatch(rest)
        if packed and packed[1]:
            for letter, part in zip("qkv", weight.chunk(3), strict=True):
                yield f"{place}.self_attn.{letter}_proj.{packed[1]}", part
        elif packed:
            yield f"{place}.self_attn.{packed[2]}_proj.bias", weight
        elif rest.startswith("mlp.fc1.") and type(self.trunk.blocks[int(block[1])].mlp).__name__ == "GluMlp":
            for letter, part in zip("gx", weight.chunk(2), strict=True):
                yield f"{place}.mlp.fc1_{letter}.{rest.removeprefix('mlp.fc1.')}", part
        else:
            yield f"{place}.{renamed(rest, _INSIDE)}", weight


def why_not_read(trunk: Any) -> str | None:
    """Why an Eva of timm's is not read."""
    if reason := why_not_pooled(trunk):
        return reason
    for block in trunk.blocks:
        attention: Any = getattr(block, "attn", None)
        if type(attention).__name__ not in _ATTENTIONS:
            return f"the attention of its blocks is timm's {type(attention).__name__}"
        if _unheard(attention) and type(attention.qkv).__module__.startswith("peft."):
            return (
                "an adapter on attn.qkv does nothing, as timm takes that layer's weight and never calls it; "
                "put it on attn.proj and the MLPs"
            )
    return None


def _unheard(attention: Any) -> bool:
    """Whether the matrix of queries, keys and values is used without its layer being called."""
    biased = getattr(attention, "q_bias", None) is not None
    return attention.qkv is not None and biased and not getattr(attention, "qkv_bias_separate", False)


def _watch_layers(attention: Any, seen: dict[str, Any]) -> list[Any]:
    """Have queries and keys (B, T, D) put into ``seen``, as the layers of an attention leave them."""
    if attention.qkv is None:
        return [
            attention.q_proj.register_forward_hook(partial(_keep, seen, "queries")),
            attention.k_proj.register_forward_hook(partial(_keep, seen, "keys")),
        ]

    def packed(found: Tensor, width: int) -> None:
        seen["queries"], seen["keys"] = found[..., :width], found[..., width:]

    if _unheard(attention):

        def given(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            width = len(attention.q_bias)
            bias = cat((attention.q_bias, attention.k_bias))
            packed(linear(inputs[0], attention.qkv.weight[: 2 * width], bias), width)

        return [attention.register_forward_pre_hook(given)]

    def after(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        width = output.shape[-1] // 3
        found = output[..., : 2 * width]
        if getattr(attention, "q_bias", None) is not None:  # timm adds it in place, once this hook is over
            found = found + cat((attention.q_bias, attention.k_bias)).to(found.dtype)
        packed(found, width)

    return [attention.qkv.register_forward_hook(after)]


def _keep(seen: dict[str, Any], name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
    seen[name] = output


def _placed(attention: Any, norm: nn.Module, tokens: Tensor, rope: Tensor | None) -> Tensor:
    """Queries or keys (B, T, D) as they are multiplied: normed, and those of patches turned."""
    found = norm(tokens.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2))
    first = attention.num_prefix_tokens
    if rope is not None and found.shape[2] > first:
        turn = import_module("timm.layers").apply_rot_embed_cat  # it is there, as the model is timm's
        half = {"half": True} if getattr(attention, "rotate_half", False) else {}
        turned = turn(found[:, :, first:], rope, **half)
        found = cat([found[:, :, :first], turned], 2).to(tokens.dtype)
    return found.transpose(1, 2).flatten(-2)
