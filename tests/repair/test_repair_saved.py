"""What is saved loads in plain transformers and peft, is what was measured, and is whole or not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from repair_models import between, embedding, merged, plain, same
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel

from clipdrift import interpolate, rewind
from clipdrift.comparison.compare import compare
from clipdrift.model.clip import load
from clipdrift.repair import Repaired, RepairError, read_repaired, saving
from clipdrift.runs.store import RunFolder
from small_runs import Lab

Runs = Callable[[str], RunFolder]
PIXELS = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all else here; the figure has tests of its own."""
    monkeypatch.setattr("clipdrift.figures.paths.write_path", lambda _, file: file)


def save(runs: Runs, lab: Lab, method: str, out: Path, **options: Any) -> Repaired:
    found = {"alphas": [0.5], "save_at": 0.5, "transfer": [], **options}
    return interpolate(runs(method).path, out=out, cache=lab.cache, device="cpu", **found)


@pytest.mark.parametrize("method", ["full_ft", "flyp", "last_blocks"])
def test_a_full_model_loads_in_plain_transformers(
    runs: Runs, lab: Lab, tiny_clip_dir: Path, tmp_path: Path, method: str
) -> None:
    """Weights by a state dict's arithmetic; tokenizer, preprocessing and head beside it."""
    found = save(runs, lab, method, tmp_path)
    place = tmp_path / "model"
    assert (found.form, found.saved) == ("model", str(place))
    wanted = between(plain(tiny_clip_dir), plain(runs(method).path / "model"), 0.5).state_dict()
    loaded = CLIPModel.from_pretrained(place).state_dict()
    assert loaded.keys() == wanted.keys()
    for name, weight in wanted.items():
        torch.testing.assert_close(loaded[name], weight, rtol=1e-6, atol=1e-7)
    assert len(AutoTokenizer.from_pretrained(place)) == len(AutoTokenizer.from_pretrained(tiny_clip_dir))
    assert load(place).preprocess == load(tiny_clip_dir).preprocess
    head, own = load_file(place / "head.safetensors"), load_file(runs(method).path / "model/head.safetensors")
    assert same(head, own) == (method != "flyp")  # which is the texts of a tower that has moved
    told = json.loads((place / "repair.json").read_text())
    assert (told["repair"], told["alpha"]) == ("interpolate", 0.5)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_an_adapter_loads_in_plain_peft(
    runs: Runs, lab: Lab, tiny_clip_dir: Path, tmp_path: Path, method: str
) -> None:
    """On the backbone by PeftModel.from_pretrained; LoRA's B, and the projection, are half way."""
    found = save(runs, lab, method, tmp_path)
    place, before = tmp_path / "model", runs(method).path / "model"
    assert found.form == "adapter"
    live = PeftModel.from_pretrained(plain(tiny_clip_dir), str(place))
    if method == "lora":
        wanted = between(plain(tiny_clip_dir), merged(tiny_clip_dir, before), 0.5)
        torch.testing.assert_close(embedding(live), embedding(wanted), rtol=1e-4, atol=1e-5)
    old, new = (load_file(f / "adapter_model.safetensors") for f in (before, place))
    assert old.keys() == new.keys()
    for name in old:
        if "lora_A" in name:
            assert torch.equal(old[name], new[name])
        if "lora_B" in name:
            torch.testing.assert_close(new[name], old[name] / 2)
    config = [json.loads((f / "adapter_config.json").read_text()) for f in (before, place)]
    assert config[0] == config[1]
    assert same(load_file(place / "head.safetensors"), load_file(before / "head.safetensors"))


def test_every_kind_of_adapter_is_written_under_its_own_names(
    tiny_clip_dir: Path, adapters: Callable[[str], Path], tmp_path: Path
) -> None:
    """Made with plain peft outside; saved at 1 it is the file that was there, tensor by tensor."""
    for kind in ("rslora", "whole", "biased", "dora"):
        interpolate(
            tiny_clip_dir,
            adapters(kind),
            images=PIXELS,
            alphas=[1],
            save_at=1,
            out=tmp_path / kind,
            device="cpu",
        )
        old, new = (
            load_file(folder / "adapter_model.safetensors")
            for folder in (adapters(kind), tmp_path / kind / "model")
        )
        assert same(old, new), kind


