"""Text towers of OpenCLIP that are CLIP's: a causal mask, a text pooled at its end token.

OpenCLIP's CLIP holds the parts of its text tower itself, beside the image tower; CustomTextCLIP holds a
TextTransformer. Nothing is imported from OpenCLIP.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from clipdrift.model.towers.base import Call, QueriesKeys, UnsupportedModelError, queries_and_keys
from clipdrift.model.towers.huggingface import watch_layers
from clipdrift.model.towers.layout import Places, TowerLayout
from clipdrift.model.towers.openclip import MATRICES, attention_of, in_block, why_not_plain
from clipdrift.model.towers.split_attention import SplitAttention, replace_parameter, split
from clipdrift.model.towers.text import Prompt, TextTower

_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
OUTSIDE = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
"""From OpenCLIP's names to those of transformers' CLIPModel, outside of the blocks."""
_PROJECTION = "text_projection"


class OpenClipTextTower(TextTower):
    """The text tower of OpenCLIP's CLIP or CustomTextCLIP."""

    @classmethod
    def of(cls, model: Any) -> OpenClipTextTower:
        """Make the view of a whole model's text tower.

        Raises:
            UnsupportedModelError: texts that are pooled, masked or attended to in another way than CLIP's.
        """
        if reason := _refused(model):
            kind = type(model)
            raise UnsupportedModelError(
                f"the text tower of {kind.__module__}.{kind.__name__} cannot be read: {reason}"
            )
        return cls(model)

    @property
    def _holder(self) -> Any:
        return _holder(self.model)

    @property
    def _prefix(self) -> str:
        return "" if self._holder is self.model else "text."

    @property
    def heads(self) -> int:
        return int(attention_of(self.blocks[0]).num_heads)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return list(self._holder.transformer.resblocks)

    @property
    def _batch_first(self) -> bool:
        return bool(getattr(self._holder.transformer, "batch_first", False))

    def tokens(self, output: object) -> Tensor:
        tokens = super().tokens(output)
        return tokens if self._batch_first else tokens.transpose(0, 1)

    def prompts(self, tokenizer: Any, texts: Sequence[str]) -> list[Prompt]:
        found = []
        for ids in tokenizer(list(texts)).tolist():
            end = ids.index(max(ids))
            start = end > 0 and ids[0] == getattr(tokenizer, "sot_token_id", None)
            found.append(Prompt(tuple(ids[: end + 1]), start, end))
        return found

    def run(self, ids: Tensor, call: Call) -> Tensor:
        holder, length = self._holder, ids.shape[1]
        x = call(holder.token_embedding, ids)
        x = x + holder.positional_embedding[:length].to(x.dtype)
        x = call(holder.transformer, x, attn_mask=holder.attn_mask[:length, :length])
        x = call(holder.ln_final, x)
        pooled: Tensor = x[torch.arange(len(ids), device=ids.device), ids.argmax(1)]
        projection = holder.text_projection
        if projection is None:
            return pooled
        if isinstance(projection, nn.Module):
            projected: Tensor = call(projection, pooled)
            return projected
        return pooled @ projection.to(pooled.dtype)

    def _names(self) -> tuple[str, ...]:
        """Where the projection is, and the rest of the tower, among the attributes of what holds it."""
        projection = _PROJECTION
        if parametrize.is_parametrized(self._holder, _PROJECTION):
            projection = f"parametrizations.{_PROJECTION}"
        rest = ("token_embedding", "positional_embedding", "transformer", "ln_final")
        return rest if self._holder.text_projection is None else (projection, *rest)

    def parts(self) -> tuple[tuple[str, nn.Module | nn.Parameter], ...]:
        modules = dict(self._holder.named_modules()) | dict(self._holder.named_parameters(recurse=False))
        return tuple((f"{self._prefix}{name}", modules[name]) for name in self._names())

    def layout(self) -> TowerLayout:
        names, prefix = self._names(), self._prefix
        projection: Places = ()
        replacement: Places = ()
        if self._holder.text_projection is not None:
            projection, replacement = self._projection(names[0])
        return TowerLayout(
            whole=tuple(f"{prefix}{name}" for name in names),
            stem=(f"{prefix}token_embedding", f"{prefix}positional_embedding"),
            blocks=tuple(f"{prefix}transformer.resblocks.{i}" for i in range(len(self.blocks))),
            projection=projection,
            projected_by="text projection",
            matrices=MATRICES,
            projection_modules=replacement,
        )

    def _projection(self, name: str) -> tuple[Places, Places]:
        """Where the projection is now, and where once the tower is made adaptable."""
        inner = self._holder.text_projection
        if not isinstance(inner, nn.Linear):
            replacement = f"{self._prefix}parametrizations.{_PROJECTION}.0"
            replaced = name.startswith("parametrizations.")
            return (replacement if replaced else f"{self._prefix}{name}",), (replacement,)
        # OpenCLIP looks whether it is a Linear, so that no wrapper may take its place
        of = f"{self._prefix}{_PROJECTION}"
        each = tuple(f"{of}.parametrizations.{kind}.0" for kind, _ in _own(inner))
        return (each if parametrize.is_parametrized(inner) else (of,)), each

    def make_adaptable(self) -> bool:
        inner = self._holder.text_projection
        replaced = False
        if isinstance(inner, nn.Linear):
            done = [replace_parameter(inner, kind) for kind, _ in _own(inner)]
            replaced = any(done)
        elif inner is not None:
            replaced = replace_parameter(self._holder, _PROJECTION)
        return split(self.blocks) or replaced

    def watch(self, block: nn.Module, receive: QueriesKeys) -> list[Any]:
        attention = attention_of(block)
        if isinstance(attention, SplitAttention):
            return watch_layers(attention, True, receive)

        def before(module: Any, inputs: tuple[Any, ...]) -> None:
            tokens = self.tokens(inputs[0])
            receive(*queries_and_keys(module, tokens, tokens))

        return [attention.register_forward_pre_hook(before)]

    def canonical(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        inner = name.removeprefix(self._prefix)
        if inner.endswith(".original"):
            return  # does not act
        if found := _BLOCK.fullmatch(inner):
            yield from in_block(f"text_model.encoder.layers.{found[1]}", found[2], weight)
        elif inner in (_PROJECTION, f"parametrizations.{_PROJECTION}.0.weight"):
            yield f"{_PROJECTION}.weight", weight.T
        else:
            plain = inner.replace(".parametrizations.", ".").removesuffix(".0.weight")
            yield OUTSIDE.get(plain, plain), weight


def _own(linear: nn.Linear) -> list[tuple[str, Tensor]]:
    return [("weight", linear.weight)] + ([] if linear.bias is None else [("bias", linear.bias)])


def _holder(model: Any) -> Any:
    """What holds the parts of the text tower: the model itself, or its ``text``."""
    return model.text if hasattr(model, "text") else model


def _refused(model: Any) -> str | None:
    """Why a text tower cannot be read."""
    holder = _holder(model)
    if not hasattr(holder, "token_embedding"):
        return f"it is {type(holder).__module__.partition('.')[0]}'s {type(holder).__name__}"
    kind = getattr(holder, "pool_type", getattr(holder, "text_pool_type", "argmax"))
    if kind != "argmax":
        return f"its texts are not pooled at their end token (pool_type is {kind!r}, not 'argmax')"
    if getattr(holder, "cls_emb", None) is not None:
        return "a class token follows its texts (embed_cls)"
    if holder.attn_mask is None:
        return "its attention is not causal (no_causal_mask)"
    reasons = (why_not_plain(block.attn) for block in holder.transformer.resblocks)
    return next((reason for reason in reasons if reason), None)
