"""Model folders as people have them: each loads and says what was done, or is refused in one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPForImageClassification, CLIPModel

import clipdrift.cli
from clipdrift.adapt import load_head
from clipdrift.cli import main
from clipdrift.comparison.models import open_model
from clipdrift.comparison.pairs import open_pair
from clipdrift.errors import ClipdriftError
from clipdrift.model.clip import BrokenWeightsError, ModelError, load
from clipdrift.model.finite import broken_tensors


@pytest.fixture
def folder(tiny_clip_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_clip_dir, tmp_path / "given"))


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor] | None]) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file(change(weights) or weights, file, metadata={"format": "pt"})


def refused(place: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(place)
    assert "\n" not in str(caught.value)
    return str(caught.value)


USED = (
    "text_model.encoder.layers.1.mlp.fc2.weight",
    "vision_model.encoder.layers.0.self_attn.q_proj.weight",
    "vision_model.embeddings.position_embedding.weight",
    "text_projection.weight",
    "visual_projection.weight",
    "logit_scale",
)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", USED)
def test_a_value_that_is_no_number_is_refused_by_name_and_count(
    folder: Path, name: str, value: float
) -> None:
    rewrite(folder, lambda weights: weights[name].view(-1)[:1].fill_(value) and None)  # type: ignore[arg-type, return-value]
    kind = "nan" if value != value else "inf"
    assert f"{name} (1 {kind} of " in refused(folder)


def test_broken_weights_are_of_a_side(folder: Path, tiny_clip_dir: Path) -> None:
    rewrite(folder, lambda weights: weights["logit_scale"].fill_(float("nan")) and None)  # type: ignore[arg-type, return-value]
    with pytest.raises(BrokenWeightsError, match=r"^TUNED given: .*logit_scale"):
        open_pair(str(tiny_clip_dir), str(folder))
    with pytest.raises(BrokenWeightsError, match=r"^BASE given: .*logit_scale"):
        open_pair(str(folder), str(tiny_clip_dir))


def test_a_broken_model_in_memory_is_refused_too(tiny_clip_dir: Path) -> None:
    broken = CLIPModel.from_pretrained(tiny_clip_dir)
    broken.logit_scale.data.fill_(float("inf"))
    with pytest.raises(BrokenWeightsError, match=r"TUNED CLIPModel: .*logit_scale"):
        open_pair(CLIPModel.from_pretrained(tiny_clip_dir), broken)


def test_a_broken_head_is_refused(tmp_path: Path) -> None:
    weight = torch.zeros(3, 4)
    weight[1, 2] = float("nan")
    save_file({"weight": weight, "bias": torch.zeros(3)}, tmp_path / "head.safetensors")
    with pytest.raises(BrokenWeightsError, match=r"weight \(1 nan of 12 values\)"):
        load_head(tmp_path)


def test_finite_values_whose_sum_overflows_are_numbers() -> None:
    assert broken_tensors([("large", torch.full((4,), 3e38))]) is None


def test_preprocessing_of_another_size_than_the_model_is_refused(folder: Path) -> None:
    file = folder / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    for crop, said in ((12, "12"), ({"height": 12, "width": 16}, "12 x 16")):
        file.write_text(json.dumps(settings | {"crop_size": crop}))
        assert f"preprocessing gives images of {said} pixels, the model takes 16" in refused(folder)


def test_an_image_classifier_has_no_text_tower(folder: Path, tiny_clip_dir: Path) -> None:
    CLIPForImageClassification(CLIPModel.from_pretrained(tiny_clip_dir).config).save_pretrained(folder)
    assert "an image classifier (CLIPForImageClassification): it has no text tower" in refused(folder)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "clip.", "module._orig_mod.model."])
def test_a_prefix_of_every_weight_is_left_out_and_said(
    folder: Path, tiny_clip_dir: Path, prefix: str
) -> None:
    rewrite(folder, lambda weights: {prefix + name: tensor for name, tensor in weights.items()})
    found, wanted = load(folder), load(tiny_clip_dir)
    assert any(prefix in note for note in found.notes)
    state = wanted.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.model.state_dict().items())
    pair = open_pair(str(tiny_clip_dir), str(folder))
    assert any(note.startswith("TUNED: ") and prefix in note for note in pair.notes)


def test_a_prefix_of_some_weights_is_named(folder: Path) -> None:
    rewrite(folder, lambda w: {("module." if "text" in n else "") + n: t for n, t in w.items()})
    assert re.search(r": module\. is in the names of \d+ weights and not of the others", refused(folder))


def test_a_compiled_part_is_named(folder: Path) -> None:
    rewrite(
        folder, lambda w: {n.replace("vision_model.", "vision_model._orig_mod."): t for n, t in w.items()}
    )
    assert "_orig_mod. is in the names of" in refused(folder)


def test_weights_in_several_files(folder: Path) -> None:
    """Loaded to the bit; a file that is missing is named."""
    whole = load(folder).model.state_dict()
    CLIPModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="40KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    parts = sorted(folder.glob("model-*-of-*.safetensors"))
    assert len(parts) > 2
    loaded = load(folder).model.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in whole.items())
    parts[1].unlink()
    assert f"1 of {len(parts)} files of weights are missing, for example {parts[1].name}" in refused(folder)


def test_pickled_weights_beside_their_configuration(folder: Path) -> None:
    """``pytorch_model.bin`` of older releases is read without running anything; what is broken is refused."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert torch.equal(load(folder).model.logit_scale, weights["logit_scale"])
    torch.save({f"module.{name}": weight for name, weight in weights.items()}, folder / "pytorch_model.bin")
    assert "module. is in the names of" in refused(folder)
    torch.save(weights | {"logit_scale": torch.tensor(float("nan"))}, folder / "pytorch_model.bin")
    assert "logit_scale (1 nan" in refused(folder)
    torch.save(shutil.rmtree, folder / "pytorch_model.bin")  # code in place of weights
    assert "the weights cannot be loaded" in refused(folder)


