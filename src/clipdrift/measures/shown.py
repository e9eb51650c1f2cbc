"""Attention of a few images, for pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipdrift.measures.still import in_float32, still
from clipdrift.model.towers import tower_of
from clipdrift.model.trace import trace


def attention_shares(model: Any, images: torch.Tensor) -> NDArray[np.float32] | None:
    """Attention of the class token (or pooling head) in every block and head.

    Args:
        model: any that :func:`clipdrift.model.towers.tower_of` knows.
        images: (n, 3, S, S), normalised, on the model's device.

    Returns:
        (n, L, H, P) shares over patches, each row summing to 1; None of a model without attention.
    """
    tower = tower_of(model)
    if tower.reader == "none":
        return None
    with still(tower.model):
        seen = trace(tower.model, images.float(), rows=True, call=in_float32)
    assert seen.rows is not None
    patches = seen.rows[..., tower.row_patch :].double()
    shares = patches / patches.sum(-1, keepdim=True)
    return shares.transpose(0, 1).float().cpu().numpy()


def spread(labels: NDArray[np.int64], count: int) -> list[int]:
    """Positions of ``count`` images: one of each class first, in the order of the classes, then a second."""
    rank: dict[int, int] = {}
    order = []
    for position, label in enumerate(labels.tolist()):
        rank[label] = rank.get(label, -1) + 1
        order.append((rank[label], label, position))
    return [position for _, _, position in sorted(order)[:count]]
