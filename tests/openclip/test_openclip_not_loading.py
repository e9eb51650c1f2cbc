"""Names that OpenCLIP cannot load, or would load as something else: each is an error of one line."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from openclip_models import CONFIG, REASON, TEXT, build, error_of

from clipdrift.config import ModelConfig
from clipdrift.model.clip import ModelError, load

open_clip = pytest.importorskip("open_clip", reason=REASON)


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    state = torch.load(file)
    change(state)
    torch.save(state, file)


def configure(folder: Path, **changes: Any) -> None:
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG} | changes))


class Pickled:
    """Runs code when it is read back by plain pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code from a checkpoint ran",))


# --- the name


def test_an_unknown_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it may have meant."""
    message = error_of("open_clip:ViT-B/32")
    assert message.startswith("OpenCLIP knows no architecture 'ViT-B'; did you mean ViT-B-")
    assert "did you mean ViT-B-32" in error_of("open_clip:ViT-B32/openai")
    assert error_of("open_clip:zzzzzz/openai").endswith("; open_clip.list_models() names them all")
    assert "no architecture ''" in error_of("open_clip:")
    assert "no architecture 'hf-hub:lab'" in error_of("open_clip:hf-hub:lab/model")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved").mkdir()
    assert error_of("open_clip:saved").endswith("; a folder is written open_clip:./saved")


def test_an_unknown_tag() -> None:
    """With those that there are; nothing random in its place."""
    message = error_of("open_clip:ViT-B-32/laion9b")
    assert message.startswith("laion9b is neither a tag of ViT-B-32 nor a file; tags: openai, laion400m_e31,")
    assert "laion2b_s34b_b79k" in message
    assert "nowhere.pt is neither a tag" in error_of("open_clip:ViT-B-32//tmp/nowhere.pt")


@pytest.mark.usefixtures("architectures")
def test_no_weights_named() -> None:
    """OpenCLIP would make a random model."""
    message = error_of("open_clip:ViT-B-32")
    assert message.startswith(
        "which weights? open_clip:ViT-B-32/TAG or open_clip:ViT-B-32/FILE; tags: openai,"
    )
    assert error_of("open_clip:tiny-arch/").endswith("; tags: none")


@pytest.mark.usefixtures("tag")
def test_weights_trained_with_quickgelu() -> None:
    """Under another activation they are another model, which OpenCLIP only warns of."""
    assert error_of("open_clip:ViT-B-32/openai") == (
        "these weights were trained with QuickGELU, which ViT-B-32 is without; "
        "say open_clip:ViT-B-32-quickgelu/openai"
    )
    assert error_of("open_clip:tiny-arch/other_tag").endswith("say open_clip:tiny-arch-quickgelu/other_tag")
    load("open_clip:tiny-arch-quickgelu/other_tag")


def test_every_tag_with_quickgelu_has_an_architecture_with_it() -> None:
    """What the message tells to say can be said."""
    for architecture, tag in open_clip.list_pretrained():
        wants = open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu")
        if wants and not open_clip.get_model_config(architecture).get("quick_gelu"):
            other = f"{architecture}-quickgelu"
            assert open_clip.get_model_config(other)["quick_gelu"], other
            assert open_clip.get_pretrained_cfg(other, tag), other


@pytest.mark.usefixtures("tag")
def test_a_tag_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network; the reason is kept."""

    def fail(_tag: object) -> str:
        raise OSError("no route\nto the host")

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    assert error_of("open_clip:tiny-arch/some_tag") == (
        "the weights not found in the local cache and not to be had from the network (no route to the host)"
    )


def test_a_revision_cannot_be_chosen() -> None:
    """OpenCLIP takes none."""
    with pytest.raises(ModelError, match="`revision` cannot be chosen"):
        load(ModelConfig(name="hf-hub:lab/model", revision="abc"))


# --- the weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("visual.ln_post.weight"),
            "weights.pt: 1 weights missing, for example visual.ln_post.weight",
        ),
        (
            lambda s: s.update(extra=torch.zeros(1)),
            "weights.pt: 1 weights that the architecture has not, for example extra",
        ),
        (
            lambda s: s.update({"visual.proj": torch.zeros(32, 25)}),
            "weights.pt: 1 weights of another shape than the architecture's, for example "
            "visual.proj: (32, 25), not (32, 24)",
        ),
        (
            lambda s: s.update({"logit_scale": torch.zeros(2)}),
            "weights.pt: 1 weights of another shape than the architecture's, for example "
            "logit_scale: (2,), not ()",
        ),
        (lambda s: s.clear(), "weights.pt: 62 weights missing, for example ln_final.bias"),
    ],
    ids=["missing", "extra", "shape", "scale", "empty"],
)
def test_weights_that_do_not_fit(
    weights: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    """The first of them is named."""
    edit(weights, change)
    assert error_of(f"open_clip:tiny-arch-quickgelu/{weights}") == message


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("tiny-arch-24", "visual.positional_embedding: (17, 32), not (37, 32)"),
        ("tiny-arch-long", "positional_embedding: (16, 32), not (20, 32)"),
    ],
)
def test_stretched_positions(weights: Path, architecture: str, name: str, caplog: Any) -> None:
    """OpenCLIP stretches them to the architecture's size, and says so in the log alone."""
    assert error_of(f"open_clip:{architecture}/{weights}").endswith(f"for example {name}")
    with caplog.at_level(logging.INFO):
        open_clip.create_model(architecture, pretrained=str(weights))
    assert "Resizing" in caplog.text


