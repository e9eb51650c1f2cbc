"""OpenCLIP's attention with queries, keys and values from layers of their own, for adapters to act on each.

OpenCLIP keeps the three matrices in one parameter, ``in_proj_weight``, that no layer calls, and projections
as bare parameters. :func:`split` and :func:`replace_parameter` turn them into modules, in place and exactly:
the same products of the same numbers. :func:`joined` gives the weights back under OpenCLIP's own names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils import parametrize

_LETTERS = "qkv"
_SPLIT = re.compile(r"(.*\bresblocks\.\d+\.attn)\.([qkv])_proj\.(weight|bias)")
"""Not a ResNet's pooling head, ``attnpool``, nor timm's Eva, which have such layers from the start."""
_ADAPTED = re.compile(r".*\b(resblocks\.\d+\.attn\.(q|k|v|out)_proj\.lora_|parametrizations\.).*")
_REPLACED = re.compile(r"(.*?)parametrizations\.([^.]+)\.(original|0\.weight)")


class SplitAttention(nn.Module):
    """Attention by ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj``; base of the two forms in OpenCLIP."""

    def __init__(self, fused: Any) -> None:
        """Take over the weights of torch's MultiheadAttention or of OpenCLIP's own Attention."""
        super().__init__()
        self.num_heads = int(fused.num_heads)
        weights = fused.in_proj_weight.detach().chunk(3)
        biases = (None,) * 3 if fused.in_proj_bias is None else fused.in_proj_bias.detach().chunk(3)
        self.q_proj, self.k_proj, self.v_proj = map(_layer, weights, biases)
        self.out_proj = _layer(fused.out_proj.weight.detach(), _detached(fused.out_proj.bias))

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float
    ) -> Tensor:
        """(B, Q, D) what the heads give together, before ``out_proj``.

        Args:
            query: (B, Q, D).
            key, value: (B, T, D).
            mask: added to the scores, (Q, T) or (B x heads, Q, T), or true where nothing may be seen.
        """
        if mask is not None:
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask, -torch.inf)
            if mask.ndim == 3:
                mask = mask.unflatten(0, (len(query), self.num_heads))
        q, k, v = (
            layer(given).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, given in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        if mask is not None:
            mask = mask.to(q.dtype)
        found = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return found.transpose(1, 2).flatten(-2)


class SplitMultiheadAttention(SplitAttention):
    """In the place of torch's MultiheadAttention."""

    def __init__(self, fused: Any) -> None:
        super().__init__(fused)
        self.batch_first = bool(fused.batch_first)
        self.dropout = float(fused.dropout)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """As torch's own without ``need_weights``, which OpenCLIP never asks for."""
        if need_weights:
            raise ValueError("attention that is split gives no weights; read them with clipdrift.trace")
        if not self.batch_first:
            query, key, value = (given.transpose(0, 1) for given in (query, key, value))
        found = self.attend(query, key, value, attn_mask, self.dropout if self.training else 0.0)
        found = self.out_proj(found)
        return found if self.batch_first else found.transpose(0, 1), None


class SplitOwnAttention(SplitAttention):
    """In the place of OpenCLIP's own Attention, as far as it is the plain one."""

    def __init__(self, fused: Any) -> None:
        super().__init__(fused)
        self.attn_drop, self.ln_inner, self.out_drop = fused.attn_drop, fused.ln_inner, fused.out_drop

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        found = self.attend(x, x, x, attn_mask, self.attn_drop.p if self.training else 0.0)
        out: Tensor = self.out_drop(self.out_proj(self.ln_inner(found)))
        return out


class Replacement(nn.Module):
    """A weight in the place of a bare parameter, which stays what it was."""

    def __init__(self, original: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(original.detach().clone(), requires_grad=False)

    def forward(self, original: Tensor) -> Tensor:
        return self.weight


def _detached(found: Tensor | None) -> Tensor | None:
    return None if found is None else found.detach()


def _layer(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    with torch.device("meta"):
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return made


def split(blocks: Sequence[Any]) -> bool:
    """Replace the attention of some blocks in place; True where there was any to replace."""
    forms = {nn.MultiheadAttention: SplitMultiheadAttention}
    done = False
    for block in blocks:
        if not isinstance(block.attn, SplitAttention):
            made = forms.get(type(block.attn), SplitOwnAttention)(block.attn)
            block.attn = made.train(block.attn.training)
            done = True
    return done


def replace_parameter(owner: nn.Module, name: str) -> bool:
    """Put a :class:`Replacement` in the place of a parameter, in place; False where it was there already."""
    if parametrize.is_parametrized(owner, name):
        return False
    found = getattr(owner, name)
    trained = found.requires_grad
    parametrize.register_parametrization(owner, name, Replacement(found))
    for parameter in owner.get_submodule(f"parametrizations.{name}").parameters():
        parameter.requires_grad_(trained)
    return True


def made_on_split(name: str) -> bool:
    """Whether an adapter's weight, by its name in peft's file, belongs on a model that is split."""
    return _ADAPTED.fullmatch(name) is not None


def joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a split model without adapters, under the names of the model that it was."""
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, weight in state.items():
        if replaced := _REPLACED.fullmatch(name):
            if replaced[3] != "original":
                found[replaced[1] + replaced[2]] = weight
        elif inside := _SPLIT.fullmatch(name):
            parts.setdefault(f"{inside[1]}.in_proj_{inside[3]}", {})[inside[2]] = weight
        else:
            found[name] = weight
    return found | {name: torch.cat([three[one] for one in _LETTERS]) for name, three in parts.items()}
