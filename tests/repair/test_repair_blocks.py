"""Blocks put back, and intruder dimensions scaled down, each held against plain arithmetic."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from repair_models import by_hand, embedding, merged, plain, same, state_copy

from clipdrift import rewind, soften
from clipdrift.comparison.compare import compare
from clipdrift.repair import RepairError
from clipdrift.repair.intruders import find
from clipdrift.runs.store import RunFolder
from small_runs import Lab

Runs = Callable[[str], RunFolder]
PIXELS = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
MATRIX = "vision_model.encoder.layers.{}.{}.weight"
TALL, SQUARE = MATRIX.format(1, "mlp.fc1"), MATRIX.format(0, "self_attn.q_proj")


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure has tests of its own."""
    monkeypatch.setattr("clipdrift.figures.paths.write_path", lambda _, file: file)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return state_copy(model)


# --- rewind


def test_blocks_put_back_are_the_backbones(tiny_clip_dir: Path, tuned_dir: Path, tmp_path: Path) -> None:
    """Saved weights, name by name: block 2 of the backbone, all else of the tuned model."""
    found = rewind(tiny_clip_dir, tuned_dir, blocks="2..", images=PIXELS, out=tmp_path, device="cpu")
    before, after = weights(plain(tiny_clip_dir)), weights(plain(tuned_dir))
    for name, weight in weights(plain(tmp_path / "model")).items():
        back = name.startswith("vision_model.encoder.layers.1.")
        assert torch.equal(weight, (before if back else after)[name]), name
    assert [step.label for step in found.steps] == ["tuned", "block 2 back"]
    assert [step.rewound for step in found.steps] == [(), (2,)]
    assert (found.chosen, found.kind) == (1, "rewind")


def test_before_and_after_are_the_numbers_of_a_comparison(
    tiny_clip_dir: Path, tuned_dir: Path, tmp_path: Path
) -> None:
    """The table of `compare` for the tuned model and for the one that was saved."""
    found = rewind(tiny_clip_dir, tuned_dir, blocks=[1], images=PIXELS, out=tmp_path, device="cpu")
    sides = (tuned_dir, tmp_path / "model")
    for step, side in zip(found.steps, sides, strict=True):
        wanted = compare(tiny_clip_dir, side, PIXELS, flow=False, spectrum=False, shown=0, device="cpu")
        for name, values in wanted.measures.items():
            value = values.after if values.value is None else values.value
            assert step.value(name) == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert found.steps[1].measures["weight_drift"].value_blocks[0] == 0
    assert found.steps[1].measures["cka"].value_blocks[0] < 1  # the stem is as tuned


def test_with_everything_put_back_the_backbone_is_there(tiny_clip_dir: Path, tuned_dir: Path) -> None:
    """All blocks, stem, final layer norm and projection: no drift is left."""
    parts = ["stem", "final", "projection"]
    found = rewind(tiny_clip_dir, tuned_dir, blocks="..2", also=parts, images=PIXELS, device="cpu")
    assert found.steps[0].value("weight_drift") > 0.1
    assert found.steps[1].value("weight_drift") == 0
    assert found.steps[1].value("cka") == pytest.approx(1)
    assert found.steps[1].label == "blocks 1..2, stem, final, projection back"


def test_a_sweep_tries_every_first_block(runs: Runs, lab: Lab) -> None:
    """A row each, from the last block to all; accuracy and retention beside; nothing is saved."""
    found = rewind(runs("full_ft").path, sweep=True, cache=lab.cache, device="cpu")
    assert [step.rewound for step in found.steps] == [(), (2,), (1, 2)]
    drifts = [step.value("weight_drift") for step in found.steps]
    assert drifts == sorted(drifts, reverse=True)
    assert found.chosen is None
    best = runs("full_ft").record().best
    assert best is not None
    assert found.steps[0].accuracy == pytest.approx(best.validation_accuracy)
    assert found.steps[0].transfer["objects-100"] == best.transfer["objects-100"]
    assert all(step.accuracy is not None and step.test_accuracy is None for step in found.steps)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give either --blocks, as in 9..12, or --sweep"),
        ({"blocks": "1", "sweep": True}, "give either --blocks"),
        ({"blocks": "3"}, "the model has blocks 1 to 2"),
        ({"blocks": "1", "also": ["head"]}, "--also head: "),
    ],
)
def test_what_cannot_be_put_back_is_refused(
    tiny_clip_dir: Path, tuned_dir: Path, options: dict[str, Any], said: str
) -> None:
    """In one line."""
    with pytest.raises(RepairError, match=said):
        rewind(tiny_clip_dir, tuned_dir, images=PIXELS, device="cpu", **options)


