"""Image towers of OpenCLIP: CLIP and CustomTextCLIP with a VisionTransformer that projects its class token.

Nothing is imported from OpenCLIP, so that it need not be there: classes are known by their names. Models of
all releases from 2.24 on are read.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from types import NoneType
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from clipdrift.model.towers.base import (
    Call,
    Geometry,
    QueriesKeys,
    Tower,
    UnsupportedModelError,
    queries_and_keys,
    square,
)
from clipdrift.model.towers.huggingface import watch_layers
from clipdrift.model.towers.layout import Places, TowerLayout
from clipdrift.model.towers.split_attention import SplitAttention, replace_parameter, split
from clipdrift.shapes import Images

NOT_READ: dict[str, str] = {
    "CoCa": "CoCa pools images by attention with many queries, and its class token is not what is projected",
}
"""Why a model that OpenCLIP makes is not read; by its class."""

_ATTENTIONS = {
    ("torch", "MultiheadAttention"): lambda attention: attention,
    ("open_clip", "Attention"): lambda attention: attention,
    ("peft", "MultiheadAttention"): lambda attention: attention.get_base_layer(),
    ("clipdrift", "SplitMultiheadAttention"): lambda attention: attention,
    ("clipdrift", "SplitOwnAttention"): lambda attention: attention,
}
"""From what stands in a block to the attention that runs. For each forward pass peft puts its adapters into
the weights of that one, so a hook on it sees them as they act."""

_NOT_PLAIN = {
    "ln_q": "normalises queries and keys (qk_norm)",
    "ln_k": "normalises queries and keys (qk_norm)",
    "logit_scale": "takes the cosine of queries and keys (scaled_cosine_attn)",
    "head_scale": "weights its heads after the softmax (scale_heads)",
}
"""Parts of OpenCLIP's own attention with which it is no longer the plain softmax of queries and keys."""

_ACTIVATIONS = {
    ("QuickGELU", None): "quick_gelu",
    ("GELU", "none"): "gelu",
    ("GELU", "tanh"): "gelu_pytorch_tanh",
}

_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
OUTSIDE = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1": "embeddings.patch_embedding",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
}
MATRICES: dict[str, str] = {
    "q": r"attn\.q_proj",
    "k": r"attn\.k_proj",
    "v": r"attn\.v_proj",
    "out": r"attn\.out_proj",
    "mlp": r"mlp\.c_(fc|proj)",
}
"""Matrices of a block that adapters can be put on, once its attention is split."""

INSIDE = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn": "self_attn",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
"""From OpenCLIP's names to those of transformers' CLIPModel, outside and inside of the blocks."""


