"""Loading OpenCLIP's models by name: every form of a name, strictly, with its preprocessing and its texts."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openclip_models import CONFIG, REASON, build, error_of, hub_cache, pixels
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import RobertaConfig

from clipdrift.data.preprocess import Preprocess
from clipdrift.model.clip import Clip, load
from clipdrift.model.tokens import train_tokenizer
from clipdrift.model.zero_shot import class_features, predict

open_clip = pytest.importorskip("open_clip", reason=REASON)

OPENAI = (0.48145466, 0.4578275, 0.40821073)


def edited(file: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    state = torch.load(file)
    edit(state)
    torch.save(state, file)
    return file


def same(clip: Clip, expected: Any) -> bool:
    """The very weights, ready for use."""
    state = expected.state_dict()
    own = clip.model.state_dict()
    assert not any(module.training for module in clip.model.modules())
    assert all(weight.dtype == torch.float32 for weight in own.values())
    return own.keys() == state.keys() and all(torch.equal(own[name], state[name].float()) for name in own)


# --- every form of a name


def test_an_architecture_and_a_file(model: Any, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative, absolute, and from the home folder; what OpenCLIP's own factory makes of them is the same."""
    clip = load(f"open_clip:tiny-arch-quickgelu/{weights}")
    assert same(clip, model)
    assert same(clip, open_clip.create_model("tiny-arch-quickgelu", pretrained=str(weights)))
    assert torch.equal(clip.model.encode_image(pixels(3)), model.encode_image(pixels(3)))
    assert clip.name == f"open_clip:tiny-arch-quickgelu/{weights}"
    assert (clip.blocks, clip.heads, clip.width, clip.embedding_width) == (2, 2, 32, 24)
    assert (clip.image_size, clip.patches) == (16, 16)
    monkeypatch.chdir(weights.parent.parent)
    assert same(load(f"open_clip:tiny-arch-quickgelu/{weights.parent.name}/weights.pt"), model)
    monkeypatch.setenv("HOME", str(weights.parent))
    assert same(load("open_clip:tiny-arch-quickgelu/~/weights.pt"), model)