def test_blocks_that_were_never_changed_are_named(runs: Runs, lab: Lab) -> None:
    """last_blocks trains block 2 alone: putting block 1 back would do nothing."""
    with pytest.raises(RepairError, match=r"block 1 of .*: the backbone's already; what differs is block 2"):
        rewind(runs("last_blocks").path, blocks=1, cache=lab.cache, device="cpu", transfer=[])


# --- soften


def with_intruders(folder: Path, to: Path) -> Path:
    """One strong direction each in two matrices, equally far from all singular vectors of the backbone's."""
    shutil.copytree(folder, to)
    model = plain(folder)
    state = model.state_dict()
    for seed, name in enumerate((SQUARE, TALL)):
        old = state[name].double().numpy()
        left, strength, right = np.linalg.svd(old, full_matrices=False)
        new = left @ np.full(left.shape[1], left.shape[1] ** -0.5)
        along = np.random.default_rng(seed).normal(size=right.shape[1])
        change = 2 * strength[0] * np.outer(new, along / np.linalg.norm(along))
        state[name].copy_(torch.from_numpy(old + change))
    model.save_pretrained(to)
    return to


@pytest.fixture(scope="module")
def intruded_dir(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_intruders(tiny_clip_dir, tmp_path_factory.mktemp("intruded") / "intruded")


@pytest.mark.parametrize("factor", [0.0, 0.4])
def test_intruders_are_scaled_as_the_formula_says(
    tiny_clip_dir: Path, intruded_dir: Path, tmp_path: Path, factor: float
) -> None:
    """``W + (factor - 1) sum_i sigma_i u_i v_i^T`` in the saved model; matrices without any are untouched."""
    found = soften(tiny_clip_dir, intruded_dir, scale=factor, images=PIXELS, out=tmp_path, device="cpu")
    before, after = weights(plain(tiny_clip_dir)), weights(plain(intruded_dir))
    saved, counts = weights(plain(tmp_path / "model")), {}
    for name, weight in after.items():
        if name in (SQUARE, TALL):
            old, new = (x[name].double().numpy() for x in (before, after))
            part, counts[name] = by_hand(old, new, 0.5, 10)
            np.testing.assert_allclose(saved[name], new + (factor - 1) * part, atol=1e-6)
        else:
            assert torch.equal(saved[name], weight), name
    assert all(count >= 1 for count in counts.values())
    first = found.steps[0]
    assert first.intruders == {"q": counts[SQUARE], "k": 0, "v": 0, "out": 0, "fc1": counts[TALL], "fc2": 0}
    assert found.form == "model"
    assert [step.factor for step in found.steps] == [1, factor]


def test_taken_out_intruders_are_gone_and_the_backbone_is_nearer(
    tiny_clip_dir: Path, intruded_dir: Path
) -> None:
    """Before and after: none is counted any more, and CKA rises; two scales are tried from one model."""
    found = soften(tiny_clip_dir, intruded_dir, scale="0,0.5", images=PIXELS, device="cpu")
    before, half, out = found.steps
    assert (half.factor, out.factor) == (0.5, 0)
    assert sum(before.intruders.values()) >= 2
    assert sum(out.intruders.values()) == 0
    assert out.value("embedding_drift") < half.value("embedding_drift") < before.value("embedding_drift")
    assert "intruder dimensions before, 0 after." in found.summary()
    assert found.chosen is None


def test_the_counts_are_those_of_compare(tiny_clip_dir: Path, intruded_dir: Path) -> None:
    """One definition, in both commands."""
    found = soften(tiny_clip_dir, intruded_dir, images=PIXELS, device="cpu")
    wanted = compare(tiny_clip_dir, intruded_dir, PIXELS, flow=False, shown=0, device="cpu").spectra
    assert {row.kind for row in wanted} == {"q", "fc1"}
    for kind in ("q", "fc1"):
        assert found.steps[0].intruders[kind] == sum(row.intruders for row in wanted if row.kind == kind)


def test_without_intruders_nothing_is_changed_or_saved(
    tiny_clip_dir: Path, tmp_path: Path, intruded_dir: Path
) -> None:
    """Said plainly; a model whose weights are only stretched has none."""
    model = plain(tiny_clip_dir)
    with torch.no_grad():
        model.get_parameter(SQUARE).mul_(1.5)
    found = soften(plain(tiny_clip_dir), model, images=PIXELS, out=tmp_path / "out")
    assert len(found.steps) == 1
    assert found.reason.startswith("No intruder dimensions: each of the first 10 singular vectors")
    assert "there is nothing to scale down" in found.summary()
    assert not found.failed
    assert not (tmp_path / "out" / "model").exists()
    strict = soften(tiny_clip_dir, intruded_dir, threshold=1e-6, images=PIXELS, device="cpu")
    assert len(strict.steps) == 1


def test_an_adapter_is_softened_as_a_full_model(
    runs: Runs, lab: Lab, tiny_clip_dir: Path, tmp_path: Path
) -> None:
    """Where that is asked for. A threshold of 1 takes all of the top for intruders."""
    folder = runs("lora").path
    asked: dict[str, Any] = {"scale": 0.5, "threshold": 1, "top": 1, "full": True, "out": tmp_path}
    found = soften(folder, transfer=[], cache=lab.cache, device="cpu", **asked)
    saved = weights(plain(tmp_path / "model"))
    before, after = weights(plain(tiny_clip_dir)), weights(merged(tiny_clip_dir, folder / "model"))
    part, count = by_hand(before[SQUARE].double().numpy(), after[SQUARE].double().numpy(), 1, 1)
    assert count == 1
    np.testing.assert_allclose(saved[SQUARE], after[SQUARE].double().numpy() - 0.5 * part, atol=1e-6)
    assert found.steps[1].test_accuracy is not None
    assert found.steps[0].intruders["q"] == 2


def test_models_in_memory_are_left_as_they_were(tiny_clip_dir: Path, intruded_dir: Path) -> None:
    """Softening and rewinding work on a copy."""
    base, tuned = plain(tiny_clip_dir), plain(intruded_dir)
    kept = [state_copy(base), state_copy(tuned), embedding(tuned)]
    soften(base, tuned, images=PIXELS)
    rewind(base, tuned, blocks=1, images=PIXELS)
    assert same(state_copy(base), kept[0])  # type: ignore[arg-type]
    assert same(state_copy(tuned), kept[1])  # type: ignore[arg-type]
    assert torch.equal(embedding(tuned), kept[2])  # type: ignore[arg-type]


def test_matrices_that_did_not_change_have_no_intruders() -> None:
    """Nor have any outside of the blocks."""
    old = {SQUARE: torch.eye(4), "visual_projection.weight": torch.eye(4)}
    new = {SQUARE: torch.eye(4), "visual_projection.weight": torch.rand(4, 4)}
    assert find(old, new, threshold=1, top=None) == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scale": 1}, "--scale 1: legal are 0"),
        ({"threshold": 0.0}, "--threshold 0: legal are values above 0"),
        ({"top": 0}, "--top 0"),
        ({"scale": "0,0.5", "out": "x"}, "--out saves one model: give one --scale, not 2"),
    ],
)
def test_what_cannot_be_softened_is_refused(
    tiny_clip_dir: Path, intruded_dir: Path, options: dict[str, Any], said: str
) -> None:
    """Before anything is loaded."""
    with pytest.raises(RepairError, match=said):
        soften(tiny_clip_dir, intruded_dir, images=PIXELS, **options)
