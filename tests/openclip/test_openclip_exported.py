"""Exports that OpenCLIP loads: its own towers, tokenizer and transform beside plain transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openclip_models import REASON, as_hugging_face, build, pixels
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

import clipdrift
from clipdrift.exporting import ExportError
from clipdrift.exporting.open_clip_names import open_clip_weights
from clipdrift.model.clip import load
from small_runs import Lab

open_clip = pytest.importorskip("open_clip", reason=REASON)
if not hasattr(open_clip.factory, "LOCAL_DIR_PREFIX"):
    pytest.skip("this release of OpenCLIP loads no folder", allow_module_level=True)


def opened(folder: Path) -> tuple[Any, Any, Any]:
    """Model, transform and tokenizer, by OpenCLIP alone."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval(), transform, open_clip.get_tokenizer(f"local-dir:{folder}")


def changed(folder: Path, to: Path, text: dict[str, Any], vision: dict[str, Any], **top: Any) -> Path:
    """A folder with another configuration and random weights that fit it."""
    settings = json.loads((folder / "config.json").read_text())
    for name, options in (("text_config", text), ("vision_config", vision)):
        settings[name] |= options
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(**(settings | top)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 1.5 * parameter[0].numel() ** -0.5)
    model.save_pretrained(to)
    AutoTokenizer.from_pretrained(folder).save_pretrained(to)
    (to / "preprocessor_config.json").write_text((folder / "preprocessor_config.json").read_text())
    return to


@torch.no_grad()
def same(folder: Path, plain: Any, tokenizer: Any, images: torch.Tensor) -> None:
    """Embeddings of images and texts by OpenCLIP and by transformers."""
    model, _, tokens = opened(folder)
    wanted = plain.get_image_features(pixel_values=images).pooler_output
    assert torch.allclose(model.encode_image(images), wanted, atol=1e-4)
    texts = ["", "a cat", "Two LARGE green squares!", "a photo of three big blue hexagons " * 9]
    longest = plain.config.text_config.max_position_embeddings
    cut = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
    wanted = plain.get_text_features(**cut).pooler_output
    assert torch.allclose(model.encode_text(tokens(texts)), wanted, atol=1e-4)
    assert float(model.logit_scale) == float(plain.logit_scale)


def test_a_run_with_an_adapter(lab: Lab, tiny_clip_dir: Path, tmp_path: Path) -> None:
    """Merged, with its own tokenizer and preprocessing, and read by clipdrift as well."""
    run = lab.run(lab.config("lora", optim={"epochs": 1, "learning_rate": 0.02}))[1].path
    made = clipdrift.export(run, to="open_clip", out=tmp_path / "out")
    plain = PeftModel.from_pretrained(CLIPModel.from_pretrained(tiny_clip_dir), str(run / "model")).eval()
    same(tmp_path / "out", plain.get_base_model(), AutoTokenizer.from_pretrained(tiny_clip_dir), pixels(5))
    assert made.proof.library == f"open_clip {open_clip.__version__}"
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["blue", "green", "red"]
    assert load_file(tmp_path / "out/head.safetensors")["weight"].shape == (3, 24)
    assert any("hf_tokenizer_name" in note for note in made.notes)
    again = load(f"open_clip:{tmp_path / 'out'}")
    model, transform, _ = opened(tmp_path / "out")
    assert torch.equal(again.model.encode_image(pixels(2)), model.encode_image(pixels(2)))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8))
    wanted = CLIPImageProcessorPil.from_pretrained(tiny_clip_dir)(picture, return_tensors="pt")
    assert (transform(picture) - wanted["pixel_values"][0]).abs().max() < 0.03


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_short_types(tiny_clip_dir: Path, tmp_path: Path, dtype: str) -> None:
    """The file is half as large; OpenCLIP computes with its rounded weights in float32."""
    made = clipdrift.export(tiny_clip_dir, to="open_clip", out=tmp_path / "out", dtype=dtype)
    kinds = {weight.dtype for weight in load_file(tmp_path / "out/open_clip_model.safetensors").values()}
    assert kinds == {torch.float16 if dtype == "fp16" else torch.bfloat16}
    assert made.proof.in_float32 is not None
    assert made.proof.in_float32 < 1e-5 < made.proof.images.relative


@pytest.mark.parametrize(
    ("text", "vision", "top"),
    [
        ({"hidden_act": "gelu"}, {"hidden_act": "gelu"}, {}),
        ({"hidden_act": "gelu_pytorch_tanh"}, {"hidden_act": "gelu_pytorch_tanh"}, {}),
        ({"layer_norm_eps": 0.3}, {"layer_norm_eps": 0.2}, {}),
        ({"intermediate_size": 50}, {"intermediate_size": 99, "num_attention_heads": 4}, {}),
        ({"hidden_size": 16, "vocab_size": 800}, {"patch_size": 8}, {"projection_dim": 12}),
        ({"eos_token_id": 2}, {}, {}),
        ({"max_position_embeddings": 9}, {}, {}),
    ],
    ids=["gelu", "tanh", "norms", "widths", "sizes", "largest token", "context"],
)
def test_architectures(
    tiny_clip_dir: Path, tmp_path: Path, text: dict[str, Any], vision: dict[str, Any], top: dict[str, Any]
) -> None:
    """Every part of a configuration that changes what is computed."""
    folder = changed(tiny_clip_dir, tmp_path / "model", text, vision, **top)
    clipdrift.export(folder, to="open_clip", out=tmp_path / "out")
    plain = CLIPModel.from_pretrained(folder).eval()
    same(tmp_path / "out", plain, AutoTokenizer.from_pretrained(folder), pixels(3))


