"""Between two models: what stands at each alpha, held against plain arithmetic and peft's own merge."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from repair_models import (
    VISION,
    between,
    embedding,
    merged,
    peft_model,
    plain,
    same,
    state_copy,
)
from torch import Tensor
from transformers import CLIPVisionModelWithProjection, SiglipConfig, SiglipModel

from clipdrift.comparison.pairs import open_pair
from clipdrift.model.weights import effective_weights
from clipdrift.repair.context import ends_of
from clipdrift.repair.endpoints import Endpoints

ALPHAS = (0.25, 0.5, 1.5)


def ends_between(base: Any, tuned: Any, merge: bool = False) -> Endpoints:
    return ends_of(open_pair(base, tuned), "merged" if merge else "scaled")[0]


def image_weights(model: Any) -> dict[str, Tensor]:
    """A copy: they may share memory with the model."""
    return {name: weight.clone() for name, weight in effective_weights(model).items()}


def drift(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    """``||W - W0|| / ||W0||`` in one line of float64."""
    change, norm = (
        sum(float(x.double().square().sum()) for x in xs)
        for xs in ([after[n].double() - before[n].double() for n in before], before.values())
    )
    return (change / norm) ** 0.5


@pytest.mark.parametrize("alpha", ALPHAS)
def test_full_models_are_mixed_weight_by_weight(
    tiny_clip_dir: Path, tuned_texts_dir: Path, alpha: float
) -> None:
    """Every parameter, the text tower's too, is the sum that the formula says."""
    endpoints = ends_between(tiny_clip_dir, tuned_texts_dir)
    endpoints.put(alpha)
    wanted = between(plain(tiny_clip_dir), plain(tuned_texts_dir), alpha).state_dict()
    found = endpoints.model.state_dict()
    assert endpoints.form == "model"
    assert endpoints.moves_texts
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-6, atol=1e-7)


def test_the_ends_of_full_models_are_the_models_bit_for_bit(tiny_clip_dir: Path, tuned_dir: Path) -> None:
    """Whatever was visited in between: a walk leaves no rounding behind."""
    endpoints = ends_between(tiny_clip_dir, tuned_dir)
    endpoints.put(0.3)
    endpoints.put(0)
    assert same(state_copy(endpoints.model), state_copy(plain(tiny_clip_dir)))
    assert torch.equal(embedding(endpoints.model), embedding(plain(tiny_clip_dir)))
    endpoints.put(0.7)
    endpoints.put(1)
    assert same(state_copy(endpoints.model), state_copy(plain(tuned_dir)))
    assert torch.equal(embedding(endpoints.model), embedding(plain(tuned_dir)))
    assert not endpoints.moves_texts


def test_weights_drift_in_proportion_to_alpha(tiny_clip_dir: Path, tuned_dir: Path) -> None:
    """A straight line: its distance from the start grows as alpha does."""
    endpoints = ends_between(tiny_clip_dir, tuned_dir)
    before = image_weights(plain(tiny_clip_dir))
    whole = drift(before, image_weights(endpoints.model))
    assert whole > 0.05
    for alpha in (0, *ALPHAS, 1):
        endpoints.put(alpha)
        assert drift(before, image_weights(endpoints.model)) == pytest.approx(alpha * whole, rel=1e-5)


@pytest.mark.parametrize("kind", ["lora", "rslora", "whole", "biased"])
def test_scaling_an_adapter_is_mixing_its_merged_weights(
    tiny_clip_dir: Path, adapters: Callable[[str], Path], kind: str
) -> None:
    """Held against peft's own merge and a state dict's arithmetic; modules trained in full move too."""
    endpoints = ends_between(tiny_clip_dir, adapters(kind))
    base, tuned = plain(tiny_clip_dir), merged(tiny_clip_dir, adapters(kind))
    assert endpoints.form == "adapter"
    for alpha in ALPHAS:
        endpoints.put(alpha)
        wanted = between(base, tuned, alpha)
        torch.testing.assert_close(embedding(endpoints.model), embedding(wanted), rtol=1e-4, atol=1e-5)
        found, weights = image_weights(endpoints.model), image_weights(wanted)
        assert max(float((found[n] - weights[n]).abs().max()) for n in weights) < 1e-6