def test_files_that_are_no_weights(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Broken, of another kind, or with code in them, which does not run."""
    name = f"open_clip:tiny-arch-quickgelu/{weights}"
    plain = "weights.pt: no file of plain weights: broken, or with pickled code in it, which is not run"
    state = torch.load(weights)
    torch.save({"state_dict": state, "extra": Pickled()}, weights)
    assert error_of(name) == plain
    assert "code from a checkpoint ran" not in capsys.readouterr().out
    torch.save(build(), weights)
    assert error_of(name) == plain
    for content in (b"junk" * 100, b""):
        weights.write_bytes(content)
        assert error_of(name).startswith("weights.pt: cannot be read as weights (")
    torch.save([1, 2], weights)
    assert error_of(name) == "weights.pt: no state dict, and no checkpoint with one under 'state_dict'"
    torch.jit.script(torch.nn.Linear(1, 1)).save(weights)
    assert error_of(name).startswith("weights.pt: a TorchScript archive, which is code and is not run; save")
    other = weights.with_suffix(".safetensors")
    other.write_bytes(b"junk" * 10)
    assert error_of(f"open_clip:tiny-arch-quickgelu/{other}").startswith(
        "weights.safetensors: cannot be read as weights ("
    )


# --- the folder


def test_a_folder_without_weights(folder: Path, model: Any) -> None:
    """OpenCLIP would make a random model and say so in the log alone."""
    file = folder / "open_clip_model.safetensors"
    file.rename(folder / "a.safetensors")
    torch.save(model.state_dict(), folder / "b.bin")
    assert error_of(f"open_clip:{folder}") == "which weights? There are a.safetensors, b.bin; keep one"
    for odd in ("a.safetensors", "b.bin"):
        (folder / odd).unlink()
    nothing = "no weights in the folder (open_clip_model.safetensors, or *.bin or *.pth)"
    assert error_of(f"open_clip:{folder}") == nothing
    torch.save(model.state_dict(), folder / "epoch_5.pt")
    assert error_of(f"open_clip:{folder}") == (
        f"{nothing}; OpenCLIP takes no epoch_5.pt: rename it to open_clip_pytorch_model.bin"
    )


def test_a_folder_that_is_none_of_openclips(folder: Path, tiny_clip_dir: Path) -> None:
    """What is missing is named."""
    assert error_of("open_clip:./nowhere") == "no such folder"
    broken = "open_clip_config.json is missing or not OpenCLIP's ("
    assert error_of(f"open_clip:{tiny_clip_dir}").startswith(broken)
    for content in ("{", "[]", json.dumps(CONFIG), json.dumps({"model_cfg": CONFIG | {"text_cfg": 3}})):
        (folder / "open_clip_config.json").write_text(content)
        assert error_of(f"open_clip:{folder}").startswith(broken)


def test_preprocessing_that_is_not_supported(folder: Path) -> None:
    """Pictures that are padded, and filters of other kinds."""
    configure(folder, preprocess_cfg={"resize_mode": "longest"})
    assert error_of(f"open_clip:{folder}") == (
        "images are resized by 'longest', which is not supported; shortest and squash are"
    )
    configure(folder, preprocess_cfg={"interpolation": "lanczos"})
    assert "images are resized by 'lanczos'" in error_of(f"open_clip:{folder}")
    configure(folder, preprocess_cfg={"mean": [0.5]})
    assert "preprocessing: `image_mean` is [0.5]" in error_of(f"open_clip:{folder}")


def test_a_tokenizer_that_is_not_there(folder: Path) -> None:
    """Of Hugging Face, which a folder keeps beside the weights, or of another vocabulary than the model's."""
    configure(folder, model_cfg=CONFIG | {"text_cfg": TEXT | {"hf_tokenizer_name": "lab/tokenizer"}})
    assert error_of(f"open_clip:{folder}").startswith("its tokenizer cannot be used: ")


def test_a_vocabulary_too_small(weights: Path) -> None:
    """Token numbers would point nowhere."""
    assert error_of(f"open_clip:tiny-arch-words/{weights}") == (
        "OpenCLIP's tokenizer has 49408 tokens, the text tower knows 100; "
        "name the model's own in hf_tokenizer_name"
    )


# --- models that are not read


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (
            "tiny-timm",
            "open_clip.model.CLIP is not supported: its image tower is timm's VisionTransformer with 1 token",
        ),
        ("tiny-coca", "CoCa pools images by attention"),
        ("tiny-mean", "open_clip.model.CLIP is not supported: it projects not its class token"),
        ("tiny-odd", "OpenCLIP cannot build it: CLIPVisionCfg.__init__() got an unexpected keyword argument"),
    ],
)
def test_models_that_are_not_read(
    architecture: str, message: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said before the weights are looked at."""
    monkeypatch.setattr(torch, "load", None)
    assert error_of(f"open_clip:{architecture}/{weights}").startswith(message)
