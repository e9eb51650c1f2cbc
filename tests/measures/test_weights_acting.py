"""Weights as they act are those of the model that peft itself would merge; the live model is left alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import CLIPModel, SiglipModel

from clipdrift.model.clip import Clip
from clipdrift.model.weights import effective_weights

PLACES = r"vision_model\..*(q_proj|v_proj|fc1)"
HEAD = r"vision_model\.head\.attention"
TOWER = ("vision_model.", "visual_projection.")

ADAPTERS: dict[str, PeftConfig] = {
    "lora": LoraConfig(r=3, lora_alpha=7, target_modules=PLACES),
    "untrained start": LoraConfig(r=3, target_modules=PLACES, init_lora_weights=False),
    "rslora": LoraConfig(r=4, lora_alpha=3, target_modules=PLACES, use_rslora=True),
    "dora": LoraConfig(r=3, target_modules=PLACES, use_dora=True),
    "all biases": LoraConfig(r=3, target_modules=PLACES, bias="all"),
    "lora's own bias": LoraConfig(r=3, target_modules=PLACES, lora_bias=True),
    "ranks": LoraConfig(
        r=2, target_modules=PLACES, rank_pattern={"fc1": 5}, alpha_pattern={"layers.1.self_attn.q_proj": 11}
    ),
    "convolution": LoraConfig(r=2, target_modules=r"vision_model\.embeddings\.patch_embedding"),
    "positions": LoraConfig(r=2, target_modules=r"vision_model\.embeddings\.position_embedding"),
    "projection": LoraConfig(r=2, target_modules=["visual_projection"]),
    "fully trained parts": LoraConfig(
        r=2, target_modules=PLACES, modules_to_save=["visual_projection", "post_layernorm"]
    ),
    "adalora": AdaLoraConfig(init_r=4, total_step=10, target_modules=PLACES),
    "loha": LoHaConfig(r=2, target_modules=PLACES),
    "lokr": LoKrConfig(r=2, target_modules=PLACES),
    "ia3": IA3Config(target_modules=PLACES, feedforward_modules=r"vision_model\..*fc1"),
    "oft": OFTConfig(oft_block_size=4, target_modules=PLACES),
}


def train(model: nn.Module, seed: int = 0) -> None:
    """As if: whatever an adapter trains goes some way from where it started."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters(), key=lambda pair: pair[0]):
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def adapted(model: Any, config: PeftConfig) -> PeftModel:
    torch.manual_seed(0)
    made = get_peft_model(model, copy.deepcopy(config)).eval()
    train(made)
    return made


@torch.no_grad()
def output(model: Any) -> Tensor:
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return model.get_image_features(pixel_values=images).pooler_output


def merged(model: PeftModel) -> dict[str, Tensor]:
    """The image tower's parameters after peft's own merge of a copy."""
    plain = copy.deepcopy(model).merge_and_unload()
    return {name: p.detach() for name, p in plain.named_parameters() if name.startswith(TOWER)}


def own(model: Any) -> dict[str, Tensor]:
    """A plain model's parameters."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if n.startswith(TOWER)}


def same(found: dict[str, Tensor], target: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert found.keys() == target.keys()
    for name, weight in target.items():
        assert found[name].shape == weight.shape, name
        assert (found[name] - weight).abs().max() <= tolerance, name


def far(found: dict[str, Tensor], target: dict[str, Tensor]) -> list[str]:
    """Names of weights that differ by more than rounding."""
    return [name for name in target if (found[name] - target[name]).abs().max() > 1e-3]


class Watched:
    """A model before it is looked at; afterwards nothing may have changed."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.out = output(model)
        self.values, self.flags = self.facts()

    def facts(self) -> tuple[dict[str, Tensor], list[str]]:
        values = {name: value.clone() for name, value in self.model.state_dict().items()}
        flags: list[Any] = [(m.training, len(m._forward_hooks)) for m in self.model.modules()]
        flags += [(name, p.requires_grad) for name, p in self.model.named_parameters()]
        flags += [
            (list(m.merged_adapters), list(m.active_adapters), m.disable_adapters)
            for m in self.model.modules()
            if isinstance(m, BaseTunerLayer)
        ]
        return values, sorted(map(str, flags))

    def unchanged(self, rounding: float = 0) -> None:
        """``rounding`` is what peft's own forward pass may add to outputs."""
        values, flags = self.facts()
        assert values.keys() == self.values.keys()
        assert all(torch.equal(values[name], self.values[name]) for name in values)
        assert flags == self.flags
        assert (output(self.model) - self.out).abs().max() <= rounding


# --- plain models


def test_a_plain_model_is_its_own_parameters(tiny_clip: Clip, siglip: SiglipModel) -> None:
    """Shared, not copied; without a gradient; nothing of the text tower."""
    for model in (tiny_clip.model, siglip):
        watched = Watched(model)
        found = effective_weights(model)
        same(found, own(model), 0)
        assert all(not weight.requires_grad for weight in found.values())
        assert all(found[name].data_ptr() == model.get_parameter(name).data_ptr() for name in found)
        watched.unchanged()


