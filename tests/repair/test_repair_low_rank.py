"""A softened adapter stays one: against numpy's best approximation, and peft's own reduction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from repair_models import VISION, by_hand, embedding, merged, peft_model, plain, state_copy
from safetensors.torch import load_file

from clipdrift import soften
from clipdrift.comparison.compare import compare
from clipdrift.repair import read_repaired
from clipdrift.runs.store import RunFolder
from small_runs import Lab

Runs = Callable[[str], RunFolder]
Adapters = Callable[[str], Path]
PIXELS = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
MATRIX = "vision_model.encoder.layers.{}.{}.weight"
SQUARE = MATRIX.format(0, "self_attn.q_proj")
ASKED: dict[str, Any] = {"scale": 0.25, "threshold": 1, "top": 1, "images": PIXELS, "device": "cpu"}
"""A threshold of 1 takes all of the top for intruders."""


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure has tests of its own."""
    monkeypatch.setattr("clipdrift.figures.paths.write_path", lambda _, file: file)


def best(matrix: Any, rank: int) -> Any:
    left, strength, right = np.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * strength[:rank]) @ right[:rank]


@pytest.mark.parametrize(("kind", "rank"), [("lora", {}), ("rslora", {}), ("whole", {"fc1": 2})])
def test_each_update_is_the_best_of_its_rank(
    tiny_clip_dir: Path, adapters: Adapters, tmp_path: Path, kind: str, rank: dict[str, int]
) -> None:
    """By numpy, of what peft itself merges from the saved files; other weights are as they were."""
    source = adapters(kind)
    found = soften(tiny_clip_dir, source, out=tmp_path, **ASKED)
    before, after = (state_copy(model) for model in (plain(tiny_clip_dir), merged(tiny_clip_dir, source)))
    saved = state_copy(merged(tiny_clip_dir, tmp_path / "model"))
    truncated = {(row.block, row.kind): row for row in found.steps[1].truncated}
    assert len(truncated) >= 4
    for name, start in before.items():
        block, part = (int(name.split(".")[3]) + 1, name) if ".layers." in name else (0, name)
        key = next((k for k in truncated if k[0] == block and f"{k[1]}_proj.weight" in part), None)
        key = key or next((k for k in truncated if k[0] == block and f".{k[1]}.weight" in part), None)
        if key is None or "text_model" in name:
            assert torch.equal(saved[name], after[name]), name
            continue
        old, new = start.double().numpy(), after[name].double().numpy()
        update = new - 0.75 * by_hand(old, new, 1, 1)[0] - old
        kept = rank.get(key[1], 8 if kind == "rslora" else 4)
        wanted = best(update, kept)
        np.testing.assert_allclose(saved[name].double().numpy() - old, wanted, atol=2e-6)
        lost = np.linalg.norm(update - wanted) / np.linalg.norm(update)
        assert truncated[key].lost == pytest.approx(lost, abs=1e-5)
        assert truncated[key].rank == kept
    assert found.form == "adapter"


def test_what_was_measured_is_what_peft_loads(
    tiny_clip_dir: Path, adapters: Adapters, tmp_path: Path
) -> None:
    """Drift at the step is that of the saved files; beside them, the settings are the adapter's own."""
    source = adapters("lora")
    found = soften(tiny_clip_dir, source, out=tmp_path, **ASKED)
    again = compare(
        tiny_clip_dir, tmp_path / "model", PIXELS, flow=False, spectrum=False, shown=0, device="cpu"
    )
    for name in ("embedding_drift", "weight_drift", "cka"):
        value = again.measures[name].value
        assert found.steps[1].value(name) == pytest.approx(value, rel=1e-6), name
    assert found.steps[1].value("embedding_drift") != pytest.approx(found.steps[0].value("embedding_drift"))
    live = PeftModel.from_pretrained(plain(tiny_clip_dir), str(tmp_path / "model"))
    taken = merged(tiny_clip_dir, tmp_path / "model")
    torch.testing.assert_close(embedding(live), embedding(taken))
    own, old = (load_file(f / "adapter_model.safetensors") for f in (tmp_path / "model", source))
    assert {name: value.shape for name, value in own.items()} == {n: v.shape for n, v in old.items()}
    assert read_repaired(tmp_path).steps == found.steps


def test_what_is_lost_is_said(tiny_clip_dir: Path, adapters: Adapters, tmp_path: Path) -> None:
    """In words, mean and worst; by matrix in the table. Several scales begin at the same adapter."""
    found = soften(tiny_clip_dir, adapters("lora"), **ASKED | {"scale": "0.5,0"})
    half, out = found.steps[1:]
    worst = max(out.truncated, key=lambda row: row.lost)
    said = (
        f"Brought back to rank 4, scale 0 loses {100 * out.mean_lost:.1f} % of the update of 4 softened "
        f"matrices (Frobenius norm, mean), at most {100 * worst.lost:.1f} % ({worst.kind} of block "
        f"{worst.block})."
    )
    assert said in found.summary()
    assert 0 < half.mean_lost < 1
    alone = soften(tiny_clip_dir, adapters("lora"), **ASKED | {"scale": 0})
    assert alone.steps[1].truncated == out.truncated
    rows = found.to_frame(blocks=True).query("measure == 'lost_by_rank' and step == 'scale 0'")
    assert rows["value"].tolist() == [out.mean_lost, *(row.lost for row in out.truncated)]