def test_a_checkpoint_of_openclips_training(model: Any, weights: Path) -> None:
    """With the optimiser beside the weights, from several processes, in half precision, or as safetensors."""
    state = {f"module.{name}": weight for name, weight in model.state_dict().items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": state, "optimizer": {"step": 1}}, weights)
    assert same(load(f"open_clip:tiny-arch-quickgelu/{weights}"), model)
    torch.save({name: weight.half() for name, weight in model.state_dict().items()}, weights)
    assert same(load(f"open_clip:tiny-arch-quickgelu/{weights}"), build().half())
    save_file(model.state_dict(), weights.with_suffix(".safetensors"))
    assert same(load(f"open_clip:tiny-arch-quickgelu/{weights.with_suffix('.safetensors')}"), model)
    edited(weights, lambda s: s.update(logit_scale=s["logit_scale"].reshape(1)))
    load(f"open_clip:tiny-arch-quickgelu/{weights}")


def test_a_text_tower_of_its_own(model: Any, weights: Path) -> None:
    """CustomTextCLIP, from its own weights and from those of a CLIP."""
    clip = load(f"open_clip:tiny-arch-custom/{weights}")
    assert type(clip.model).__name__ == "CustomTextCLIP"
    assert torch.equal(
        clip.texts(["a cat"]), load(f"open_clip:tiny-arch-quickgelu/{weights}").texts(["a cat"])
    )
    torch.save(clip.model.state_dict(), weights)
    assert same(load(f"open_clip:tiny-arch-custom/{weights}"), clip.model)


@pytest.mark.usefixtures("tag")
def test_an_architecture_and_a_tag(model: Any) -> None:
    """As OpenCLIP spells tags, and its preprocessing."""
    clip = load("open_clip:tiny-arch/some_tag")
    assert same(clip, model)
    assert same(load("open_clip:tiny-arch-quickgelu/Some-Tag"), model)
    assert clip.preprocess.mean == (0.1, 0.1, 0.1)
    assert clip.preprocess.size == (16, 16)
    assert clip.preprocess.crop is None


@pytest.mark.parametrize(
    "name",
    ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "epoch_9.pth"],
)
def test_a_folder(model: Any, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its full or relative path; weights under any name that OpenCLIP takes."""
    file = folder / "open_clip_model.safetensors"
    if name.endswith(".safetensors"):
        file.rename(folder / name)
    else:
        file.unlink()
        torch.save(model.state_dict(), folder / name)
    assert same(load(f"open_clip:{folder}"), model)
    monkeypatch.chdir(folder)
    assert same(load("open_clip:."), model)
    monkeypatch.chdir(folder.parent)
    clip = load("open_clip:./saved")
    assert same(clip, model)
    assert clip.preprocess.mean == (0.5, 0.4, 0.3)


def test_texts_by_hugging_face(folder: Path) -> None:
    """A text tower and a tokenizer of Hugging Face's, whose own weights are not fetched."""
    tokenizer = train_tokenizer(["a cat on a mat", "one small dog"], merges=50, context=16)
    tokenizer.save_pretrained(folder)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=20, **size).save_pretrained(
        folder / "text"
    )
    text = {
        "hf_model_name": str(folder / "text"),
        "hf_tokenizer_name": "lab/elsewhere",
        "context_length": 16,
    }
    config = CONFIG | {"text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    expected = open_clip.CustomTextCLIP(**config | {"text_cfg": text | {"hf_model_pretrained": False}}).eval()
    state = {name: weight.contiguous() for name, weight in expected.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    if "batch_encode_plus" in inspect.getsource(open_clip.tokenizer.HFTokenizer):  # releases before 3.3
        assert "its tokenizer cannot be used: " in error_of(f"open_clip:{folder}")
        return
    clip = load(f"open_clip:{folder}")
    assert same(clip, expected)
    texts = ["a cat", "one small dog"]
    tokens = tokenizer(texts, padding="max_length", max_length=16, return_tensors="pt").input_ids
    assert torch.equal(clip.tokenizer(texts), tokens)
    assert torch.equal(clip.texts(texts), expected.encode_text(tokens))


def test_the_best_of_several_weight_files(model: Any, folder: Path) -> None:
    """The one that OpenCLIP would take, without a warning about the others."""
    torch.save(build(seed=5).state_dict(), folder / "open_clip_pytorch_model.bin")
    assert same(load(f"open_clip:{folder}"), model)


def test_a_repository_of_the_hub(
    model: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the hub's cache, without a network."""
    hub_cache(tmp_path / "hub", "lab/tiny", folder)
    hub_cache(tmp_path / "hub", "lab/empty", None)
    (folder / "open_clip_model.safetensors").unlink()
    hub_cache(tmp_path / "hub", "lab/half", folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    clip = load("hf-hub:lab/tiny")
    assert same(clip, model)
    assert clip.preprocess.mean == (0.5, 0.4, 0.3)
    assert error_of("hf-hub:lab/half").startswith(
        "the weights not found in the local cache and not to be had"
    )
    for absent in ("lab/empty", "lab/absent"):
        assert error_of(f"hf-hub:{absent}").startswith("open_clip_config.json not found in the local cache")


# --- preprocessing and texts


@pytest.mark.parametrize(("mode", "name"), [("shortest", "bicubic"), ("squash", "bilinear")])
def test_preprocessing_is_openclips(folder: Path, mode: str, name: str) -> None:
    """Pixels are those of OpenCLIP's own transform; a crop that falls between two may take the neighbours."""
    config = {"mean": [0.5, 0.4, 0.3], "std": 0.25, "interpolation": name, "resize_mode": mode}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": config}))
    clip = load(f"open_clip:{folder}")
    assert Preprocess.from_config(json.loads(json.dumps(clip.preprocessor))) == clip.preprocess
    transform = open_clip.image_transform(
        16, is_train=False, mean=(0.5, 0.4, 0.3), std=(0.25,) * 3, resize_mode=mode, interpolation=name
    )
    for width, height in ((16, 16), (40, 50), (64, 64), (33, 16), (200, 131), (16, 19)):
        grey = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
        picture = Image.fromarray(grey)
        expected = transform(picture) * 0.25 + torch.tensor([0.5, 0.4, 0.3])[:, None, None]
        found = torch.tensor(clip.preprocess.apply(picture)).permute(2, 0, 1) / 255
        if mode == "shortest" and (width, height) == (16, 19):  # 1.5 pixels: transformers' 1, torchvision's 2
            found, expected = found[:, 1:], expected[:, :-1]
        assert (found - expected).abs().max() < 1e-5, (width, height)


def test_preprocessing_that_is_not_said_is_openais(weights: Path) -> None:
    """Of a file nothing else is known."""
    clip = load(f"open_clip:tiny-arch-quickgelu/{weights}")
    assert clip.preprocess.mean == OPENAI
    assert (clip.preprocess.size, clip.preprocess.crop) == (16, (16, 16))
    assert clip.preprocess.resample == Image.Resampling.BICUBIC


@torch.no_grad()
def test_zero_shot_is_openclips(weights: Path, model: Any) -> None:
    """Class features and answers as by OpenCLIP's own tokenizer, text tower and cosine."""
    clip = load(f"open_clip:tiny-arch-quickgelu/{weights}")
    classes, prompts = ("cat", "small dog", "a very long name " * 9), ("a photo of a {}.", "art of {}")
    tokenizer = open_clip.get_tokenizer("tiny-arch-quickgelu")

    def encoded(prompt: str) -> Tensor:
        return normalize(model.encode_text(tokenizer([prompt.format(name) for name in classes])), dim=-1)

    expected = normalize(sum(encoded(prompt) for prompt in prompts), dim=-1)  # type: ignore[arg-type]
    features = class_features(clip, classes, prompts)
    assert (features - expected).abs().max() < 1e-6
    images = model.encode_image(pixels(20))
    cosines = normalize(images, dim=-1) @ expected.T
    assert torch.equal(predict(images, features), cosines.argmax(-1))
    assert len(set(predict(images, features).tolist())) > 1
