"""Pairs that are refused: each with the reason, how many weights do not fit, and the name of one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import outside
import pytest
import torch
from by_hand import worst
from outside import Adapter
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
)

from clipdrift.comparison import Comparison
from clipdrift.comparison.measuring import measure
from clipdrift.comparison.models import PairError
from clipdrift.errors import ClipdriftError
from clipdrift.model.clip import ModelError
from clipdrift.model.towers import UnsupportedModelError
from clipdrift.runs.store import RunFolder
from small_runs import Lab, config_for


@pytest.fixture
def refused(against: Callable[..., Comparison]) -> Callable[..., str]:
    """The message with which a pair is refused, which must be one line: ``refused(tuned, base=...)``."""

    def message(tuned: Any, kind: type[ClipdriftError] = PairError, **options: Any) -> str:
        with pytest.raises(kind) as caught:
            against(tuned, **options)
        text = str(caught.value)
        assert "\n" not in text
        assert type(caught.value) is kind
        return text

    return message


@pytest.fixture
def spoilt(adapters: Callable[[str], Adapter], tmp_path: Path) -> Path:
    """A copy of an adapter that a test may spoil."""
    return outside.copy_folder(adapters("whole").folder, tmp_path / "spoilt")


def other_clip(folder: Path, **vision: Any) -> CLIPModel:
    """A random CLIP of the tiny one's texts and another image tower."""
    config = CLIPConfig.from_pretrained(folder)
    for name, value in vision.items():
        setattr(config.vision_config, name, value)
    torch.manual_seed(5)
    return CLIPModel(config).eval()


# --- architectures


@pytest.mark.parametrize(
    ("vision", "said"),
    [
        ({"num_hidden_layers": 3}, "blocks 2 against 3"),
        ({"hidden_size": 64}, "width 32 against 64"),
        ({"num_attention_heads": 4}, "heads 2 against 4"),
        ({"patch_size": 8}, "grid (4, 4) against (2, 2), patch size 4 against 8"),
        ({"hidden_act": "gelu"}, "activation quick_gelu against gelu"),
    ],
)
def test_another_architecture_names_what_differs(
    tiny_clip_dir: Path, refused: Callable[..., str], vision: dict[str, Any], said: str
) -> None:
    """And nothing else: blocks, width, heads, patches, image size, activation."""
    message = refused(other_clip(tiny_clip_dir, **vision))
    assert message == f"{tiny_clip_dir} and CLIPModel are of different architectures: {said}"


def test_mlps_of_another_width_are_counted(tiny_clip_dir: Path, refused: Callable[..., str]) -> None:
    """What no size of the tower shows are the weights themselves: how many, and names."""
    message = refused(other_clip(tiny_clip_dir, intermediate_size=48))
    assert "do not have the same weights: 6 of 40 are on one side only or of another shape" in message
    assert "vision_model.encoder.layers.0.mlp.fc1" in message


def test_clip_against_siglip(tiny_clip_dir: Path, siglip_dir: Path, refused: Callable[..., str]) -> None:
    """They are read through different queries."""
    for pair in ((siglip_dir, tiny_clip_dir), (tiny_clip_dir, siglip_dir)):
        message = refused(pair[0], base=pair[1])
        assert "of different architectures" in message
        assert "read through the" in message
        assert "pooling head" in message


@pytest.mark.parametrize(
    ("kind", "side", "reason"),
    [
        (CLIPVisionModel, "base", "no projection into the joint space; load the same weights as CLIPModel"),
        (torch.nn.Linear, "tuned", "its image tower cannot be read; supported are transformers' CLIPModel"),
    ],
)
def test_a_class_that_cannot_be_read(
    tiny_clip_dir: Path, refused: Callable[..., str], kind: Any, side: str, reason: str
) -> None:
    """A model in memory of another kind, by its class; an image tower alone can be TUNED, not BASE."""
    model = outside.load_plain(tiny_clip_dir, kind) if kind is CLIPVisionModel else kind(2, 2)
    pair = {"base": tiny_clip_dir, "tuned": tiny_clip_dir} | {side: model}
    message = refused(pair["tuned"], base=pair["base"], kind=UnsupportedModelError)
    assert f"{kind.__name__} is not supported: " in message
    assert reason in message


# --- adapters


