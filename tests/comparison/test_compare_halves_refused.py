"""Halves that do not fit BASE: one line each; and image sizes, fitted on request as transformers does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import outside
import pytest
import torch
from outside import edit_weights, load_plain
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionModel,
    SiglipConfig,
    SiglipModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
)

import half_models as half
from clipdrift.cli import main
from clipdrift.comparison import Comparison
from clipdrift.comparison.architectures import fit_sizes
from clipdrift.comparison.compare import compare
from clipdrift.comparison.measuring import measure
from clipdrift.comparison.models import OpenedModel, PairError
from clipdrift.comparison.pairs import open_pair
from clipdrift.comparison.verdict import verdict
from clipdrift.errors import ClipdriftError
from clipdrift.model.clip import load
from clipdrift.model.positions import interpolate_positions


def refused(base: Any, tuned: Any, **options: Any) -> str:
    with pytest.raises(ClipdriftError) as caught:
        open_pair(base, tuned, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def other_tower(folder: Path, to: Path, **vision: Any) -> Path:
    config = CLIPConfig.from_pretrained(folder).vision_config
    for name, value in vision.items():
        setattr(config, name, value)
    return half.saved(CLIPVisionModel(config), to)


@pytest.mark.parametrize(
    ("vision", "said"),
    [
        ({"hidden_size": 64}, "width 32 against 64"),
        ({"patch_size": 8}, "patch size 4 against 8"),
        ({"num_hidden_layers": 3}, "blocks 2 against 3"),
        ({"hidden_act": "gelu"}, "activation quick_gelu against gelu"),
        ({"layer_norm_eps": 1e-3}, "epsilon of their layer norms 1e-05 against 0.001"),
        ({"intermediate_size": 48}, "6 are on one side only or of another shape"),
        ({"image_size": 24}, "16 pixels and"),
    ],
)
def test_an_image_tower_of_another_architecture(
    tiny_clip_dir: Path, tmp_path: Path, vision: dict[str, Any], said: str
) -> None:
    folder = other_tower(tiny_clip_dir, tmp_path / "half", **vision)
    assert said in refused(tiny_clip_dir, folder)


def test_a_projection_into_another_joint_space(tiny_clip_dir: Path, tmp_path: Path) -> None:
    model = load_plain(tiny_clip_dir)
    model.config.projection_dim = 20
    model.visual_projection = torch.nn.Linear(32, 20, bias=False)
    folder = half.saved(half.projected_image_tower(model), tmp_path / "half")
    assert "embedding width 24 against 20" in refused(tiny_clip_dir, folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ({"hidden_size": 64}, "hidden size 32 against 64"),
        ({"num_attention_heads": 4}, "num attention heads 2 against 4"),
        ({"vocab_size": 700}, "vocab size"),
    ],
)
def test_a_text_tower_of_another_architecture(
    tiny_clip_dir: Path, tmp_path: Path, text: dict[str, Any], said: str
) -> None:
    config = CLIPConfig.from_pretrained(tiny_clip_dir).text_config
    config = CLIPTextConfig(**config.to_dict() | text)
    folder = half.saved(CLIPTextModel(config), tmp_path / "half")
    message = refused(tiny_clip_dir, folder)
    assert "are of different architectures" in message
    assert said in message


def test_halves_of_another_family(tiny_clip_dir: Path, siglip_dir: Path, tmp_path: Path) -> None:
    clip, siglip = load_plain(tiny_clip_dir), load_plain(siglip_dir, SiglipModel)
    for make in (half.image_tower, half.text_tower):
        place = tmp_path / make.__name__
        assert "of different architectures" in refused(siglip_dir, half.saved(make(clip), place / "clip"))
        assert "of different architectures" in refused(
            tiny_clip_dir, half.saved(make(siglip), place / "siglip")
        )


def test_weights_missing_left_over_or_broken(tiny_clip_dir: Path, tmp_path: Path) -> None:
    """Strict, as whole models are loaded."""
    name = "encoder.layers.1.mlp.fc1.weight"
    for label, change in {
        "1 weights missing, for example vision_model." + name: lambda w: w.pop(name),
        "1 weights that no CLIP image tower has, for example head.weight": lambda w: w.update(
            {"head.weight": torch.zeros(2)}
        ),
        "holds values that are no numbers": lambda w: w[name].view(-1)[:1].fill_(float("nan")),
    }.items():
        folder = half.saved(half.image_tower(load_plain(tiny_clip_dir)), tmp_path / label.replace(" ", "_"))
        edit_weights(folder / "model.safetensors", change)
        assert label in refused(tiny_clip_dir, folder)


def test_a_whole_model_under_the_name_of_a_half(tiny_clip_dir: Path, tmp_path: Path) -> None:
    """Nothing is thrown away without a word."""
    folder = outside.copy_folder(tiny_clip_dir, tmp_path / "whole")
    config = CLIPConfig.from_pretrained(folder)
    settings = config.vision_config.to_dict() | {"projection_dim": config.projection_dim}
    (folder / "config.json").write_text(json.dumps(settings))
    assert "weights that no CLIP image tower has, for example logit_scale" in refused(tiny_clip_dir, folder)


def test_a_dual_encoder_with_an_image_tower_of_another_kind(tiny_clip_dir: Path, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        ViTConfig(**sizes, image_size=16, patch_size=4),
        CLIPTextConfig(**sizes, vocab_size=30),
        projection_dim=8,
    )
    folder = half.saved(VisionTextDualEncoderModel(config), tmp_path / "half")
    assert "its image tower is a ViTModel; only those of CLIP and SigLIP" in refused(tiny_clip_dir, folder)


def test_a_half_as_base(tiny_clip_dir: Path, siglip_dir: Path, tmp_path: Path) -> None:
    """Also where one model alone is asked for; and what `train` says."""
    for make, said in (
        (half.image_tower, "an image tower alone (CLIP image tower)"),
        (half.text_tower, "a text tower alone (CLIP text tower)"),
        (half.classifier, "a CLIP image classifier, which takes"),
    ):
        folder = half.saved(make(load_plain(tiny_clip_dir)), tmp_path / make.__name__)
        message = refused(folder, tiny_clip_dir)
        assert said in message
        assert "give it as TUNED" in message
        with pytest.raises(PairError, match="takes what it lacks from a whole model"):
            measure(folder, torch.zeros(4, 3, 16, 16))
        with pytest.raises(ClipdriftError, match="compare it with that as TUNED"):
            load(folder)


def test_base_with_an_adapter(tiny_clip_dir: Path, tmp_path: Path) -> None:
    folder = half.saved(half.image_tower(load_plain(tiny_clip_dir)), tmp_path / "half")
    base = outside.peft_model(tiny_clip_dir)
    assert "has adapters in it; merge those and save the result" in refused(base, folder)


def test_nothing_is_overwritten(
    tiny_clip_dir: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = other_tower(tiny_clip_dir, tmp_path / "half", hidden_size=64)
    out = tmp_path / "out"
    out.mkdir()
    (out / "index.html").write_text("kept")
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(tiny_clip_dir), str(folder), "--images", str(pictures), "--out", str(out)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert {file.name: file.read_text() for file in out.iterdir()} == {"index.html": "kept"}


# --- images of another size


def larger(folder: Path, to: Path, kind: Any, config_kind: Any, size: int = 24) -> Path:
    """The model for larger images, its positions random."""
    config = config_kind.from_pretrained(folder)
    config.vision_config.image_size = size
    torch.manual_seed(7)
    model = kind(config)
    state = load_plain(folder, kind).state_dict()
    name = "vision_model.embeddings.position_embedding.weight"
    state[name] = torch.randn(model.state_dict()[name].shape)
    model.load_state_dict(state)
    outside.copy_folder(folder, to)
    (to / "preprocessor_config.json").write_text(
        (folder / "preprocessor_config.json").read_text().replace("16", str(size))
    )
    return half.saved(model, to)


FAMILIES = [("tiny_clip_dir", CLIPModel, CLIPConfig), ("siglip_dir", SiglipModel, SiglipConfig)]


@pytest.mark.parametrize(("base", "kind", "config"), FAMILIES)
@pytest.mark.parametrize("size", [8, 24, 40])
def test_positions_are_interpolated_as_transformers_does(
    request: pytest.FixtureRequest, base: str, kind: Any, config: Any, size: int
) -> None:
    """Its own forward pass with ``interpolate_pos_encoding`` on images of the other size."""
    folder = request.getfixturevalue(base)
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    model = load_plain(folder, kind)
    with torch.no_grad():
        expected = model.get_image_features(images, interpolate_pos_encoding=True).pooler_output
        interpolate_positions(model, size)
        found = model.get_image_features(images).pooler_output
    assert torch.allclose(found, expected, atol=1e-6)
    assert model.config.vision_config.image_size == size


@pytest.mark.parametrize(("base", "kind", "config"), FAMILIES)
@pytest.mark.parametrize("choice", ["tuned", "base"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_pair_of_two_image_sizes(
    request: pytest.FixtureRequest,
    pictures: Path,
    tmp_path: Path,
    base: str,
    kind: Any,
    config: Any,
    choice: str,
    whole: bool,
) -> None:
    """Refused; compared on request, by the size of the one that is not interpolated; said."""
    small = request.getfixturevalue(base)
    tuned = larger(small, tmp_path / "large", kind, config)
    if not whole:
        tuned = half.saved(half.image_tower(load_plain(tuned, kind)), tmp_path / "half")
    message = refused(small, tuned)
    assert f"{small} takes images of 16 pixels and {tuned} of 24" in message
    assert "--interpolate-positions" in message
    options: dict[str, Any] = {"cache": tmp_path / "cache", "flow": False, "spectrum": False, "limit": 8}
    options["interpolate"] = choice
    found = compare(small, tuned, pictures, transfer=f"colours={pictures}", **options)
    size, side, old = (16, found.tuned, 24) if choice == "tuned" else (24, found.base, 16)
    assert found.shape.image_size == size
    assert side.interpolated_from == old
    line = f"{choice.upper()}'s positions were interpolated from images of {old} pixels to those of {size}"
    assert any(line in said for said in verdict(found))
    assert any("interpolated bicubically from" in note for note in found.notes)
    assert found.measures["weight_drift"].value > 0  # of the positions alone
    assert found.measures["weight_drift_q"].value == 0


def test_models_in_memory_are_copied_first(tiny_clip_dir: Path, tmp_path: Path) -> None:
    large = load(larger(tiny_clip_dir, tmp_path / "large", CLIPModel, CLIPConfig))
    small = load(tiny_clip_dir)
    sides = [OpenedModel("it", "in memory", clip.model, clip) for clip in (small, large)]
    for choice in ("tuned", "base"):
        found = fit_sizes(sides[0], sides[1], choice)  # type: ignore[arg-type]
        assert len(found[2]) == 1
        assert (small.image_size, large.image_size) == (16, 24)
        changed = found[choice == "tuned"]
        assert isinstance(changed, OpenedModel)
        assert changed.clip is not None
        assert changed.clip.model is changed.model
        assert changed.clip.preprocess.crop == ((16, 16) if choice == "tuned" else (24, 24))


def test_asked_for_without_need_or_wrongly(
    tiny_clip_dir: Path, tuned_dir: Path, against: Callable[..., Comparison], pixels: torch.Tensor
) -> None:
    found = against(tuned_dir, interpolate="tuned", flow=False, spectrum=False)
    assert any("Both models take images of 16 pixels: no positions were" in note for note in found.notes)
    assert "neither tuned nor base" in refused(tiny_clip_dir, tuned_dir, interpolate="both")
