"""Attention of a few images in both models, for pictures."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from clipdrift.comparing.images import Probe
from clipdrift.comparing.models import Opened
from clipdrift.comparing.pairs import Pair
from clipdrift.maps import Maps
from clipdrift.measures.still import in_float32, still
from clipdrift.model.towers import tower_of
from clipdrift.model.trace import trace


def attention_of(pair: Pair, probe: Probe, count: int) -> Maps | None:
    """Attention over patches of ``count`` images; None where there are no pictures to show.

    One image of each class first, where there are classes.
    """
    chosen = _spread(probe, count)
    pictures = probe.pictures(chosen)
    if pictures is None or not chosen:
        return None
    return Maps(
        images=np.ascontiguousarray(pictures),
        titles=tuple(probe.titles[i] for i in chosen),
        before=_rows(pair.base, probe, chosen),
        after=_rows(pair.tuned, probe, chosen),
        grid=pair.shape.grid,
    )


def _spread(probe: Probe, count: int) -> list[int]:
    if probe.labels is None:
        return list(range(min(count, len(probe))))
    rank: dict[int, int] = {}
    order = []
    for position, label in enumerate(probe.labels.tolist()):
        rank[label] = rank.get(label, -1) + 1
        order.append((rank[label], label, position))
    return [position for _, _, position in sorted(order)[:count]]


def _rows(side: Opened, probe: Probe, chosen: list[int]) -> NDArray[np.float32]:
    """(n, L, H, P), each row summing to 1."""
    tower = tower_of(side.model)
    device = next(side.model.parameters()).device
    images = [batch[0] for position in chosen for batch, _ in _one(probe, position, device)]
    with still(tower.model):
        seen = trace(tower.model, torch.stack(images).float(), rows=True, call=in_float32)
    assert seen.rows is not None
    patches = seen.rows[..., tower.first_patch :].double()
    shares = patches / patches.sum(-1, keepdim=True)
    return shares.transpose(0, 1).float().cpu().numpy()


def _one(probe: Probe, position: int, device: torch.device) -> list[tuple[torch.Tensor, slice]]:
    from clipdrift.data.deck import Deck

    images = probe.on(device)
    assert isinstance(images, Deck)  # there are pictures, so it is one
    return list(images.subset([position]).batches(1))