class OpenClip(Tower):
    """OpenCLIP's CLIP or CustomTextCLIP.

    Queries and keys come from the input of each block's attention, which computes them where no hook reaches.
    Weights that transformers' CLIP has not, such as layer scales, keep their own names within their block.
    """

    @classmethod
    def of(cls, model: Any) -> OpenClip:
        """Make the tower of a whole CLIP or CustomTextCLIP.

        Raises:
            UnsupportedModelError: an image tower that is no VisionTransformer, that projects anything but its
                class token, whose images are not square, or whose attention is not the plain one.
        """
        if reason := _refused(model.visual):
            kind = type(model)
            raise UnsupportedModelError(f"{kind.__module__}.{kind.__name__} is not supported: {reason}")
        visual = model.visual
        rows, columns = visual.grid_size
        width = int(visual.transformer.width)
        geometry = Geometry(
            blocks=len(visual.transformer.resblocks),
            heads=int(attention_of(visual.transformer.resblocks[0]).num_heads),
            width=width,
            embedding_width=width if visual.proj is None else int(visual.proj.shape[1]),
            image_size=int(visual.image_size[0]),
            grid=(int(rows), int(columns)),
        )
        return cls(model, geometry)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return list(self.model.visual.transformer.resblocks)

    def layout(self) -> TowerLayout:
        visual = self.model.visual
        projection: Places = ()
        replacement: Places = ()
        if visual.proj is not None:
            replacement = ("visual.parametrizations.proj.0",)
            projection = replacement if parametrize.is_parametrized(visual, "proj") else ("visual.proj",)
        stem = ("class_embedding", "positional_embedding", "conv1", "ln_pre")
        return TowerLayout(
            whole=("visual",),
            stem=tuple(f"visual.{name}" for name in stem),
            blocks=tuple(f"visual.transformer.resblocks.{i}" for i in range(self.geometry.blocks)),
            projection=projection,
            projected_by="visual projection",
            matrices=MATRICES,
            projection_modules=replacement,
        )

    def make_adaptable(self) -> bool:
        visual = self.model.visual
        replaced = visual.proj is not None and replace_parameter(visual, "proj")
        return split(self.blocks) or replaced

    def run_from(self, carried: Tensor, start: int, call: Call) -> tuple[Tensor, Tensor]:
        visual = self.model.visual
        first = getattr(visual.transformer, "batch_first", False)
        for block in self.blocks[start:]:
            carried = self.tokens(call(block, carried if first else carried.transpose(0, 1)))
        pooled = call(visual.ln_post, carried[:, 0])
        return pooled, pooled if visual.proj is None else pooled @ visual.proj.to(pooled.dtype)

    @property
    def activation(self) -> str:
        """Name the activation as transformers does."""
        found = self.model.visual.transformer.resblocks[0].mlp.gelu
        name = type(found).__name__
        return _ACTIVATIONS.get((name, getattr(found, "approximate", None)), name)

    def run(self, images: Images, call: Call) -> tuple[Tensor, Tensor]:
        square(images, self.geometry.image_size)
        visual = self.model.visual
        normed: list[Tensor] = []
        handles = [
            visual.register_forward_pre_hook(_in_its_precision),
            visual.ln_post.register_forward_hook(lambda _module, _inputs, output: normed.append(output)),
        ]
        try:
            found = call(visual, images)
        finally:
            for handle in handles:
                handle.remove()
        # all tokens, or with final_ln_after_pool the class token alone
        pooled = normed[0][:, 0] if normed[0].ndim == 3 else normed[0]
        return pooled, found[0] if isinstance(found, tuple) else found  # a tuple with output_tokens

    def parts(self) -> tuple[tuple[str, nn.Module], ...]:
        """As in the base; attention that peft has wrapped comes once more, merged by peft itself.

        peft takes a merged ``in_proj_weight`` out of the parameters, where it would not be found.
        """
        wrapped = [
            (f"visual.transformer.resblocks.{number}.attn", _merged(block.attn))
            for number, block in enumerate(self.model.visual.transformer.resblocks)
            if _kind(block.attn) == ("peft", "MultiheadAttention")
        ]
        return ("visual", self.model.visual), *wrapped

    def tokens(self, output: object) -> Tensor:
        """As in the base; releases before 2.26 put the tokens before the batch."""
        tokens = super().tokens(output)
        first = getattr(self.model.visual.transformer, "batch_first", False)
        return tokens if first else tokens.transpose(0, 1)

    def watch(self, block: nn.Module, whole: bool, receive: QueriesKeys) -> list[Any]:
        attention = attention_of(block)
        if isinstance(attention, SplitAttention):
            return watch_layers(attention, whole, receive)

        def before(attention: Any, inputs: tuple[Any, ...]) -> None:
            tokens = self.tokens(inputs[0])
            receive(*queries_and_keys(attention, tokens if whole else tokens[:, :1], tokens))

        return [attention.register_forward_pre_hook(before)]

    def canonical(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        inner = name.removeprefix("visual.")
        found = _BLOCK.fullmatch(inner)
        if inner in ("proj", "parametrizations.proj.0.weight"):
            yield "visual_projection.weight", weight.T
        elif inner == "parametrizations.proj.original":
            return  # does not act
        elif found is None:
            yield f"vision_model.{_renamed(inner, OUTSIDE)}", weight
        else:
            yield from in_block(f"vision_model.encoder.layers.{found[1]}", found[2], weight)


def in_block(block: str, inner: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A weight of a block under transformers' names; queries, keys and values each by itself.

    Args:
        block: the block's name there.
        inner: the weight's name in OpenCLIP's block.
    """
    if inner.startswith("attn.in_proj_"):
        kind = inner.removeprefix("attn.in_proj_")
        for letter, part in zip("qkv", weight.chunk(3), strict=True):
            yield f"{block}.self_attn.{letter}_proj.{kind}", part
    else:
        yield f"{block}.{_renamed(inner, INSIDE)}", weight


def _kind(module: Any) -> tuple[str, str]:
    """Name package and class, of a module with a replaced parameter those that it had before."""
    kind = type(module).__mro__[parametrize.is_parametrized(module)]
    return kind.__module__.partition(".")[0], kind.__name__


def _refused(visual: Any) -> str | None:
    """Why an image tower cannot be read."""
    package, kind = _kind(visual)
    if (package, kind) != ("open_clip", "VisionTransformer"):
        return f"its image tower is {package}'s {kind}, not OpenCLIP's VisionTransformer"
    if visual.attn_pool is not None:
        return "its images are pooled by attention with many queries (attentional_pool), as in CoCa"
    if visual.pool_type != "tok":
        return f"it projects not its class token (pool_type is {visual.pool_type!r}, not 'tok')"
    height, width = visual.image_size
    if height != width:
        return f"its images are not square ({height}*{width})"
    reasons = (why_not_plain(block.attn) for block in visual.transformer.resblocks)
    return next((reason for reason in reasons if reason), None)


def why_not_plain(attention: Any) -> str | None:
    """Why a block's attention cannot be read."""
    package, kind = _kind(attention)
    if (package, kind) not in _ATTENTIONS:
        return f"the attention of its blocks is {package}'s {kind}"
    for name, reason in _NOT_PLAIN.items():
        if not isinstance(getattr(attention, name, None), NoneType | nn.Identity):
            return f"its attention {reason}"
    if package == "torch" and _kind(attention.out_proj)[0] == "peft":
        return (
            "an adapter on attn.out_proj does nothing, as torch takes that layer's weight and never calls "
            "it; let peft adapt the whole attention (target_modules 'attn')"
        )
    return None


def attention_of(block: Any) -> Any:
    """The attention of a block that runs."""
    return _ATTENTIONS[_kind(block.attn)](block.attn)


def _in_its_precision(visual: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Images as the first layer takes them, which in half precision OpenCLIP leaves to the caller."""
    return inputs[0].to(visual.conv1.weight.dtype), *inputs[1:]


def _merged(attention: Any) -> nn.Module:
    """A plain copy of peft's attention with the adapters that act added in."""
    attention.named_modules()  # peft puts merged weights, which cannot be copied, back among the parameters
    copied = copy.deepcopy(attention)
    act = not (copied.merged or copied.disable_adapters)
    plain: nn.Module = copied.unload_and_optionally_merge_module(act, safe_merge=False, adapter_names=None)
    return plain


def _renamed(name: str, table: dict[str, str]) -> str:
    for old, new in table.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name