def test_an_adapter_of_the_flat_vision_model(
    tiny_clip_dir: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    """Since transformers 5.6 its keys fit nothing in a CLIPModel; peft only warns, and does nothing."""
    folder = outside.write_adapter(
        tmp_path / "flat", tiny_clip_dir, kind=CLIPVisionModel, targets=["q_proj", "v_proj"]
    )
    message = refused(folder, kind=ModelError)
    assert "8 of 8 adapter weights find no place in tiny, for example base_model.model.encoder." in message
    assert "was the adapter (peft " in message


def test_an_adapter_of_another_shape(
    tiny_clip_dir: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    """Made on a wider model, it fits by name alone."""
    wide = other_clip(tiny_clip_dir, hidden_size=64)
    outside.adapt(wide).save_pretrained(str(tmp_path / "wide"))
    message = refused(tmp_path / "wide", kind=ModelError, any_base=True)
    assert "does not fit tiny" in message
    assert "size mismatch" in message


@pytest.mark.parametrize("kind", ["whole", "bare", "dora"])
def test_an_adapter_that_changes_nothing(
    tiny_clip_dir: Path,
    adapters: Callable[[str], Adapter],
    refused: Callable[..., str],
    tmp_path: Path,
    kind: str,
) -> None:
    """Saved before it was trained: peft's second factor starts at zero."""
    folder = tmp_path / "untrained"
    options = outside.ADAPTERS[kind]
    model = outside.peft_model(tiny_clip_dir, **options, trained=False)
    model.save_pretrained(str(folder))
    message = refused(folder)
    assert "the adapter changes none of the 40 weights of the image tower" in message
    assert "saved before it was trained" in message


def test_an_adapter_of_the_text_tower_alone(
    tiny_clip_dir: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    """It acts, but not on images."""
    folder = outside.write_adapter(tmp_path / "texts", tiny_clip_dir, targets=r"text_model\..*q_proj")
    assert "made for the text tower?" in refused(folder)


def test_an_adapter_that_lost_weights(spoilt: Path, refused: Callable[..., str]) -> None:
    """One tensor missing: peft would draw it anew and warn."""
    name = "base_model.model.vision_model.encoder.layers.1.self_attn.v_proj.lora_B.weight"
    outside.edit_weights(spoilt / "adapter_model.safetensors", lambda weights: weights.pop(name))
    message = refused(spoilt, kind=ModelError)
    assert f"1 of 12 adapter weights are missing, for example {name}" in message


def test_a_damaged_adapter(spoilt: Path, refused: Callable[..., str]) -> None:
    """Cut off, no JSON, pickled, or without weights: the folder and the reason."""
    weights, settings = spoilt / "adapter_model.safetensors", spoilt / "adapter_config.json"
    whole, text = weights.read_bytes(), settings.read_text()
    for length in (0, 7, 300, -1):
        weights.write_bytes(whole[:length])
        assert refused(spoilt, kind=ModelError).startswith(f"{spoilt}: the adapter cannot be read (")
    weights.write_bytes(whole)
    settings.write_text(text[:40])
    assert refused(spoilt).startswith(f"{settings}: unreadable (")
    settings.write_text("[]")
    assert "does not fit tiny" in refused(spoilt, kind=ModelError)
    settings.write_text(text)
    outside.pickle_weights(spoilt)
    said = "an adapter without adapter_model.safetensors; pickled weights (adapter_model.bin) are not loaded"
    assert f"{spoilt}: {said}" in refused(spoilt, kind=ModelError)
    (spoilt / "adapter_model.bin").unlink()
    assert f"{spoilt}: an adapter without adapter_model" in refused(spoilt, kind=ModelError)


def test_pickled_weights_are_never_opened(spoilt: Path, refused: Callable[..., str]) -> None:
    """A pickle runs code when it is loaded."""
    (spoilt / "adapter_model.safetensors").unlink()
    (spoilt / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + bytes(spoilt) + b"/ran'\ntR.")
    refused(spoilt, kind=ModelError)
    assert not (spoilt / "ran").exists()


# --- the right base


def test_an_adapter_of_another_folder(
    tiny_clip_dir: Path,
    tuned_dir: Path,
    spoilt: Path,
    against: Callable[..., Comparison],
    refused: Callable[..., str],
    adapters: Callable[[str], Adapter],
) -> None:
    """By content, not by place: other weights are refused, a copy elsewhere is the same model."""
    outside.edit_json(spoilt / "adapter_config.json", base_model_name_or_path=str(tuned_dir))
    message = refused(spoilt)
    assert (
        f"{spoilt}: the adapter was made from {tuned_dir}, whose files are not those of {tiny_clip_dir}"
        in (message)
    )
    assert "--any-base" in message
    forced = against(spoilt, any_base=True)
    expected = against(adapters("whole").folder)
    assert worst(forced, expected) == 0
    again = outside.copy_folder(tiny_clip_dir, spoilt.parent / "again")
    outside.edit_json(spoilt / "adapter_config.json", base_model_name_or_path=str(again))
    found = against(str(spoilt))
    assert worst(found, expected) == 0
    assert [note for note in found.notes if "Only" not in note] == []


@pytest.mark.parametrize("made_from", [None, "/gone/model"])
def test_a_base_that_cannot_be_checked_is_a_note(
    spoilt: Path, against: Callable[..., Comparison], made_from: str | None
) -> None:
    """Neither sure nor wrong: the numbers stand, and so does the doubt."""
    outside.edit_json(spoilt / "adapter_config.json", base_model_name_or_path=made_from)
    said = f"made from {made_from}, which cannot be checked" if made_from else "does not say on which model"
    assert said in against(str(spoilt)).notes[0]
    assert said not in " ".join(against(str(spoilt), any_base=True).notes)


def test_an_adapter_is_not_put_on_a_run(
    runs: Callable[[str], RunFolder], refused: Callable[..., str], adapters: Callable[[str], Adapter]
) -> None:
    """Its weights are not those that the adapter was made on, though their backbones are the same."""
    lora, full = runs("lora").path, runs("full_ft").path
    message = refused(lora / "model", base=full)
    assert "the adapter was made from" in message
    assert f"whose files are not those of {full}" in message
    for base in (lora, lora / "model", adapters("whole").folder):
        message = refused(adapters("whole").folder, base=base, any_base=True)
        assert f"{base} has adapters in it already" in message


def test_a_run_of_another_backbone(
    lab: Lab, tuned_dir: Path, refused: Callable[..., str], against: Callable[..., Comparison]
) -> None:
    """Against a model, and against a run, each of which has another backbone."""
    config = config_for(tuned_dir, lab.pictures, method="linear_probe", optim={"epochs": 1})
    strange = lab.run(config)[1].path
    own = lab.run(lab.config("linear_probe", optim={"epochs": 1}))[1].path
    message = refused(strange)
    assert (
        f"{strange}: the run was made from {tuned_dir}, whose files are not those of {lab.model}" in message
    )
    assert f"not those of {own} or {lab.model}" in refused(strange, base=own)
    assert worst(against(strange, any_base=True), against(tuned_dir)) == 0


def test_a_run_whose_backbone_has_changed(
    lab: Lab, tiny_clip_dir: Path, tuned_dir: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    """What LoRA learnt belongs on the weights of that day."""
    backbone = outside.copy_folder(tiny_clip_dir, tmp_path / "backbone")
    run = lab.run(config_for(backbone, lab.pictures, method="lora", optim={"epochs": 1}))[1].path
    shutil.copy(tuned_dir / "model.safetensors", backbone)
    message = refused(run, any_base=True)
    assert f"{run}: the files of its backbone {backbone} are no longer those that the run was made" in message


# --- runs


def test_unfinished_and_diverged_runs(
    lab: Lab, runs: Callable[[str], RunFolder], refused: Callable[..., str], tmp_path: Path
) -> None:
    """Neither left weights to compare, on either side."""
    half = outside.copy_folder(runs("full_ft").path, tmp_path / "half")
    (half / "record.json").unlink()
    _, diverged = lab.run(lab.config(optim={"learning_rate": 1e30, "epochs": 6}))
    for run, said in (
        (half, "a run that has not finished; it has no weights to compare yet"),
        (diverged.path, "the run ended as diverged and left no weights"),
    ):
        assert refused(run) == f"{run}: {said}"
        assert refused(lab.model, base=run) == f"{run}: {said}"


def test_a_damaged_record(runs: Callable[[str], RunFolder], against: Any, tmp_path: Path) -> None:
    """Says which file, in one line."""
    run = outside.copy_folder(runs("lora").path, tmp_path / "damaged")
    record = run / "record.json"
    record.write_bytes(record.read_bytes()[:200])
    with pytest.raises(ClipdriftError, match=re.escape(str(record))):
        against(run)


# --- no model at all


def test_files_and_missing_folders(
    tiny_clip_dir: Path, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong path is easily given; the path and what belongs there."""
    file = tmp_path / "notes.txt"
    file.write_text("no model")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for place in (str(file), "notes.txt", "./notes.txt"):
        said = f"{place}: a file; give the folder that holds the model, the adapter or the run"
        assert refused(place) == refused(tiny_clip_dir, base=place) == said
    weights = tiny_clip_dir / "model.safetensors"
    assert f"{weights}: a file" in refused(weights)
    assert "no such folder" in refused("./nowhere", kind=ModelError)
    assert "no such folder" in refused(tiny_clip_dir, kind=ModelError, base=tmp_path / "nowhere")
    assert "not found in the local hub cache" in refused("nowhere", kind=ModelError)
    assert "config.json: missing or unreadable" in refused(tmp_path / "empty", kind=ModelError)


def test_an_adapter_folder_needs_a_whole_base(
    tiny_clip_dir: Path, adapters: Callable[[str], Adapter], refused: Callable[..., str], tmp_path: Path
) -> None:
    """A bare model in memory has no tokenizer; an adapter alone must say what it was made on."""
    folder = adapters("whole").folder
    message = refused(folder, base=outside.load_plain(tiny_clip_dir))
    assert message == f"{folder}: an adapter folder needs BASE by name, by folder or as a Clip"
    silent = outside.copy_folder(folder, tmp_path / "silent")
    outside.edit_json(silent / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(PairError, match="does not say on which model it was made; give it as TUNED"):
        measure(silent, torch.zeros(4, 3, 16, 16))
