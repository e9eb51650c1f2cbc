"""Assemble every measure of one model against another, for training, comparison and repair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from clipdrift.measures.drift import Blocks, Drift, drift
from clipdrift.measures.internals import Internals
from clipdrift.measures.representation import cka_minibatch, representation
from clipdrift.measures.weights import IMAGE_TOWER, weights, weights_by_kind


@dataclass(frozen=True)
class Reading:
    """One measure of the adapted model.

    Attributes:
        value: mean over blocks, or the only value.
        blocks: (L,) value of each block; empty for a measure that has one value.
        before: the backbone's reading; None for a measure that is a comparison already, such as CKA.
        drift: change from ``before``; None likewise. Its blocks are empty where ``blocks`` is.
    """

    value: float
    blocks: tuple[float, ...] = ()
    before: Reading | None = None
    drift: Drift | None = None


def own_readings(internals: Internals) -> dict[str, Reading]:
    """Measures that a model has on its own."""
    return {name: reading_of(internals.blocks(name)) for name in internals.measures}


def readings(
    before: Internals,
    after: Internals,
    weights_before: Mapping[str, Tensor],
    weights_after: Mapping[str, Tensor],
    *,
    minibatch: bool = True,
) -> dict[str, Reading]:
    """Every measure of ``after`` against ``before``, in the order of tables.

    A model without a visual projection (SigLIP, a bare image tower) has no ``weight_drift_projection``: the
    name is left out, never filled in.

    Args:
        before, after: internals of backbone and adapted model on the same images; ``before`` may have more
            measures (those of whole maps), which are left out.
        weights_before, weights_after: as :func:`clipdrift.model.weights.effective_weights` names them.
        minibatch: minibatch CKA too; training leaves it out.

    Raises:
        MeasureError: undefined, naming measure and block.
    """
    found = internal_readings(before, after, minibatch=minibatch)
    return found | weight_readings(weights_before, weights_after)


def internal_readings(before: Internals, after: Internals, *, minibatch: bool = True) -> dict[str, Reading]:
    """:func:`readings` without those of weights, which internals do not hold."""
    found = {name: drifted(before.blocks(name), after.blocks(name)) for name in after.measures}
    found |= {name: reading_of(values) for name, values in representation(before, after).items()}
    if minibatch:
        found["cka_minibatch"] = reading_of(cka_minibatch(before, after))
    return found


def weight_readings(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Reading]:
    """Read how far the weights have moved: tower and blocks, the projection if there is one, kinds of
    matrix."""
    found = tower_readings(before, after)
    for kind, (whole, blocks) in weights_by_kind(before, after).items():
        found[f"weight_drift_{kind}"] = Reading(whole, tuple(blocks))
    return found


def tower_readings(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], tower: tuple[str, str] = IMAGE_TOWER
) -> dict[str, Reading]:
    """``weight_drift`` of a tower and its blocks; where it has one, ``weight_drift_projection``."""
    moved = weights(before, after, tower)
    found = {"weight_drift": Reading(moved["weight_drift"][0], tuple(moved["weight_drift_blocks"]))}
    if "weight_drift_projection" in moved:
        found["weight_drift_projection"] = Reading(moved["weight_drift_projection"][0])
    return found


def reading_of(blocks: Blocks) -> Reading:
    """A measure's values (L,) by block, and their mean; one value alone has no blocks."""
    values = tuple(float(v) for v in blocks)
    return Reading(math.fsum(values) / len(values), values if len(values) > 1 else ())


def drifted(before: Blocks, after: Blocks) -> Reading:
    """A measure that both sides have, (L,) each, with its drift."""
    old, new, change = reading_of(before), reading_of(after), drift(before, after)
    shown = change.blocks if new.blocks else ()
    return Reading(new.value, new.blocks, old, Drift(change.mean, shown, change.absolute))