def test_a_trainers_checkpoint_borrows_from_base(tiny_clip_dir: Path, tmp_path: Path) -> None:
    CLIPModel.from_pretrained(tiny_clip_dir).save_pretrained(tmp_path / "run" / "checkpoint-500")
    (tmp_path / "run" / "checkpoint-60").mkdir()
    said = refused(tmp_path / "run")
    assert "checkpoint-60, checkpoint-500" in said
    assert said.endswith("run/checkpoint-500")
    pair = open_pair(str(tiny_clip_dir), str(tmp_path / "run" / "checkpoint-500"))
    assert sum("no tokenizer" in note or "no preprocessing" in note for note in pair.notes) == 2


def test_folders_that_hold_the_model_inside_are_named(folder: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    shutil.copytree(folder, outer / "0_CLIPModel")
    assert refused(outer).endswith("outer/0_CLIPModel")
    named = tmp_path / "named"
    (named / "first").mkdir(parents=True)
    (named / "first" / "adapter_config.json").write_text("{}")
    assert "named adapters (first)" in refused(named)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "epoch_3.pt").write_bytes(b"")
    assert "pickled weights alone" in refused(pickled)


def test_a_pointer_in_place_of_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "git lfs pull" in refused(folder)


def test_an_index_without_its_file(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"logit_scale": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "1 of 1 files of weights are missing" in refused(folder)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_skipped(folder: Path, encoding: str) -> None:
    """Before any of a model's files; said, and messages still name the folder that was given."""
    plain = load(folder)
    for file in folder.glob("*.json"):
        file.write_text(file.read_text(encoding="utf-8"), encoding=encoding)
    found = load(folder)
    assert found.image_size == 16
    assert torch.equal(found.model.logit_scale, plain.model.logit_scale)
    assert found.tokenizer("a cat").input_ids == plain.tokenizer("a cat").input_ids
    assert sum("a byte order mark before config.json was skipped" in note for note in found.notes) == 1
    (folder / "preprocessor_config.json").write_text("{")
    assert str(folder) in refused(folder)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_before_an_adapters_settings(folder: Path, tmp_path: Path, encoding: str) -> None:
    """Skipped and said, by whoever puts the adapter on its model."""
    adapter = tmp_path / "adapter"
    get_peft_model(load(folder).model, LoraConfig(target_modules=["q_proj"])).save_pretrained(adapter)
    file = adapter / "adapter_config.json"
    file.write_text(file.read_text(encoding="utf-8"), encoding=encoding)
    opened = open_model(str(adapter), open_model(str(folder)))
    assert opened.clip is not None
    notes = opened.clip.notes
    assert any("a byte order mark before adapter_config.json was skipped" in note for note in notes)


# --- what is left


def end_of(arguments: list[str]) -> object:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def _fail(*_: object) -> None:
    raise ZeroDivisionError("two\nlines")


def test_a_mistake_of_ours_is_one_line_and_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CLIPDRIFT_DEBUG", raising=False)
    monkeypatch.setattr(clipdrift.cli, "app", _fail)
    assert end_of(["ls", "models"]) == 70
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    log = re.search(r"please report it with (\S+\.log)", said)
    assert log is not None
    text = Path(log[1]).read_text()
    Path(log[1]).unlink()
    assert "Traceback" in text
    assert "ZeroDivisionError" in text
    monkeypatch.setenv("CLIPDRIFT_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["ls", "models"])


def test_errors_of_users_stay_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ClipdriftError("no")

    monkeypatch.setattr(clipdrift.cli, "app", fail)
    assert end_of(["ls"]) == 2
