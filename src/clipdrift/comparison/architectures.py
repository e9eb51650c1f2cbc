"""Whether two models are of one architecture, and images of one size where only that differs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Literal, get_args

from clipdrift.comparison.models import OpenedModel, PairError, copied_clip
from clipdrift.model.half_loading import Half
from clipdrift.model.halves import ImageHalf
from clipdrift.model.positions import interpolate_positions, resized
from clipdrift.model.towers import Tower, tower_of

Interpolate = Literal["tuned", "base"]
"""Whose positions are interpolated where the two take images of different sizes."""
_SIZES = {"image_size", "grid"}


def same_architecture(first: str, second: str, one: Tower, other: Tower, ignore: Sequence[str] = ()) -> None:
    """Refuse image towers of different sizes, readers or activations.

    Args:
        first, second: what the models are called.
        ignore: names that may differ.

    Raises:
        PairError: naming everything that differs.
    """
    odd = {name: values for name, values in _differences(one, other).items() if name not in ignore}
    if odd and set(odd) <= _SIZES:
        left, right = odd["image_size"]
        raise PairError(
            f"{first} takes images of {left} pixels and {second} of {right}, so that their positions differ; "
            "`--interpolate-positions tuned` (or base) of compare, check and card interpolates those of one"
        )
    if odd:
        said = ", ".join(
            f"{name.replace('_', ' ')} {left} against {right}" for name, (left, right) in odd.items()
        )
        raise PairError(f"{first} and {second} are of different architectures: {said}")


def _differences(one: Tower, other: Tower) -> dict[str, tuple[Any, Any]]:
    left, right = _facts(one), _facts(other)
    return {name: (left[name], right[name]) for name in left if left[name] != right[name]}


def _facts(tower: Tower) -> dict[str, Any]:
    geometry = asdict(tower.geometry)
    sides = {"patch size": geometry["image_size"] // geometry["grid"][0]}
    return geometry | sides | {"read through the": tower.reader, "activation": tower.activation}


def checked_choice(interpolate: str | None) -> Interpolate | None:
    """Whose positions may be interpolated, as it was asked for. Raises PairError."""
    for choice in get_args(Interpolate):
        if interpolate == choice:
            found: Interpolate = choice
            return found
    if interpolate is not None:
        raise PairError(f"--interpolate-positions {interpolate}: neither tuned nor base")
    return None


def fit_sizes(
    base: OpenedModel, tuned: OpenedModel | Half, interpolate: Interpolate | None
) -> tuple[OpenedModel, OpenedModel | Half, list[str]]:
    """Interpolate positions where that was asked for and only the image sizes differ.

    Models in memory are copied before.

    Returns:
        Both, and notes on what was done.

    Raises:
        UnsupportedModelError: positions that cannot be interpolated.
    """
    if interpolate is None:
        return base, tuned, []
    view = tuned.view if isinstance(tuned, Half) else tuned.model
    if isinstance(tuned, Half) and not isinstance(view, ImageHalf):
        return base, tuned, ["TUNED is a text tower alone: no positions were interpolated."]
    one, other = tower_of(base.model), tower_of(view)
    odd = {name for name in _differences(one, other) if name != "embedding_width"}
    if not odd:
        size = one.geometry.image_size
        return base, tuned, [f"Both models take images of {size} pixels: no positions were interpolated."]
    if not odd <= _SIZES:  # said when they are compared
        return base, tuned, []
    old, new = (one, other) if interpolate == "base" else (other, one)
    note = (
        f"{interpolate.upper()}'s positions were interpolated bicubically from {_grid(old)} to {_grid(new)} "
        f"patches, for images of {new.geometry.image_size} pixels: weights and everything read are those of "
        "the interpolated model."
    )
    size = new.geometry.image_size
    if interpolate == "base":
        return _resized(base, size), tuned, [note]
    if isinstance(tuned, Half):
        return base, _resized_half(tuned, size), [note]
    found = _resized(tuned, size)
    if found.clip is not None and base.clip is not None:
        lent: dict[str, Any] = {"preprocess": base.clip.preprocess, "preprocessor": base.clip.preprocessor}
        found = replace(found, clip=replace(found.clip, **lent))
    return base, found, [note]


def _grid(tower: Tower) -> str:
    return " x ".join(str(side) for side in tower.geometry.grid)


def _resized(side: OpenedModel, size: int) -> OpenedModel:
    clip, model = side.clip, side.model
    old = tower_of(model).geometry.image_size
    if side.kind == "in memory":
        clip = None if clip is None else copied_clip(clip)
        model = copy.deepcopy(model) if clip is None else clip.model
    interpolate_positions(model, size)
    fitted = None if clip is None else resized(clip, size)
    return replace(side, model=model, clip=fitted, interpolated_from=old)


def _resized_half(half: Half, size: int) -> Half:
    old = tower_of(half.view).geometry.image_size
    view, classifier = copy.deepcopy((half.view, half.classifier))
    interpolate_positions(view, size)
    if classifier is not None:
        classifier = replace(classifier, preprocess=None)
    changes: dict[str, Any] = {"preprocess": None, "preprocessor": {}, "interpolated_from": old}
    return replace(half, view=view, classifier=classifier, **changes)