@pytest.mark.parametrize("kind", ["lora", "rslora", "whole", "biased", "dora"])
def test_the_ends_of_an_adapter_are_backbone_and_adapted_model(
    tiny_clip_dir: Path, adapters: Callable[[str], Path], kind: str
) -> None:
    """Bit for bit; DoRA's backbone to the rounding of its own division by a length."""
    endpoints = ends_between(tiny_clip_dir, adapters(kind))
    live = PeftModel.from_pretrained(plain(tiny_clip_dir), str(adapters(kind)))
    endpoints.put(0)
    backbone = embedding(plain(tiny_clip_dir))
    if kind == "dora":
        torch.testing.assert_close(embedding(endpoints.model), backbone, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(embedding(endpoints.model), backbone)
    endpoints.put(0.4)
    endpoints.put(1)
    assert torch.equal(embedding(endpoints.model), embedding(live))
    assert not torch.allclose(embedding(live), backbone, atol=1e-3)


def test_dora_moves_magnitudes_and_directions_together(
    tiny_clip_dir: Path, adapters: Callable[[str], Path]
) -> None:
    """``m(alpha) (W0 + alpha s B A) / ||W0 + alpha s B A||`` row by row, with m from ``||W0||`` to ``m``."""
    alpha, path = 0.5, "vision_model.encoder.layers.1.self_attn.q_proj"
    endpoints = ends_between(tiny_clip_dir, adapters("dora"))
    layer = endpoints.model.get_submodule(path)
    start = layer.get_base_layer().weight.detach().clone()
    change = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    magnitude = layer.lora_magnitude_vector["default"].weight.detach().clone()
    moved = start + alpha * change.detach()
    length = (1 - alpha) * start.norm(dim=1) + alpha * magnitude
    wanted = length[:, None] * moved / moved.norm(dim=1, keepdim=True)
    endpoints.put(alpha)
    torch.testing.assert_close(
        effective_weights(endpoints.model)[f"{path}.weight"], wanted, rtol=1e-5, atol=1e-6
    )


def test_blocks_and_parts_have_alphas_of_their_own(tiny_clip_dir: Path, tuned_texts_dir: Path) -> None:
    """Block 2 and the projection back, the rest as tuned: name by name."""
    endpoints = ends_between(tiny_clip_dir, tuned_texts_dir)
    endpoints.put(1, {2: 0.0, "projection": 0.0})
    before, after = plain(tiny_clip_dir).state_dict(), plain(tuned_texts_dir).state_dict()
    back = ("vision_model.encoder.layers.1.", "visual_projection.")
    for name, weight in endpoints.model.state_dict().items():
        assert torch.equal(weight, (before if name.startswith(back) else after)[name]), name
    assert endpoints.places() == {1, 2, "stem", "final", "projection", "text"}


def test_blocks_of_an_adapter_have_alphas_of_their_own(
    tiny_clip_dir: Path, adapters: Callable[[str], Path]
) -> None:
    """Effective weights of the block put back are the backbone's; those of the other are the adapted ones."""
    endpoints = ends_between(tiny_clip_dir, adapters("lora"))
    endpoints.put(1, {1: 0.0})
    base = image_weights(plain(tiny_clip_dir))
    tuned = image_weights(merged(tiny_clip_dir, adapters("lora")))
    for name, weight in image_weights(endpoints.model).items():
        wanted = base if ".layers.0." in name else tuned
        torch.testing.assert_close(weight, wanted[name], rtol=1e-6, atol=1e-7)


def _ia3(folder: Path) -> Any:
    targets = {"target_modules": VISION, "feedforward_modules": []}
    model = get_peft_model(plain(folder), IA3Config(**targets))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ia3" in name:
                parameter.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
    return model


def _pissa(folder: Path) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=VISION, init_lora_weights="pissa")
    model = get_peft_model(plain(folder), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.mul_(1.3)
    return model


def _merged_in_place(folder: Path) -> Any:
    model = peft_model(folder)
    model.merge_adapter()
    return model


def _two_at_once(folder: Path) -> Any:
    model = peft_model(folder)
    torch.manual_seed(9)
    model.add_adapter("second", LoraConfig(r=2, target_modules=VISION, init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    return model.eval()


@pytest.mark.parametrize("make", [_ia3, _pissa, _merged_in_place, _two_at_once])
def test_what_cannot_be_scaled_is_mixed_as_merged_weights(
    tiny_clip_dir: Path, make: Callable[[Path], Any]
) -> None:
    """Adapters in memory, of any kind: the line between the weights as they act, and the ends exact."""
    model = make(tiny_clip_dir)
    acting = embedding(model.get_base_model())
    endpoints = ends_between(plain(tiny_clip_dir), model)
    assert endpoints.form == "model"
    torch.testing.assert_close(embedding(endpoints.model), acting, rtol=1e-4, atol=1e-5)
    after = image_weights(endpoints.model)
    endpoints.put(0)
    base = image_weights(endpoints.model)
    assert torch.equal(embedding(endpoints.model), embedding(plain(tiny_clip_dir)))
    endpoints.put(0.5)
    for name, weight in image_weights(endpoints.model).items():
        torch.testing.assert_close(weight, (base[name] + after[name]) / 2, rtol=1e-5, atol=1e-6)


def test_an_adapter_folder_of_changed_backbone_weights_is_mixed_merged(
    tiny_clip_dir: Path, tmp_path: Path
) -> None:
    """PiSSA's base is not the backbone at B = 0: scaling B would walk to another model than BASE."""
    model = _pissa(tiny_clip_dir)
    model.save_pretrained(str(tmp_path / "pissa"))
    endpoints, notes = ends_of(open_pair(tiny_clip_dir, tmp_path / "pissa"), "scaled")
    assert endpoints.form == "model"
    assert "cannot be scaled" in " ".join(notes)
    endpoints.put(0)
    assert torch.equal(embedding(endpoints.model), embedding(plain(tiny_clip_dir)))


def test_merged_weights_can_be_asked_for(tiny_clip_dir: Path, adapters: Callable[[str], Path]) -> None:
    """As softening does: the adapter is in the weights, and no layer of peft's is left."""
    endpoints = ends_between(tiny_clip_dir, adapters("whole"), merge=True)
    assert endpoints.form == "model"
    wanted = merged(tiny_clip_dir, adapters("whole"))
    assert state_copy(endpoints.model).keys() == state_copy(wanted).keys()
    torch.testing.assert_close(embedding(endpoints.model), embedding(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("with_adapter", [False, True])
def test_models_in_memory_are_left_as_they_were(
    tiny_clip_dir: Path, tuned_dir: Path, with_adapter: bool
) -> None:
    """Weights, modes and what requires a gradient; the live model shares no memory with either."""
    base: Any = plain(tiny_clip_dir).train()
    tuned: Any = (peft_model(tiny_clip_dir) if with_adapter else plain(tuned_dir)).train()
    kept = [copy.deepcopy(model.state_dict()) for model in (base, tuned)]
    asked = [[p.requires_grad for p in model.parameters()] for model in (base, tuned)]
    endpoints = ends_between(base, tuned)
    endpoints.put(0.5)
    for model, state, wanted in zip((base, tuned), kept, asked, strict=True):
        assert same(dict(model.state_dict()), state)
        assert [p.requires_grad for p in model.parameters()] == wanted
        assert model.training
    theirs = {p.data_ptr() for model in (base, tuned) for p in model.parameters()}
    assert not theirs & {p.data_ptr() for p in endpoints.model.parameters()}


def test_two_runs_with_adapters_are_mixed_as_merged_weights(tiny_clip_dir: Path, tmp_path: Path) -> None:
    """BASE may itself be adapted: alpha 0 is then that model, not the one underneath."""
    one, other = peft_model(tiny_clip_dir, seed=3), peft_model(tiny_clip_dir, seed=4)
    endpoints = ends_between(one, other)
    endpoints.put(0)
    torch.testing.assert_close(
        embedding(endpoints.model), embedding(one.get_base_model()), rtol=1e-4, atol=1e-5
    )


def test_a_siglip_has_a_path_too() -> None:
    """Without class token, projection or tokenizer: its image tower and its texts, end to end."""
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**tower, "image_size": 16, "patch_size": 4}
    config = SiglipConfig(text_config={**tower, "vocab_size": 40}, vision_config=vision)
    torch.manual_seed(0)
    base, tuned = SiglipModel(config).eval(), SiglipModel(config).eval()
    endpoints = ends_between(base, tuned)
    endpoints.put(0.5)
    wanted = between(base, tuned, 0.5).state_dict()
    for name, weight in endpoints.model.state_dict().items():
        torch.testing.assert_close(weight, wanted[name], rtol=1e-6, atol=1e-7)
    assert endpoints.places() == {1, 2, "stem", "final", "text"}


def test_an_image_half_moves_without_texts(tiny_clip_dir: Path, tuned_dir: Path) -> None:
    """CLIPVisionModelWithProjection against a whole CLIPModel, either way round."""
    whole = plain(tiny_clip_dir).config
    whole.vision_config.projection_dim = whole.projection_dim
    half = CLIPVisionModelWithProjection(whole.vision_config)
    half.vision_model.load_state_dict(plain(tiny_clip_dir).vision_model.state_dict())
    half.visual_projection.load_state_dict(plain(tiny_clip_dir).visual_projection.state_dict())
    endpoints, notes = ends_of(open_pair(half.eval(), plain(tuned_dir)), "scaled")
    endpoints.put(0)
    assert torch.equal(embedding(endpoints.model), embedding(plain(tiny_clip_dir)))
    assert "TUNED's stays as it is" in " ".join(notes)
    endpoints, notes = ends_of(open_pair(plain(tuned_dir), half), "scaled")
    assert (notes, type(endpoints.model)) == ([], CLIPVisionModelWithProjection)
    endpoints.put(0)
    wanted = image_weights(plain(tuned_dir))
    assert all(torch.equal(weight, wanted[name]) for name, weight in image_weights(endpoints.model).items())
