"""Exports to transformers and peft, read by those libraries alone, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel, SiglipModel

import clipdrift
from clipdrift.adapt.heads import ZeroShotHead, load_head
from clipdrift.exporting import Exported, ExportError, read_exported
from clipdrift.exporting.job import refuse
from clipdrift.exporting.opened import open_source
from clipdrift.exporting.proof import cast, difference, rounding
from clipdrift.runs.store import RunFolder
from commands import Say, fails

PIXELS = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def embedding(model: Any, pixels: Tensor = PIXELS) -> Tensor:
    return model.eval().get_image_features(pixel_values=pixels).pooler_output


@torch.no_grad()
def text_embedding(model: Any, folder: Path, text: str) -> Tensor:
    tokens = AutoTokenizer.from_pretrained(folder)([text], return_tensors="pt")
    return model.eval().get_text_features(input_ids=tokens.input_ids).pooler_output


def by_peft(base: Path, adapter: Path) -> Any:
    return PeftModel.from_pretrained(CLIPModel.from_pretrained(base), str(adapter)).eval()


def state(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def left(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_full_run(runs: Callable[[str], RunFolder], tiny_clip_dir: Path, tmp_path: Path) -> None:
    """Weight by weight, with tokenizer, head and classes; the record says what was compared."""
    run = runs("full_ft").path
    made = clipdrift.export(run, to="transformers", out=tmp_path / "out")
    assert isinstance(made, Exported)
    wanted, found = state(run / "model"), state(tmp_path / "out")
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], weight) for name, weight in found.items())
    model = CLIPModel.from_pretrained(tmp_path / "out")
    text = text_embedding(model, tmp_path / "out", "a photo of three big blue hexagons")
    assert torch.equal(text, text_embedding(model, run / "model", "a photo of three big blue hexagons"))
    head = load_file(tmp_path / "out/head.safetensors")
    assert torch.equal(head["weight"], load_file(run / "model/head.safetensors")["weight"])
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["blue", "green", "red"]
    assert left(tmp_path) == ["out"]
    record = json.loads((tmp_path / "out/export.json").read_text())
    assert record["source"]["run"] == run.name
    assert (record["source"]["base"], record["source"]["kind"]) == (str(tiny_clip_dir), "model")
    assert record["proof"]["images"]["relative"] < 1e-5
    assert record["proof"]["logits"]["count"] == record["proof"]["images"]["count"] == 9
    assert record["proof"]["weights"] == {"tensors": len(wanted), "largest": 0.0, "allowed": 0.0}
    assert set(record["files"]) == {*left(tmp_path / "out")} - {"README.md", "export.json"}
    assert read_exported(tmp_path / "out") == made


def test_an_adapter_merged(
    runs: Callable[[str], RunFolder], tiny_clip_dir: Path, adapter: Path, tmp_path: Path
) -> None:
    """As peft's own merge has it: a run's adapter with its head, and a plain one on both towers."""
    run = runs("lora").path
    given = (((run,), run / "model"), ((tiny_clip_dir, adapter), adapter))
    for number, (models, folder) in enumerate(given):
        out = tmp_path / str(number)
        clipdrift.export(*models, to="merged", out=out)
        wanted = by_peft(tiny_clip_dir, folder).merge_and_unload()
        found = CLIPModel.from_pretrained(out)
        assert torch.allclose(embedding(found), embedding(wanted), atol=1e-5)
        assert not torch.allclose(
            embedding(found), embedding(CLIPModel.from_pretrained(tiny_clip_dir)), atol=1e-2
        )
        text = (out, "a large square")
        assert torch.allclose(text_embedding(found, *text), text_embedding(wanted, *text), atol=1e-5)
        assert wanted.state_dict().keys() == found.state_dict().keys()
    assert (tmp_path / "0/head.safetensors").is_file()
    assert not (tmp_path / "1/head.safetensors").exists()


def test_the_adapter_alone(
    runs: Callable[[str], RunFolder], tiny_clip_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base that the file names is enough for plain peft, wherever it is read."""
    run = runs("lora").path
    made = clipdrift.export(run, to="peft", out=tmp_path / "out")
    named = json.loads((tmp_path / "out/adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(named) == tiny_clip_dir.resolve()
    monkeypatch.chdir("/")
    wanted = embedding(by_peft(tiny_clip_dir, run / "model"))
    assert torch.equal(embedding(by_peft(Path(named), tmp_path / "out")), wanted)
    assert made.source.base == str(tiny_clip_dir)
    assert made.source.base_fingerprint
    # an export is exported again: its base, head and classes are known
    again = clipdrift.export(tmp_path / "out", to="merged", out=tmp_path / "again")
    assert again.classes == made.classes == ("blue", "green", "red")
    assert torch.allclose(embedding(CLIPModel.from_pretrained(tmp_path / "again")), wanted, atol=1e-5)


def test_a_head_on_its_backbone(
    runs: Callable[[str], RunFolder], tiny_clip_dir: Path, tmp_path: Path
) -> None:
    """The backbone's weights with the head beside them."""
    made = clipdrift.export(runs("linear_probe").path, to="transformers", out=tmp_path / "out")
    assert made.source.kind == "head"
    assert all(torch.equal(state(tiny_clip_dir)[n], w) for n, w in state(tmp_path / "out").items())
    assert (tmp_path / "out/head.safetensors").is_file()


def test_a_zero_shot_head_stays_one(runs: Callable[..., RunFolder], tmp_path: Path) -> None:
    """It acts on normalised embeddings, so a file that said otherwise would be another classifier."""
    run = runs("linear_probe", "zero_shot").path
    made = clipdrift.export(run, to="transformers", out=tmp_path / "out")
    head = load_head(tmp_path / "out")
    assert isinstance(head, ZeroShotHead)
    assert head.classes == made.classes == ("blue", "green", "red")
    (tmp_path / "out/classes.json").unlink()  # as beside a repaired or mixed model
    again = clipdrift.export(tmp_path / "out", to="transformers", out=tmp_path / "again")
    assert again.classes == made.classes
    images = embedding(CLIPModel.from_pretrained(tmp_path / "out"))
    with torch.no_grad():
        assert torch.equal(head(images), load_head(run / "model")(images))
    assert made.proof.logits is not None
    assert "normalize(image_embedding" in (tmp_path / "out/README.md").read_text()


@torch.no_grad()
def test_a_siglip(siglip_dir: Path, tmp_path: Path) -> None:
    """Its texts are filled up to the full length, in lower case; OpenCLIP's SigLIP is another model."""
    made = clipdrift.export(siglip_dir, to="transformers", out=tmp_path / "out")
    assert made.source.library == "transformers SiglipModel"
    wanted, found = (SiglipModel.from_pretrained(f).eval() for f in (siglip_dir, tmp_path / "out"))
    assert torch.equal(embedding(found), embedding(wanted))
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out")(
        ["a striped ground"], padding="max_length", max_length=12, return_tensors="pt"
    )
    texts = (model.get_text_features(input_ids=tokens.input_ids).pooler_output for model in (found, wanted))
    assert torch.equal(*texts)
    assert 'padding="max_length"' in (tmp_path / "out/README.md").read_text()
    with pytest.raises(ExportError, match=r"a SigLIP; OpenCLIP builds its image tower with timm"):
        refuse(open_source(str(siglip_dir)), "open_clip")


@pytest.mark.parametrize(("dtype", "kind"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_short_types(adapter: Path, tiny_clip_dir: Path, tmp_path: Path, dtype: str, kind: Any) -> None:
    """Weights are torch's own rounding, of adapters too; what it costs is measured, and not nothing."""
    made = clipdrift.export(tiny_clip_dir, to="transformers", out=tmp_path / "full", dtype=dtype)
    wanted = state(tiny_clip_dir)
    for name, weight in state(tmp_path / "full").items():
        assert weight.dtype == kind
        assert torch.equal(weight, wanted[name].to(kind))
    model = CLIPModel.from_pretrained(tmp_path / "full")
    assert model.dtype == kind
    apart = embedding(model, PIXELS.to(kind)).float() - embedding(CLIPModel.from_pretrained(tiny_clip_dir))
    assert 0 < float(apart.norm()) / 100 < made.proof.tolerance
    assert 1e-5 < made.proof.images.relative < made.proof.tolerance
    assert made.proof.in_float32 is not None
    assert made.proof.in_float32 < 1e-5
    assert made.proof.weights is not None
    assert 0 < made.proof.weights.largest <= made.proof.weights.allowed
    clipdrift.export(tiny_clip_dir, adapter, to="peft", out=tmp_path / "small", dtype=dtype)
    small, whole = (load_file(f / "adapter_model.safetensors") for f in (tmp_path / "small", adapter))
    assert all(torch.equal(small[name], weight.to(kind)) for name, weight in whole.items())


def test_what_a_type_cannot_hold(tiny_clip_dir: Path, tmp_path: Path) -> None:
    """fp16 ends at 65504: refused before anything is written, not saved as inf."""
    folder = Path(shutil.copytree(tiny_clip_dir, tmp_path / "large"))
    weights = state(folder)
    weights["logit_scale"] = torch.tensor(7e4)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"logit_scale has weights above 65504, more than fp16 holds"):
        clipdrift.export(folder, to="transformers", out=tmp_path / "out", dtype="fp16")
    assert left(tmp_path) == ["large"]
    clipdrift.export(folder, to="transformers", out=tmp_path / "out", dtype="bf16")


# --- nothing counts that is not proven


@pytest.mark.parametrize("change", ["weights", "tokenizer", "pixels"])
def test_an_export_that_reads_back_otherwise_is_not_kept(
    tiny_clip_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Whatever goes wrong between writing and reading is found, named with its number, and swept away."""
    from clipdrift.exporting import job

    write = job.write_model

    def spoilt(source: Any, folder: Path, dtype: Any) -> Any:
        rounded = write(source, folder, dtype)
        if change == "weights":
            weights = state(folder)
            weights["vision_model.post_layernorm.weight"][3] += 0.01
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        else:
            file = folder / {"tokenizer": "tokenizer.json", "pixels": "preprocessor_config.json"}[change]
            content = json.loads(file.read_text())
            if change == "tokenizer":
                vocabulary = content["model"]["vocab"]
                vocabulary["a</w>"], vocabulary["b</w>"] = vocabulary["b</w>"], vocabulary["a</w>"]
            else:
                content["image_mean"] = [0.5, 0.45, 0.3]
            file.write_text(json.dumps(content))
        return rounded

    monkeypatch.setattr(job, "write_model", spoilt)
    with pytest.raises(ExportError) as caught:
        clipdrift.export(tiny_clip_dir, to="transformers", out=tmp_path / "out")
    said = str(caught.value)
    expected = {
        "weights": r"image embeddings differ by \d\.\d+e-0\d of their length .*; 1\.0e-04 is allowed",
        "tokenizer": r"text embeddings differ by \d",
        "pixels": r"prepares images otherwise: by up to 12\.7\d grey levels, 1 is allowed",
    }
    assert re.search(expected[change], said), said
    assert said.endswith("nothing was kept")
    assert "\n" not in said
    assert left(tmp_path) == []


def test_differences_by_hand() -> None:
    """Lengths, cosines and repeated batches; another shape and nan are no small difference."""
    wanted = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    found = difference(wanted, torch.tensor([[3.0, 4.5], [1.0, 0.0], [3.0, 4.0], [0.0, 1.0]]))
    assert (found.count, found.largest, found.cosine) == (2, 1.0, 0.0)
    assert found.relative == pytest.approx(2**0.5)
    assert difference(wanted, wanted).relative == 0
    with pytest.raises(ExportError, match="of shape"):
        difference(wanted, torch.zeros(3, 2))
    with pytest.raises(ExportError, match="nan"):
        difference(wanted, torch.tensor([[3.0, 4.0], [float("nan"), 0.0]]))


def test_rounding_by_hand() -> None:
    """Half a neighbour's distance is rounding, a whole one is not; tiny numbers may vanish."""
    weights = {"a": torch.tensor([1.0, 3.14159, 1e-9, -2.5])}
    short = cast(weights, "bf16", "m")
    assert rounding(weights, short, "bf16", "m").largest == pytest.approx(
        float(((short["a"].double() - weights["a"].double()).abs() / weights["a"].double().abs()).max())
    )
    assert float(cast(weights, "fp16", "m")["a"][2]) == 0
    rounding(weights, cast(weights, "fp16", "m"), "fp16", "m")
    off = {"a": short["a"].clone()}
    off["a"][1] += 2**-6
    with pytest.raises(ExportError, match="more than by bf16's rounding"):
        rounding(weights, off, "bf16", "m")
    with pytest.raises(ExportError, match="on one side only, for example a"):
        rounding(weights, {}, "float32", "m")


# --- refusals


@pytest.mark.parametrize(
    ("models", "to", "message"),
    [
        ("lora", "transformers", "an adapter; say --to merged for a full model, or --to peft"),
        ("adapter", "transformers", "an adapter; say --to merged"),
        ("full_ft", "merged", "has no adapter to merge; say --to transformers"),
        ("full_ft", "peft", "no adapter, a full model; say --to transformers"),
        ("linear_probe", "peft", "a head on its backbone, no adapter"),
        ("siglip", "peft", "no adapter, a full model"),
        ("base run", "merged", "a run, which names its own backbone; give it alone"),
        ("run adapter", "merged", "a run and an adapter; give the adapter's base first"),
        ("adapter base", "merged", "an adapter and an adapter; give the adapter's base first"),
        ("two models", "merged", "no adapter, a full model; give it alone"),
    ],
)
def test_kinds_that_do_not_fit(
    models: str,
    to: str,
    message: str,
    runs: Callable[[str], RunFolder],
    tiny_clip_dir: Path,
    siglip_dir: Path,
    adapter: Path,
    tmp_path: Path,
) -> None:
    """One line that says what to say instead; nothing is left."""
    given: tuple[Path, ...] = {
        "adapter": (adapter,),
        "siglip": (siglip_dir,),
        "base run": (tiny_clip_dir, runs("lora").path),
        "run adapter": (runs("lora").path, adapter),
        "adapter base": (adapter, adapter),
        "two models": (tiny_clip_dir, tiny_clip_dir),
    }.get(models) or (runs(models).path,)
    with pytest.raises(ExportError) as caught:
        clipdrift.export(*given, to=to, out=tmp_path / "out")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left(tmp_path) == []


def test_an_adapter_of_another_base(
    adapter: Path, runs: Callable[[str], RunFolder], tiny_clip_dir: Path, tmp_path: Path, say: Say
) -> None:
    """Refused, unless it is wanted; a run whose weights are damaged is refused always."""
    other = runs("full_ft").path / "model"
    place = ("--to", "merged", "--out", tmp_path / "out")
    assert "the adapter was made from" in fails(say("export", other, adapter, *place))
    assert say("export", other, adapter, *place, "--any-base").code == 0
    damaged = Path(shutil.copytree(runs("lora").path, tmp_path / "damaged"))
    weights = load_file(damaged / "model/adapter_model.safetensors")
    save_file({n: w + 1 for n, w in weights.items()}, damaged / "model/adapter_model.safetensors")
    said = fails(say("export", damaged, "--to", "merged", "--out", tmp_path / "more"))
    assert "adapter_model.safetensors: damaged; run it again" in said


@pytest.mark.parametrize("there", ["a full folder", "an empty folder", "a file", "a link to nothing"])
def test_nothing_is_written_over(there: str, tmp_path: Path, say: Say) -> None:
    """One line, before anything is loaded; whatever was there stays as it was."""
    place = tmp_path / "out"
    if there.endswith("folder"):
        place.mkdir()
    if there == "a full folder":
        (place / "model.safetensors").write_bytes(b"mine")
    elif there == "a file":
        place.write_bytes(b"mine")
    elif there == "a link to nothing":
        place.symlink_to(tmp_path / "nowhere")
    said = fails(say("export", "no-such-model", "--to", "transformers", "--out", place))
    assert said == f"error: {place}: is there already, and nothing is written over; choose another --out\n"
    assert left(tmp_path) == ["out"]
    if there == "a full folder":
        assert (place / "model.safetensors").read_bytes() == b"mine"


def test_a_place_where_nothing_can_be_made(tmp_path: Path, say: Say) -> None:
    """Said before anything is loaded, or where only making it tells."""
    (tmp_path / "file").write_bytes(b"mine")
    place = tmp_path / "file/out"
    said = fails(say("export", "no-such-model", "--to", "transformers", "--out", place))
    assert said == f"error: {place}: nothing can be made in {tmp_path / 'file'}; choose another --out\n"
    said = fails(say("export", "clipdrift/mini", "--to", "transformers", "--out", "/proc/no/out"))
    assert "/proc/no/out: " in said


def test_what_a_loss_had_beside_the_model(tiny_clip_dir: Path, tmp_path: Path) -> None:
    """No classifier: the file goes along and is told apart, and no logits are compared."""
    folder = Path(shutil.copytree(tiny_clip_dir, tmp_path / "pairs"))
    save_file({"bias": torch.tensor(-3.0)}, folder / "head.safetensors")
    made = clipdrift.export(folder, to="transformers", out=tmp_path / "out")
    assert float(load_file(tmp_path / "out/head.safetensors")["bias"]) == -3
    assert made.proof.logits is None
    assert made.notes == ("head.safetensors holds what the loss had beside the model: bias.",)
    assert "logits" not in (tmp_path / "out/README.md").read_text()


def test_the_place_is_taken_meanwhile(
    tiny_clip_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote there while we were at work keeps it."""
    from clipdrift.exporting import job

    def card(*_: object) -> str:
        (tmp_path / "out").mkdir()
        return ""

    monkeypatch.setattr(job, "card", card)
    with pytest.raises(ExportError, match="is there already"):
        clipdrift.export(tiny_clip_dir, to="transformers", out=tmp_path / "out")
    assert left(tmp_path) == ["out"]
    assert left(tmp_path / "out") == []


def test_words_and_the_default_place(
    runs: Callable[[str], RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Say
) -> None:
    """The first line says whether it is equal; the card shows how it is loaded, and what it was made from."""
    run = runs("lora").path
    monkeypatch.chdir(tmp_path)
    said = say("export", run / "model", "--to", "merged", "--dtype", "bf16")
    assert said.code == 0
    name = f"{run.name}-merged-bf16"
    assert f"as merged in {name}: read back with transformers " in said.out
    assert "weights are rounded to bf16" in said.out
    assert "weights rounded likewise, embeddings differ by at most " in said.out
    card = (tmp_path / name / "README.md").read_text()
    assert f'CLIPModel.from_pretrained("{name}")' in card
    assert "library_name: transformers" in card
    assert "blue, green, red" in card
    assert "differs by at most" in card
    assert not re.search(r"\bnan\b|None", card)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "tensorflow"], "--to tensorflow: there is transformers, merged, peft, open_clip, onnx"),
        (["--to", "onnx", "--dtype", "bf16"], "--dtype bf16: onnxruntime does not compute in it on a CPU"),
        (["--to", "peft", "--dtype", "int8"], "--dtype int8: there is float32, fp16, bf16"),
        (["x", "y", "--to", "peft"], "3 models: give one, or BASE and an adapter on it"),
    ],
)
def test_unknown_words(say: Say, options: list[str], message: str) -> None:
    assert message in fails(say("export", "clipdrift/mini", *options))


def test_openclip_has_to_be_there(say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What cannot be read back is not written."""
    import sys

    monkeypatch.setitem(sys.modules, "open_clip", None)
    said = fails(say("export", "clipdrift/mini", "--to", "open_clip", "--out", tmp_path / "out"))
    assert 'pip install "clipdrift[open-clip]"' in said
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = fails(say("export", "clipdrift/mini", "--to", "onnx", "--out", tmp_path / "out"))
    assert "onnxruntime cannot be imported" in said or "onnx cannot be imported" in said
    assert left(tmp_path) == []