def test_what_is_saved_can_be_compared(
    runs: Runs, lab: Lab, tiny_clip_dir: Path, pictures: Path, tmp_path: Path
) -> None:
    """`compare BASE saved` reads what was measured, for an adapter and for a full model."""
    for method in ("lora", "full_ft"):
        found = save(runs, lab, method, tmp_path / method, transfer=f"colours={pictures}")
        assert found.saved is not None
        again = compare(
            tiny_clip_dir,
            found.saved,
            PIXELS,
            transfer=f"colours={pictures}",
            cache=lab.cache,
            spectrum=False,
        )
        assert found.chosen_step is not None
        moved = found.chosen_step.value("weight_drift")
        assert again.measures["weight_drift"].value == pytest.approx(moved, rel=1e-5)
        assert again.transfer["colours"].after == pytest.approx(
            found.chosen_step.transfer["colours"].accuracy
        )


def test_the_result_lies_beside_the_model_and_reads_back(runs: Runs, lab: Lab, tmp_path: Path) -> None:
    """JSON and CSV; equal after reading."""
    found = save(runs, lab, "full_ft", tmp_path)
    assert read_repaired(tmp_path) == found
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"repaired.json", "repaired.csv", "model"}


def test_nothing_is_overwritten_unless_asked(
    runs: Runs, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before any model is loaded; with force the new one takes the place of the old one whole."""
    save(runs, lab, "full_ft", tmp_path)
    (tmp_path / "model" / "mine.txt").write_text("x")
    with monkeypatch.context() as patch:
        patch.setattr("clipdrift.repair.interpolating.open_context", lambda *_: pytest.fail("loaded a model"))
        with pytest.raises(RepairError, match="model: is there already; choose another --out, or say"):
            save(runs, lab, "full_ft", tmp_path)
    assert (tmp_path / "model" / "mine.txt").is_file()
    save(runs, lab, "lora", tmp_path, force=True)
    assert not (tmp_path / "model" / "mine.txt").exists()
    assert not (tmp_path / "model" / "model.safetensors").exists()
    assert (tmp_path / "model" / "adapter_model.safetensors").is_file()


def test_a_saving_that_fails_leaves_nothing(
    runs: Runs, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a half-written folder nor the loss of what was there."""
    monkeypatch.setattr(saving, "save_companions", lambda *_: (_ for _ in ()).throw(OSError("disk is full")))
    with pytest.raises(OSError, match="disk is full"):
        save(runs, lab, "full_ft", tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_does_not_read_back_is_not_saved(
    runs: Runs, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof that what was measured is what is there bites: one tensor of the file is not scaled."""
    monkeypatch.setattr(saving, "save_file", _spoil)
    with pytest.raises(RepairError, match="do not read back as they were measured"):
        save(runs, lab, "lora", tmp_path)
    assert not (tmp_path / "model").exists()


def _spoil(state: dict[str, torch.Tensor], file: Path, **_: object) -> None:
    name = next(n for n in state if "lora_B" in n)
    save_file({**state, name: 2 * state[name]}, file, metadata={"format": "pt"})


def test_nothing_is_saved_where_nothing_keeps(runs: Runs, lab: Lab, tmp_path: Path) -> None:
    """The tables are there, the model is not, and the reason is given."""
    found = save(runs, lab, "full_ft", tmp_path, alphas=[0, 0.9, 1], save_at=None, keep_cka=0.999999)
    assert found.failed
    assert (found.chosen, found.saved) == (None, None)
    assert found.reason.startswith("No alpha above 0 keeps a CKA of at least 0.999999. Nearest comes alpha")
    assert not (tmp_path / "model").exists()
    assert (tmp_path / "repaired.csv").is_file()


def test_a_rewound_adapter_loads_in_plain_peft(
    runs: Runs, lab: Lab, tiny_clip_dir: Path, tmp_path: Path
) -> None:
    """In block 1 the adapter does nothing any more, in block 2 what it did."""
    folder = runs("lora").path
    rewind(folder, blocks=1, out=tmp_path, transfer=[], cache=lab.cache, device="cpu")
    live = PeftModel.from_pretrained(plain(tiny_clip_dir), str(tmp_path / "model")).merge_and_unload()
    before, after = plain(tiny_clip_dir).state_dict(), merged(tiny_clip_dir, folder / "model").state_dict()
    for name, weight in live.state_dict().items():
        wanted = before if "vision_model.encoder.layers.0." in name else after
        torch.testing.assert_close(weight, wanted[name], rtol=1e-6, atol=1e-7)
    told = json.loads((tmp_path / "model" / "repair.json").read_text())
    assert told["blocks"] == [1]
