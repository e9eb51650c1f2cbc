"""What is read on the GPU is what is read on the processor, and what transformers itself gives."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import CLIPModel

import clipdrift
from clipdrift.data.deck import Prepared
from clipdrift.measures import cka_matrix, read_internals, readings
from clipdrift.model.trace import trace
from clipdrift.model.weights import effective_weights
from small_runs import Lab

Record = Callable[[str, object], None]
CPU = torch.device("cpu")


def pixels(n: int, size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(7).standard_normal((n, 3, size, size)).astype(np.float32))


def exact() -> None:
    """True float32 on a GPU too, for what transformers computes beside the package."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def ready(base: CLIPModel, device: torch.device) -> tuple[CLIPModel, torch.Tensor]:
    """A copy of the model and four pictures on the device, which computes in true float32."""
    exact()
    return copy.deepcopy(base).to(device), pixels(4, 96).to(device)


@torch.no_grad()
def test_rows_are_those_of_eager_attention(
    base: CLIPModel, device: torch.device, record_property: Record
) -> None:
    """In float32 to 1e-5."""
    model, images = ready(base, device)
    seen = trace(model, images, rows=True).rows
    model.set_attn_implementation("eager")
    maps = model.vision_model(pixel_values=images, output_attentions=True).attentions
    expected = torch.stack(maps)[:, :, :, 0]
    assert seen is not None
    off = float((seen - expected).abs().max())
    record_property("largest_difference", off)
    assert off < 1e-5


@torch.no_grad()
def test_rows_in_bfloat16_are_off_by_its_rounding(
    base: CLIPModel, device: torch.device, record_property: Record
) -> None:
    """The trace takes its product in float32: what is left is what bfloat16 does to the states."""
    model, images = ready(base, device)
    plain = trace(model, images, rows=True).rows
    with torch.autocast(device.type, torch.bfloat16):
        seen = trace(model, images, rows=True).rows
    assert seen is not None
    assert plain is not None
    assert seen.dtype == torch.float32
    off = float((seen - plain).abs().max())
    record_property("largest_difference", off)
    assert 0 < off < 0.15
    assert float((seen.sum(-1) - 1).abs().max()) < 1e-5


def test_every_measure_is_that_of_the_processor(
    base: CLIPModel, device: torch.device, record_property: Record
) -> None:
    """Internals, drifts, CKA of a changed model: to float32's rounding through twelve blocks."""
    tuned = copy.deepcopy(base)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if name.startswith("vision_model.encoder"):
                weight.add_(0.01 * weight.std().nan_to_num(0) * torch.randn(weight.shape))
    images = pixels(24, 96)
    found = {}
    for place in (CPU, device):
        models = [copy.deepcopy(model).to(place) for model in (base, tuned)]
        before, after = (read_internals(model, Prepared(images, place), flow=True) for model in models)
        old, new = (effective_weights(model) for model in models)
        values = readings(before, after, old, new)
        found[place.type, place == device] = (values, cka_matrix(before, after))
    (mine, matrix), (theirs, other) = found[CPU.type, device == CPU], found[device.type, True]
    worst = 0.0
    for name, reading in mine.items():
        numbers = [np.r_[r.value, r.blocks].astype(float) for r in (reading, theirs[name])]
        off = float(np.max(np.abs(numbers[0] - numbers[1]) / np.maximum(np.abs(numbers[0]), 1e-3)))
        worst = max(worst, off)
        assert off < 2e-3, (name, off)
    record_property("measures", len(mine))
    record_property("largest_relative_difference", worst)
    assert np.abs(np.asarray(matrix) - np.asarray(other)).max() < 1e-4
    assert set(mine) == set(theirs)


def test_compare_with_models_on_the_device(lab: Lab, device: torch.device, record_property: Record) -> None:
    """Given by name with ``device=``, and in memory where they stay; the same numbers as on the processor."""
    base, images = str(lab.model), str(lab.pictures / "test")
    tuned = CLIPModel.from_pretrained(lab.model)
    with torch.no_grad():
        for weight in tuned.vision_model.encoder.layers.parameters():
            weight.mul_(1.02)
    on_cpu = clipdrift.compare(
        base, tuned, images, transfer=f"colours={lab.pictures}", cache=lab.cache, device="cpu"
    )
    moved = copy.deepcopy(tuned).to(device)
    found = clipdrift.compare(
        base, moved, images, transfer=f"colours={lab.pictures}", cache=lab.cache, device=str(device)
    )
    assert next(moved.parameters()).device.type == device.type
    assert found.environment["device"] == on_cpu.environment["device"] or device.type == "cuda"
    worst = 0.0
    for name, values in on_cpu.measures.items():
        theirs = found.measures[name]
        for key in ("before", "after", "value"):
            one, other = getattr(values, key), getattr(theirs, key)
            if one is not None:
                off = abs(one - other) / max(abs(one), 1e-3)
                worst = max(worst, off)
                assert off < 1e-3, (name, key, one, other)
    record_property("largest_relative_difference", worst)
    row, other_row = on_cpu.transfer["colours"], found.transfer["colours"]
    assert (row.before, row.after) == (other_row.before, other_row.after)


def test_a_model_is_left_as_it_was(base: CLIPModel, device: torch.device) -> None:
    """Random numbers of the device included."""
    model = copy.deepcopy(base).to(device).train()
    torch.manual_seed(5)
    expected = torch.rand(3, device=device)
    torch.manual_seed(5)
    read_internals(model, Prepared(pixels(4, 96), device))
    assert torch.equal(torch.rand(3, device=device), expected)
    assert model.training


@pytest.mark.usefixtures("needs_gpu")
def test_measuring_is_exact_under_tf32(base: CLIPModel, device: torch.device) -> None:
    """A training script that has switched TF32 on gets true float32 measures, and its settings back."""
    model, images = copy.deepcopy(base).to(device), Prepared(pixels(8, 96), device)
    exact()
    plain = read_internals(model, images).embedding
    torch.set_float32_matmul_precision("high")
    try:
        seen = read_internals(model, images).embedding
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(torch.as_tensor(seen), torch.as_tensor(plain))
