"""Exports to ONNX, run by onnxruntime beside plain transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPModel, SiglipModel

import clipdrift
from clipdrift.adapt.heads import load_head
from clipdrift.exporting import Exported
from clipdrift.runs.store import RunFolder

REASON = 'needs the extra onnx: pip install "clipdrift[onnx]"'
runtime: Any = pytest.importorskip("onnxruntime", reason=REASON)
pytest.importorskip("onnxscript", reason=REASON)


def session(file: Path) -> Any:
    return runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def exported(runs: Callable[[str], RunFolder], tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A fully tuned run with its head."""
    return clipdrift.export(runs("full_ft").path, to="onnx", out=tmp_path_factory.mktemp("onnx") / "out")


def test_a_zero_shot_head_in_fp16(runs: Callable[..., RunFolder], tmp_path: Path) -> None:
    """Logits of normalised embeddings, whatever the towers compute in."""
    run = runs("linear_probe", "zero_shot").path
    clipdrift.export(run, to="onnx", out=tmp_path / "out", dtype="fp16")
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    feed = {"pixel_values": pixels.numpy()}
    embeds, logits = map(torch.from_numpy, session(tmp_path / "out/image.onnx").run(None, feed))
    by_hand = load_head(run / "model")(embeds)
    assert (logits - by_hand).abs().max() < 2**-7 * by_hand.abs().max()


def test_images_in_batches_of_any_size(exported: Exported, runs: Callable[[str], RunFolder]) -> None:
    """Embeddings and the head's logits, to 1e-4 in every number."""
    weights = runs("full_ft").path / "model"
    model, head = CLIPModel.from_pretrained(weights).eval(), load_file(weights / "head.safetensors")
    image = session(exported.folder / "image.onnx")
    assert [one.name for one in image.get_inputs()] == ["pixel_values"]
    assert [one.name for one in image.get_outputs()] == ["image_embeds", "logits"]
    assert image.get_inputs()[0].shape[1:] == [3, 16, 16]
    for count in (1, 2, 13):
        pixels = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            wanted = model.get_image_features(pixel_values=pixels).pooler_output
        embeds, logits = image.run(None, {"pixel_values": pixels.numpy()})
        assert np.abs(embeds - wanted.numpy()).max() < 1e-4
        by_hand = wanted @ head["weight"].T + head["bias"]
        assert np.abs(logits - by_hand.numpy()).max() < 1e-4
    assert exported.proof.logits is not None
    assert exported.proof.library == f"onnxruntime {runtime.__version__}"


def test_texts_of_any_length(exported: Exported, runs: Callable[[str], RunFolder]) -> None:
    """Alone and padded together, from two tokens to as many as the tower takes."""
    model = CLIPModel.from_pretrained(runs("full_ft").path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(exported.folder)
    text = session(exported.folder / "text.onnx")
    assert [one.name for one in text.get_inputs()] == ["input_ids"]
    texts = ["", "a cat", "a photo of three big blue hexagons", "red " * 60]
    for given in (*([one] for one in texts), texts):
        tokens = tokenizer(given, padding=True, truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            wanted = model.get_text_features(**tokens).pooler_output
        found = text.run(None, {"input_ids": tokens.input_ids.numpy()})[0]
        assert np.abs(found - wanted.numpy()).max() < 1e-4


def test_each_tower_is_one_file(exported: Exported) -> None:
    """With what prepares images and texts beside it."""
    names = {file.name for file in exported.folder.iterdir()}
    assert {"image.onnx", "text.onnx", "classes.json", "tokenizer.json", "preprocessor_config.json"} <= names
    assert not [name for name in names if name.endswith((".data", ".safetensors"))]
    record = json.loads((exported.folder / "export.json").read_text())
    assert {"onnx", "onnxscript", "onnxruntime"} <= set(record["versions"])
    assert "embeddings, logits = image.run" in (exported.folder / "README.md").read_text()


@pytest.mark.slow  # each tower takes torch's exporter some seconds
def test_siglip_in_fp16(siglip_dir: Path, tmp_path: Path) -> None:
    """Texts of one length; floats go in and come out, and rounding is all that is lost."""
    made = clipdrift.export(siglip_dir, to="onnx", out=tmp_path / "out", dtype="fp16")
    image, text = session(tmp_path / "out/image.onnx"), session(tmp_path / "out/text.onnx")
    assert text.get_inputs()[0].shape[1] == 12
    pixels = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = SiglipModel.from_pretrained(siglip_dir).eval()
    with torch.no_grad():
        wanted = model.get_image_features(pixel_values=pixels).pooler_output.numpy()
    found = image.run(None, {"pixel_values": pixels.numpy()})[0]
    assert found.dtype == np.float32
    apart = np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    assert 1e-6 < apart.max() < made.proof.tolerance
    assert made.proof.weights is None
