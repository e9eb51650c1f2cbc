"""A backbone that is given beside the model in training: what is compared with, and what it lends."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from clipdrift.comparison.models import ModelLike, open_model
from clipdrift.errors import ClipdriftError
from clipdrift.model.clip import Clip, load
from clipdrift.model.halves import half_of
from clipdrift.model.towers import is_known, unwrapped


@dataclass(frozen=True, eq=False)
class Lent:
    """What another model than the one in training gives.

    Attributes:
        model: to be read as the backbone; None: the model in training is, as it is now.
        clip: whose texts are used where the model in training has none.
        projection: put behind an image tower that has none, a copy.
        notes: what was found and is used.
    """

    model: nn.Module | None = None
    clip: Clip | None = None
    projection: nn.Module | None = None
    notes: tuple[str, ...] = ()


def lender(inner: nn.Module, backbone: ModelLike | None, texts: Clip | None) -> Lent:
    """Open ``backbone``; without one, find the whole model that an image tower alone was taken from.

    Args:
        inner: what :func:`clipdrift.monitoring.live.clip_in` found in the training.
        texts: with which a backbone in memory can encode texts.

    Raises:
        ClipdriftError: it cannot be opened.
    """
    lone = half_of(inner) is not None
    if backbone is None:
        return _whole(inner) if lone else Lent()
    opened = open_model(backbone)
    place = next(inner.parameters()).device
    model: Any = opened.model if opened.kind == "in memory" else opened.model.to(place)
    clip = opened.clip or texts
    return Lent(model, clip, _projection(model) if lone else None)


def _whole(inner: Any) -> Lent:
    """The whole CLIP whose image tower this is, if it lies where that was loaded from and is the same."""
    name = getattr(inner, "name_or_path", "")
    if not name:
        return Lent()
    try:
        clip = load(name)
    except ClipdriftError:
        return Lent()
    half = half_of(inner)
    assert half is not None
    if not is_known(unwrapped(clip.model)) or not _same_tower(half.vision_model, clip.model.vision_model):
        return Lent()
    place = next(inner.parameters()).device
    clip.model.to(place)
    note = f"the projection and the texts are those of {name}, whose image tower this is"
    return Lent(None, clip, _projection(clip.model), (note,))


def _same_tower(one: nn.Module, other: nn.Module) -> bool:
    before, now = dict(other.named_parameters()), dict(one.named_parameters())
    return before.keys() == now.keys() and all(
        torch.equal(now[name].detach().cpu().float(), before[name].detach().cpu().float()) for name in now
    )


def _projection(model: Any) -> nn.Module | None:
    found = getattr(unwrapped(model), "visual_projection", None)
    if found is None:
        return None
    made: nn.Module = copy.deepcopy(found).requires_grad_(False)
    return made
