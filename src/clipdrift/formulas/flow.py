"""Attention from patch to patch, and attention followed through all blocks (rollout)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from clipdrift.formulas.attention import entropy

NATS_PER_BIT = math.log(2)


def bits(nats: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Information in bits instead of nats: divided by ln 2."""
    return nats / NATS_PER_BIT


def patch_entropy(maps: Float[Tensor, "*batch T T"], class_token: bool = True) -> Float[Tensor, "*batch"]:
    """Mean over the patches of the entropy of their attention to patches, in bits.

    Each patch's row is renormalised over the patches; the class token's row and column are left out.
    Published values are in bits, those of :func:`entropy` in nats.

    Args:
        maps: (..., T, T) attention maps of T tokens, the rows over the keys.
        class_token: whether token 0 is the class token; ``False`` for models whose tokens are all patches.

    Returns:
        (...) in bits, within [0, log2 P].

    Raises:
        ValueError: maps that are not square, or patch rows as in :func:`entropy`.
    """
    if maps.shape[-1] != maps.shape[-2]:
        raise ValueError(f"attention maps of shape {tuple(maps.shape[-2:])} are not square")
    first = int(class_token)
    return bits(entropy(maps[..., first:, first:]).mean(-1))


def rollout_step(
    rolled: Float[Tensor, "B T T"] | None, maps: Float[Tensor, "B H T T"]
) -> Float[Tensor, "B T T"]:
    """One block of attention rollout: ``(0.5 mean_h A + 0.5 I) @ rolled`` (Abnar and Zuidema 2020).

    Called block by block, from the first to the last, by code that never holds the maps of two blocks. Later
    blocks stand on the left. Checks nothing: :func:`rollout` and :func:`patch_entropy` check maps.

    Args:
        rolled: (B, T, T) the product of the blocks before; ``None`` before the first block.
        maps: (B, H, T, T) attention maps of this block.

    Returns:
        (B, T, T), rows that sum to 1 where those of the maps do. Also under autocast in the dtype of the
        arguments, half precision raised to float32: the product over blocks would add up its rounding.
    """
    dtype = torch.promote_types(maps.dtype, torch.float32)
    with torch.autocast(maps.device.type, enabled=False):
        mean = maps.mean(1, dtype=dtype)
        if rolled is None:
            mixed = mean.mul_(0.5)
            mixed.diagonal(dim1=-2, dim2=-1).add_(0.5)
            return mixed
        return torch.baddbmm(rolled, mean.to(rolled.dtype), rolled, beta=0.5, alpha=0.5)


def rollout(maps: Float[Tensor, "L B H T T"]) -> Float[Tensor, "B P"]:
    """Attention rollout from the class token to the patches (Abnar and Zuidema 2020).

    :func:`rollout_step` over all blocks; of the product the class token's row over the patches, renormalised.

    Args:
        maps: (L, B, H, T, T) attention maps of all blocks in order, T = 1 + P, the class token first.

    Returns:
        (B, P) a distribution over the patches.

    Raises:
        ValueError: no blocks, nan, inf, negative values, rows that do not sum to 1 within 0.001 (bfloat16:
            within its epsilon), or no attention on any patch.
    """
    rolled: Tensor | None = None
    for block, part in enumerate(maps, start=1):
        _check_rows(part, block)
        rolled = rollout_step(rolled, part)
    if rolled is None:
        raise ValueError("rollout needs the maps of at least one block")
    patches = rolled[:, 0, 1:]
    total = patches.sum(-1, keepdim=True)
    if (total <= 0).any():
        raise ValueError("rollout: the class token attends to no patch")
    return patches / total


def _check_rows(maps: Tensor, block: int) -> None:
    total = maps.sum(-1, dtype=torch.promote_types(maps.dtype, torch.float32))
    if not torch.isfinite(total).all():
        raise ValueError(f"rollout: attention of block {block} contains nan or inf")
    if maps.amin() < 0:
        raise ValueError(f"rollout: attention of block {block} contains negative values")
    off = (total - 1).abs().amax().item()
    if off > max(1e-3, torch.finfo(maps.dtype).eps):
        raise ValueError(f"rollout: attention rows of block {block} do not sum to 1 (off by {off:.3g})")
