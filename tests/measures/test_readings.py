"""Training, comparing and repairing say the same of a pair of models, with and without a projection."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from clipdrift.comparison.tables import compared
from clipdrift.data.deck import Prepared
from clipdrift.listing import MEASURES
from clipdrift.measures import (
    Internals,
    cka_minibatch,
    drift,
    own_readings,
    read_internals,
    readings,
    representation,
    weights,
    weights_by_kind,
)
from clipdrift.model.clip import Clip
from clipdrift.model.weights import effective_weights
from clipdrift.training.observer import _values

CPU = torch.device("cpu")
Weights = dict[str, torch.Tensor]
Pair = tuple[Internals, Internals, Weights, Weights]


@pytest.fixture
def pair(tiny_clip: Clip) -> Pair:
    images = torch.randn(9, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = copy.deepcopy(tiny_clip.model)
    sides = []
    for _ in range(2):
        read = read_internals(model, Prepared(images, CPU), flow=True)
        sides.append((read, {k: v.detach().clone() for k, v in effective_weights(model).items()}))
        with torch.no_grad():
            for number, parameter in enumerate(model.vision_model.parameters()):
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
                parameter.add_(0.02 * noise)
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]


def without_projection(found: Weights) -> Weights:
    return {name: weight for name, weight in found.items() if not name.startswith("visual_projection.")}


@pytest.mark.parametrize("projected", [True, False])
def test_every_measure_is_what_its_own_function_gives(pair: Pair, projected: bool) -> None:
    before, after, old, new = pair
    if not projected:
        old, new = without_projection(old), without_projection(new)
    found = readings(before, after, old, new)
    for name in before.measures:
        change = drift(before.blocks(name), after.blocks(name))
        reading = found[name]
        assert reading.before is not None
        assert reading.drift is not None
        assert reading.value == pytest.approx(float(np.mean(after.blocks(name))), rel=1e-12)
        assert reading.before.value == pytest.approx(float(np.mean(before.blocks(name))), rel=1e-12)
        assert (reading.drift.mean, reading.drift.absolute) == (change.mean, change.absolute)
        assert list(reading.blocks) == (after.blocks(name).tolist() if len(after.blocks(name)) > 1 else [])
    for name, values in (
        representation(before, after) | {"cka_minibatch": cka_minibatch(before, after)}
    ).items():
        assert found[name].value == pytest.approx(float(np.mean(values)), rel=1e-12)
        assert found[name].drift is None
    moved = weights(old, new)
    assert found["weight_drift"].value == moved["weight_drift"][0]
    assert list(found["weight_drift"].blocks) == moved["weight_drift_blocks"]
    for kind, (whole, blocks) in weights_by_kind(old, new).items():
        assert (found[f"weight_drift_{kind}"].value, list(found[f"weight_drift_{kind}"].blocks)) == (
            whole,
            blocks,
        )
    assert ("weight_drift_projection" in found) is projected
    assert set(found) < set(MEASURES)


@pytest.mark.parametrize("projected", [True, False])
def test_records_and_comparisons_hold_the_same_numbers(pair: Pair, projected: bool) -> None:
    """As training keeps them (``Values``) and as compare and repair do (``Compared``)."""
    before, after, old, new = pair
    if not projected:
        old, new = without_projection(old), without_projection(new)
    rows = compared(readings(before, after, old, new))
    kept = {name: _values(r) for name, r in readings(before, after, old, new, minibatch=False).items()}
    assert set(rows) - set(kept) == {"cka_minibatch"}
    for name, values in kept.items():
        row = rows[name]
        assert values.mean == (row.after if row.value is None else row.value)
        assert values.blocks == (row.after_blocks if row.value is None else row.value_blocks)
        assert (values.drift, values.drift_blocks, values.absolute) == (
            row.drift,
            row.drift_blocks,
            row.absolute,
        )
    for name, reading in own_readings(before).items():
        assert reading.value == rows[name].before
        assert reading.drift is None


def test_whole_maps_that_one_side_lacks_are_left_out(pair: Pair) -> None:
    """The backbone is read with them, an epoch of the training without."""
    before, after, old, new = pair
    lean = {
        name: values for name, values in after.attention.items() if not name.startswith(("rollout", "patch_"))
    }
    found = readings(
        before,
        Internals(lean, after.heads, after.whole, after.states, after.embedding, after.reader),
        old,
        new,
    )
    assert "entropy" in found
    assert "rollout_entropy" not in found