def test_names_are_openclips_own() -> None:
    """There and back: weights of OpenCLIP's model, put into transformers' by another table."""
    model = build()
    found = open_clip_weights(as_hugging_face(model).state_dict())
    wanted = model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], weight) for name, weight in wanted.items())


def test_openclips_own_vocabulary(tmp_path: Path) -> None:
    """A model with OpenAI's vocabulary needs no tokenizer of Hugging Face's in OpenCLIP."""
    own = open_clip.SimpleTokenizer()
    merges = sorted(own.bpe_ranks, key=own.bpe_ranks.get)
    ends = {own.sot_token_id: "<|startoftext|>", own.eot_token_id: "<|endoftext|>"}
    vocabulary = {ends.get(number, word): number for word, number in own.encoder.items()}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=16)
    folder = tmp_path / "model"
    plain = as_hugging_face(build())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 16, "width": 16}, "do_center_crop": False, "resample": 2})
    )
    made = clipdrift.export(folder, to="open_clip", out=tmp_path / "out")
    config = json.loads((tmp_path / "out/open_clip_config.json").read_text())
    assert "hf_tokenizer_name" not in config["model_cfg"]["text_cfg"]
    assert config["preprocess_cfg"]["resize_mode"] == "squash"
    assert config["preprocess_cfg"]["interpolation"] == "bilinear"
    assert not made.notes
    assert not (tmp_path / "out/tokenizer.json").exists()
    same(tmp_path / "out", plain, tokenizer, pixels(3))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda c: c.update(size={"shortest_edge": 20}),
            "its preprocessing (size 20, crop (16, 16))",
        ),
        (lambda c: c.update(resample=1), "resized by Pillow's filter 1; OpenCLIP knows bilinear"),
        (lambda c: c.update(rescale_factor=1.0), "its pixels are scaled by 1.0"),
    ],
)
def test_preprocessing_that_openclip_has_not(
    tiny_clip_dir: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    """Refused, since the same weights on other pixels give other numbers."""
    folder = changed(tiny_clip_dir, tmp_path / "model", {}, {})
    file = folder / "preprocessor_config.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ExportError) as caught:
        clipdrift.export(folder, to="open_clip", out=tmp_path / "out")
    assert message in str(caught.value)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["model"]


def test_towers_with_two_activations(tiny_clip_dir: Path, tmp_path: Path) -> None:
    """OpenCLIP has one for both."""
    folder = changed(tiny_clip_dir, tmp_path / "model", {"hidden_act": "gelu"}, {"hidden_act": "quick_gelu"})
    with pytest.raises(ExportError, match=r"different activations \(quick_gelu and gelu\)"):
        clipdrift.export(folder, to="open_clip", out=tmp_path / "out")


@torch.no_grad()
@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
def test_a_model_of_openclips_for_transformers(kind: str, folder: Path, tmp_path: Path, model: Any) -> None:
    """Its embeddings are those that OpenCLIP gives; and back again, weight by weight."""
    if kind != "CLIP":
        model = build(kind)
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")
        file = folder / "open_clip_config.json"
        content = json.loads(file.read_text())
        content["model_cfg"]["custom_text"] = True
        file.write_text(json.dumps(content))
    made = clipdrift.export(f"open_clip:{folder}", to="transformers", out=tmp_path / "out")
    assert made.source.library == f"open_clip {kind}"
    plain = CLIPModel.from_pretrained(tmp_path / "out").eval()
    wanted = model.encode_image(pixels(3))
    assert torch.allclose(plain.get_image_features(pixel_values=pixels(3)).pooler_output, wanted, atol=1e-4)
    texts = ["a cat", "It's TWO green squares!", "a photo of three big blue hexagons " * 9]
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out")(
        texts, padding=True, truncation=True, return_tensors="pt"
    )
    wanted = model.encode_text(open_clip.SimpleTokenizer(context_length=16)(texts))
    assert torch.allclose(plain.get_text_features(**tokens).pooler_output, wanted, atol=1e-4)
    clipdrift.export(tmp_path / "out", to="open_clip", out=tmp_path / "back")
    back = load_file(tmp_path / "back/open_clip_model.safetensors")
    assert back.keys() == {name.removeprefix("text.") for name in model.state_dict()}
    assert all(torch.equal(back[n.removeprefix("text.")], w) for n, w in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ls_init_value": 0.1}, "weights for which transformers' CLIP has no place, for example"),
        ({"no_ln_pre": True}, "weights that transformers' CLIP needs and it has not, for example"),
    ],
)
def test_parts_that_transformers_has_not(
    folder: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """Nothing is left out, nothing made up."""
    save_file(build(**options).state_dict(), folder / "open_clip_model.safetensors")
    file = folder / "open_clip_config.json"
    content = json.loads(file.read_text())
    content["model_cfg"]["vision_cfg"] |= options
    file.write_text(json.dumps(content))
    with pytest.raises(ExportError) as caught:
        clipdrift.export(f"open_clip:{folder}", to="transformers", out=tmp_path / "out")
    assert message in str(caught.value)
    with pytest.raises(ExportError, match="no adapter, a full model"):
        clipdrift.export(f"open_clip:{folder}", to="peft", out=tmp_path / "out")
