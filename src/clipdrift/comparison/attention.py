"""Attention of a few images in both models, for pictures."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from clipdrift.comparison.images import ProbeSet
from clipdrift.comparison.models import OpenedModel
from clipdrift.comparison.pairs import ModelPair
from clipdrift.measures.shown import attention_shares, spread
from clipdrift.runs.maps import Maps


def attention_of(pair: ModelPair, probe: ProbeSet, count: int) -> Maps | None:
    """Attention over patches of ``count`` images; None where there are no pictures, or no attention, to show.

    One image of each class first, where there are classes.
    """
    if pair.shape.reader == "none":
        return None
    some = range(min(count, len(probe)))
    chosen = list(some) if probe.labels is None else spread(probe.labels, count)
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


def _rows(side: OpenedModel, probe: ProbeSet, chosen: list[int]) -> NDArray[np.float32]:
    """(n, L, H, P), each row summing to 1."""
    device = next(side.model.parameters()).device
    images = [batch[0] for position in chosen for batch, _ in _one(probe, position, device)]
    shares = attention_shares(side.model, torch.stack(images))
    assert shares is not None
    return shares


def _one(probe: ProbeSet, position: int, device: torch.device) -> list[tuple[torch.Tensor, slice]]:
    from clipdrift.data.deck import Deck

    images = probe.on(device)
    assert isinstance(images, Deck)  # there are pictures, so it is one
    return list(images.subset([position]).batches(1))