def test_full_fine_tuning(tiny_clip: Clip) -> None:
    """What training moved, in place."""
    before = own(tiny_clip.model)
    train(tiny_clip.model)
    found = effective_weights(tiny_clip.model)
    same(found, own(tiny_clip.model), 0)
    assert far(found, before) == list(before)


# --- adapters


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_as_peft_merges_them(tiny_clip: Clip, kind: str) -> None:
    """Values and names; the live model is as it was; and the adapter did change something."""
    plain = own(tiny_clip.model)
    model = adapted(tiny_clip.model, ADAPTERS[kind])
    watched = Watched(model)
    found = effective_weights(model)
    same(found, merged(model))
    assert found.keys() == plain.keys()
    assert far(found, plain)
    watched.unchanged()
    same(effective_weights(tiny_clip.model), found, 0)  # get_peft_model changes the model that it is given


def test_only_what_an_adapter_targets_changes(tiny_clip: Clip) -> None:
    """Two matrices of two blocks, and (alpha / r) B A is the change."""
    plain = own(tiny_clip.model)
    config = LoraConfig(r=3, lora_alpha=7, target_modules=r"vision_model\..*(q_proj|fc1)")
    model = adapted(tiny_clip.model, config)
    found = effective_weights(model)
    blocks = [f"vision_model.encoder.layers.{i}" for i in range(2)]
    assert set(far(found, plain)) == {
        f"{b}.{m}.weight" for b in blocks for m in ("self_attn.q_proj", "mlp.fc1")
    }
    layer = model.get_submodule(f"base_model.model.{blocks[1]}.mlp.fc1")
    change = 7 / 3 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    name = f"{blocks[1]}.mlp.fc1.weight"
    assert (found[name] - plain[name] - change).abs().max() < 1e-6


def test_the_weights_found_act_as_the_model(tiny_clip: Clip, tiny_clip_dir: Any) -> None:
    """Put into a plain model, they give the adapted model's embeddings."""
    model = adapted(tiny_clip.model, ADAPTERS["fully trained parts"])
    plain = CLIPModel.from_pretrained(tiny_clip_dir).eval()
    assert (output(plain) - output(model)).abs().max() > 1e-2
    missing, odd = plain.load_state_dict(effective_weights(model), strict=False)
    assert not odd
    assert not [name for name in missing if name.startswith(TOWER)]
    assert (output(plain) - output(model)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["lora", "dora", "fully trained parts", "lora's own bias", "loha"])
def test_adapters_switched_off(tiny_clip: Clip, kind: str) -> None:
    """Are the backbone, bit for bit; on again, they act again."""
    plain = own(tiny_clip.model)
    model = adapted(tiny_clip.model, ADAPTERS[kind])
    on = {name: w.clone() for name, w in effective_weights(model).items()}
    with model.disable_adapter():
        watched = Watched(model)
        same(effective_weights(model), plain, 0)
        watched.unchanged()
    same(effective_weights(model), on, 0)


@pytest.mark.parametrize("kind", ["lora", "dora", "lora's own bias", "oft", "fully trained parts"])
def test_adapters_merged_in_place(tiny_clip: Clip, kind: str) -> None:
    """Not added twice; and taken out again when they are switched off, as peft does in the forward pass."""
    plain = own(tiny_clip.model)
    model = adapted(tiny_clip.model, ADAPTERS[kind])
    on = {name: w.clone() for name, w in effective_weights(model).items()}
    model.merge_adapter()
    watched = Watched(model)
    same(effective_weights(model), on)
    watched.unchanged()
    with model.disable_adapter():
        same(effective_weights(model), plain, 1e-5)
        assert any(m.merged for m in model.modules() if isinstance(m, BaseTunerLayer))
    model.unmerge_adapter()
    same(effective_weights(model), on, 1e-5)


def two(model: Any, other: PeftConfig) -> PeftModel:
    """Adapters one and two, each trained its own way; one is active."""
    torch.manual_seed(0)
    made = get_peft_model(model, copy.deepcopy(ADAPTERS["lora"]), adapter_name="one")
    train(made, 1)
    made.add_adapter("two", copy.deepcopy(other))
    made.set_adapter("two")
    train(made, 2)
    made.set_adapter("one")
    return made.eval()


OTHER = LoraConfig(r=2, target_modules=r"vision_model\..*(q_proj|fc2)", modules_to_save=["visual_projection"])


@pytest.mark.parametrize("active", ["one", "two"])
def test_of_two_adapters_the_active_one_acts(tiny_clip: Clip, active: str) -> None:
    """Where only the other has a layer, or a trained copy, the backbone's own weight acts."""
    plain = own(tiny_clip.model)
    model = two(tiny_clip.model, OTHER)
    model.set_adapter(active)
    watched = Watched(model)
    found = effective_weights(model)
    same(found, merged(model))
    watched.unchanged()
    expected = {"one": {"q_proj", "v_proj", "fc1"}, "two": {"q_proj", "fc2", "visual_projection"}}
    assert {name.rsplit(".", 2)[-2] for name in far(found, plain)} == expected[active]