@pytest.mark.parametrize("kind", ["dora", "memory", "full"])
def test_what_no_adapter_holds_is_saved_in_full(
    tiny_clip_dir: Path, adapters: Adapters, tmp_path: Path, kind: str
) -> None:
    """DoRA and adapters in memory with a note, LoRA on request; the whole formula is in it."""
    source: Any = (
        peft_model(tiny_clip_dir) if kind == "memory" else adapters("dora" if kind == "dora" else "lora")
    )
    found = soften(tiny_clip_dir, source, full=kind == "full", out=tmp_path, **ASKED)
    assert found.form == "model"
    assert found.steps[1].truncated == ()
    noted = [note for note in found.notes if note.startswith("TUNED's adapters")]
    assert len(noted) == (kind != "full")
    after = state_copy(source.merge_and_unload() if kind == "memory" else merged(tiny_clip_dir, source))
    old, new = (w[SQUARE].double().numpy() for w in (state_copy(plain(tiny_clip_dir)), after))
    part, _ = by_hand(old, new, 1, 1)
    saved = state_copy(plain(tmp_path / "model"))
    np.testing.assert_allclose(saved[SQUARE].double().numpy(), new - 0.75 * part, atol=1e-6)


def test_a_run_is_softened_as_its_adapter(runs: Runs, lab: Lab, tiny_clip_dir: Path, tmp_path: Path) -> None:
    """With its head beside it, tested once."""
    folder = runs("lora").path
    asked = {**ASKED, "images": None, "out": tmp_path, "transfer": [], "cache": lab.cache}
    found = soften(folder, **asked)
    assert found.form == "adapter"
    assert found.steps[1].test_accuracy is not None
    saved = state_copy(merged(tiny_clip_dir, tmp_path / "model"))
    assert not torch.equal(saved[SQUARE], state_copy(merged(tiny_clip_dir, folder / "model"))[SQUARE])
    head = load_file(folder / "model" / "head.safetensors")
    assert all(torch.equal(v, head[n]) for n, v in load_file(tmp_path / "model" / "head.safetensors").items())


# --- beside peft's reduce_intruder_dimension


@pytest.fixture
def reduce_intruder_dimension() -> Callable[..., None]:
    """peft's own, which older versions that are supported do not have."""
    found: Callable[..., None] = pytest.importorskip("peft.tuners.lora.intruders").reduce_intruder_dimension
    return found


@pytest.mark.parametrize("factor", [0.0, 0.75])
def test_peft_gives_the_same_adapter_for_its_lambda_as_scale(
    tiny_clip_dir: Path, tmp_path: Path, reduce_intruder_dimension: Callable[..., None], factor: float
) -> None:
    """On what both look at: the matrices of the image tower's blocks, plain LoRA."""
    peft_model(tiny_clip_dir, target_modules=VISION).save_pretrained(str(tmp_path / "lora"))
    asked = {**ASKED, "scale": factor, "threshold": 0.9999, "top": 3, "out": tmp_path / "ours"}
    found = soften(tiny_clip_dir, tmp_path / "lora", **asked)
    theirs = PeftModel.from_pretrained(plain(tiny_clip_dir), str(tmp_path / "lora"))
    reduce_intruder_dimension(
        theirs, top_k=3, threshold_epsilon=0.9999, mitigation_lambda=factor, logging_sink=None
    )
    ours, wanted = (
        state_copy(merged(tiny_clip_dir, tmp_path / "ours" / "model")),
        state_copy(theirs.merge_and_unload()),
    )
    before = state_copy(merged(tiny_clip_dir, tmp_path / "lora"))
    assert found.steps[1].truncated
    for row in found.steps[1].truncated:
        name = MATRIX.format(row.block - 1, f"self_attn.{row.kind}_proj")
        assert not torch.allclose(ours[name], before[name], atol=1e-3)
        torch.testing.assert_close(ours[name], wanted[name], atol=2e-6, rtol=1e-5)


def test_pefts_lambda_is_what_is_left_not_what_is_taken(
    tiny_clip_dir: Path, reduce_intruder_dimension: Callable[..., None]
) -> None:
    """Its documentation says that more is subtracted the higher it is; 1 subtracts nothing. Should peft turn
    it round, docs/repair.md has to say so."""
    model = peft_model(tiny_clip_dir, target_modules=VISION)
    layer = model.get_submodule(f"base_model.model.{SQUARE.removesuffix('.weight')}")
    before, moved = layer.get_delta_weight("default").detach(), []
    for factor in (1.0, 0.5, 0.0):
        reduce_intruder_dimension(
            model,
            new_adapter_name=f"at{factor:g}".replace(".", "_"),
            top_k=3,
            threshold_epsilon=1.0,
            mitigation_lambda=factor,
            logging_sink=None,
        )
        after = layer.get_delta_weight(model.active_adapter).detach()
        moved.append(float((after - before).norm() / before.norm()))
    assert moved[0] == pytest.approx(0, abs=1e-5)
    assert moved[0] < moved[1] < moved[2]
    assert "higher the value the more of the intruder dimension is subtracted" in " ".join(
        (reduce_intruder_dimension.__doc__ or "").split()
    )
