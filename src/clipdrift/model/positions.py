"""Fit an image tower to images of another size by interpolating its positions, as transformers does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate

from clipdrift.data.preprocess import Preprocess
from clipdrift.model.base import Clip
from clipdrift.model.towers import UnsupportedModelError, unwrapped


@torch.no_grad()
def interpolate_positions(model: Any, size: int) -> None:
    """Interpolate the position embeddings of an image tower bicubically, in place, for another image size.

    The embedding of the class token, where there is one, stays. It is what transformers'
    ``interpolate_pos_encoding`` does in each forward pass (after DINO, Caron et al. 2021), done once.

    Args:
        model: transformers' CLIP or SigLIP, whole or an image tower alone in its view.
        size: side of the images in pixels, a multiple of the patch size.

    Raises:
        UnsupportedModelError: positions of another library, or under an adapter; a size that leaves a rest.
    """
    tower = getattr(unwrapped(model), "vision_model", None)
    table = getattr(getattr(tower, "embeddings", None), "position_embedding", None)
    if not isinstance(table, nn.Embedding):
        kind = type(unwrapped(model))
        raise UnsupportedModelError(
            f"{kind.__module__}.{kind.__name__}: its positions cannot be interpolated here; that works for "
            "transformers' CLIP and SigLIP without an adapter on their positions"
        )
    assert tower is not None
    embeddings: Any = tower.embeddings
    if size % embeddings.patch_size:
        raise UnsupportedModelError(
            f"{size} pixels are no whole number of patches of {embeddings.patch_size}"
        )
    old, side = embeddings.image_size // embeddings.patch_size, size // embeddings.patch_size
    extra = len(table.weight) - old * old  # the class token's
    patches = table.weight[extra:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    found = interpolate(patches.float(), size=(side, side), mode="bicubic", align_corners=False)
    rows = found.permute(0, 2, 3, 1).reshape(side * side, -1).to(table.weight.dtype)
    count = extra + side * side
    fitted = nn.Embedding(count, table.embedding_dim, device=table.weight.device, dtype=table.weight.dtype)
    fitted.weight.copy_(torch.cat([table.weight[:extra], rows]))
    embeddings.position_embedding = fitted.requires_grad_(table.weight.requires_grad)
    embeddings.position_ids = torch.arange(count, device=table.weight.device)[None]
    embeddings.image_size, embeddings.num_patches = size, side * side
    embeddings.num_positions = count
    outer = unwrapped(model).config
    for config in {id(c): c for c in (tower.config, getattr(outer, "vision_config", tower.config))}.values():
        config.image_size = size


def resized(clip: Clip, size: int) -> Clip:
    """The Clip with preprocessing for images of ``size`` pixels; the model is the caller's business."""
    old = clip.preprocess
    crop = None if old.crop is None else (size, size)
    given = old.crop or old.size
    side = given[0] if isinstance(given, tuple) else given
    fitted: int | tuple[int, int] | None = old.size
    if isinstance(old.size, int):
        fitted = round(old.size * size / (side or old.size))
    elif old.size is not None:
        fitted = (size, size)
    preprocess: Preprocess = replace(old, size=fitted, crop=crop)
    named: dict[str, Any] = {}
    if fitted is not None:
        named["size"] = (
            {"shortest_edge": fitted} if isinstance(fitted, int) else {"height": size, "width": size}
        )
    if crop is not None:
        named["crop_size"] = {"height": size, "width": size}
    return replace(clip, preprocess=preprocess, preprocessor=clip.preprocessor | named)