def test_two_adapters_at_once(tiny_clip: Clip) -> None:
    """Their changes add up."""
    plain = own(tiny_clip.model)
    model = two(tiny_clip.model, LoraConfig(r=2, target_modules=PLACES))
    parts = []
    for name in ("one", "two"):
        model.set_adapter(name)
        parts.append({n: w - plain[n] for n, w in effective_weights(model).items()})
    model.base_model.set_adapter(["one", "two"])
    found = effective_weights(model)
    same(found, merged(model))
    same(found, {n: plain[n] + parts[0][n] + parts[1][n] for n in plain})


def test_a_merged_adapter_acts_alone(tiny_clip: Clip) -> None:
    """Whichever is active, until it is taken out."""
    model = two(tiny_clip.model, LoraConfig(r=2, target_modules=PLACES))
    model.set_adapter("two")
    second, out = {n: w.clone() for n, w in effective_weights(model).items()}, output(model)
    model.set_adapter("one")
    first = {n: w.clone() for n, w in effective_weights(model).items()}
    model.merge_adapter(adapter_names=["two"])
    assert (output(model) - out).abs().max() < 1e-5
    same(effective_weights(model), second)
    model.unmerge_adapter()
    same(effective_weights(model), first, 1e-5)
    assert far(first, second)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision(tiny_clip: Clip, half: torch.dtype) -> None:
    """In the model's own precision, as peft merges them."""
    model = adapted(tiny_clip.model.to(half), ADAPTERS["lora"])
    found = effective_weights(model)
    assert {weight.dtype for weight in found.values()} == {half}
    same(found, merged(model), 0)


# --- torch's attention, whose merged weights peft keeps out of the parameters

ATTENTION = {
    "head": LoraConfig(r=2, target_modules=HEAD),
    "head and blocks": LoraConfig(r=2, lora_alpha=5, target_modules=rf"({PLACES}|{HEAD})"),
    "rslora": LoraConfig(r=2, target_modules=HEAD, use_rslora=True),
    "all biases": LoraConfig(r=2, target_modules=HEAD, bias="all"),
}
IN, OUT = (f"vision_model.head.attention.{name}" for name in ("in_proj_weight", "out_proj.weight"))


@pytest.mark.parametrize("kind", ATTENTION)
def test_the_pooling_heads_adapters(siglip: SiglipModel, kind: str) -> None:
    """Nothing is lost, of the head or elsewhere."""
    plain = own(siglip)
    model = adapted(siglip, ATTENTION[kind])
    watched = Watched(model)
    found = effective_weights(model)
    assert found.keys() == plain.keys()
    same(found, merged(model))
    assert {IN, OUT} <= set(far(found, plain))
    watched.unchanged(1e-6)
    same(effective_weights(model), merged(model))


def test_the_pooling_heads_weights_act_as_the_model(siglip: SiglipModel) -> None:
    """Put into a plain model, they give the adapted one's embeddings."""
    plain = copy.deepcopy(siglip)
    model = adapted(siglip, ATTENTION["head and blocks"])
    assert (output(plain) - output(model)).abs().max() > 1e-2
    plain.load_state_dict(effective_weights(model), strict=False)
    assert (output(plain) - output(model)).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["head", "head and blocks"])
def test_the_pooling_heads_adapters_switched_off(siglip: SiglipModel, kind: str) -> None:
    """They are the backbone."""
    plain = own(siglip)
    model = adapted(siglip, ATTENTION[kind])
    with model.disable_adapter():
        watched = Watched(model)
        same(effective_weights(model), plain)
        watched.unchanged()


@pytest.mark.filterwarnings("ignore:All adapters are already merged")  # peft merges out_proj in passing
@pytest.mark.parametrize("listed", [False, True])
def test_the_pooling_heads_adapters_merged_in_place(siglip: SiglipModel, listed: bool) -> None:
    """Whether or not somebody has listed the modules since, which puts the weights back among parameters."""
    plain = own(siglip)
    model = adapted(siglip, ATTENTION["head and blocks"])
    on = {name: w.clone() for name, w in effective_weights(model).items()}
    model.merge_adapter()
    if listed:
        list(model.modules())
    same(effective_weights(model), on)
    out = output(model)
    same(effective_weights(model), on)
    assert torch.equal(output(model), out)
    with model.disable_adapter():
        same(effective_weights(model), plain, 1e-5)
    with model.disable_adapter():
        assert (output(model) - output(siglip)).abs().max() == 0


def test_two_adapters_on_the_pooling_head(siglip: SiglipModel) -> None:
    """The active one acts."""
    torch.manual_seed(0)
    model = get_peft_model(siglip, copy.deepcopy(ATTENTION["head"]), adapter_name="one")
    train(model, 1)
    model.add_adapter("two", LoraConfig(r=3, target_modules=HEAD, init_lora_weights=False))
    found = {}
    for name in ("one", "two"):
        model.set_adapter(name)
        found[name] = effective_weights(model)
        same(found[name], merged(model))
    assert set(far(found["one"], found["two"])) == {IN, OUT}
