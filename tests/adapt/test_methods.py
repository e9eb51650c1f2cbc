"""What each method trains, and that adapters are the ones that peft and transformers know."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from tiny_methods import BLOCK, TEXTS, embedding, expected_names, images, method, whole_state
from torch import Tensor, nn
from transformers import CLIPModel

from clipdrift.adapt import METHODS, Adapted, adapt, effective_weights, load_adapted, load_head
from clipdrift.adapt.objective import CrossEntropy
from clipdrift.config import Dora, Lora, LoraOptions, Method, ModelConfig, OptimConfig, RsLora
from clipdrift.data.deck import Deck
from clipdrift.model.clip import Clip, ModelError, load
from clipdrift.training.loop import train_model

DEFAULT_LORA = Lora(name="lora")
ALL_LORA = Lora(name="lora", rank=3, alpha=7, targets=("q", "k", "v", "out", "mlp"))
FROZEN_PROJECTION = Lora(name="lora", rank=4, train_projection=False)
ALL_FROZEN_PROJECTION = ALL_LORA.model_copy(update={"train_projection": False})
LORAS: list[LoraOptions] = [
    DEFAULT_LORA,
    ALL_LORA,
    FROZEN_PROJECTION,
    ALL_FROZEN_PROJECTION,
    RsLora(name="rslora", rank=3),
    Dora(name="dora", rank=3, targets=("q", "out", "mlp")),
    method("lora_plus", rank=3),  # type: ignore[list-item]
]
EVERY: list[Method] = [
    method("full_ft"),
    method("linear_probe"),
    *LORAS,
    method("projections"),
    method("last_blocks"),
    method("bias_only"),
    method("norm_only"),
    method("lp_ft"),
    method("flyp"),
]
FROZEN: list[Method] = [
    method("full_ft", frozen_blocks=1),
    method("full_ft", frozen_blocks=2, freeze_embeddings=True),
    method("lora", frozen_blocks=1),
    method("dora", frozen_blocks=1, train_projection=False),
    method("last_blocks", blocks=2),
    method("bias_only", frozen_blocks=1),
    method("norm_only", frozen_blocks=1, freeze_embeddings=True),
    method("lp_ft", freeze_embeddings=True),
    method("flyp", train_texts=False, frozen_blocks=1),
]
"""Where less is trained; for the tests of what is trained."""


def name_of(options: Method) -> str:
    changed = options.model_dump(exclude_defaults=True, exclude={"name"})
    values = ("+".join(v) if isinstance(v, tuple) else v for v in changed.values())
    return "-".join([options.name, *(f"{key}={value}" for key, value in zip(changed, values, strict=True))])


every_method = pytest.mark.parametrize("options", EVERY, ids=name_of)
every_choice = pytest.mark.parametrize("options", [*EVERY, *FROZEN], ids=name_of)
every_lora = pytest.mark.parametrize("options", LORAS, ids=name_of)


def train_a_little(adapted: Adapted, deck: Deck) -> None:
    optim = OptimConfig(learning_rate=0.01, epochs=2, batch_size=4)
    assert [m.step for m in train_model(adapted, deck, optim, seed=0)] == [3, 6]
    adapted.eval()


@pytest.fixture(scope="module")
def trained_once() -> dict[Method, Adapted]:
    return {}


@pytest.fixture
def trained(
    tiny_clip: Clip, make_deck: Callable[..., Deck], trained_once: dict[Method, Adapted]
) -> Callable[[Method], Adapted]:
    """The tiny CLIP, adapted and moved well away from the backbone; a copy, so that a test may change it."""

    def make(options: Method) -> Adapted:
        if options not in trained_once:
            adapted = adapt(tiny_clip, options, classes=3, seed=1, texts=TEXTS)
            train_a_little(adapted, make_deck(12, classes=3))
            trained_once[options] = adapted
        tokenizer = tiny_clip.tokenizer
        return copy.deepcopy(trained_once[options], {id(tokenizer): tokenizer})

    return make


# --- what is trained


def test_every_method_of_the_table_is_tested() -> None:
    """A method added to the table must be added to these tests, or to those of captions."""
    assert {options.name for options in EVERY} == METHODS.keys() - {"logit_scale"}


@every_choice
def test_exactly_these_parameters_train(tiny_clip: Clip, options: Method) -> None:
    """By name: no text tower and no logit scale (but flyp), and of lora no weight of the tower itself."""
    expected = expected_names(tiny_clip, options)
    adapted = adapt(tiny_clip, options, classes=3, seed=0, texts=TEXTS)
    parameters = dict(adapted.parameters())
    assert parameters.keys() == expected
    assert all(p.requires_grad for p in parameters.values())
    texts = any("text" in name or "logit_scale" in name for name in parameters)
    assert texts == adapted.trains_texts == (options == method("flyp"))


@every_choice
def test_training_moves_these_and_nothing_else(
    tiny_clip: Clip, make_deck: Callable[..., Deck], options: Method
) -> None:
    """All that is not trained stays bit for bit; all that is trained moves (but for what has no gradient)."""
    adapted = adapt(tiny_clip, options, classes=3, seed=0, texts=TEXTS)
    before = whole_state(adapted)
    train_a_little(adapted, make_deck(12, classes=3))
    moved = {name for name, value in whole_state(adapted).items() if not torch.equal(value, before[name])}
    follows = {"head.weight"} if adapted.trains_texts else set()  # it is made of the texts
    assert moved == {name for name, _ in adapted.parameters()} | follows


@every_lora
def test_lora_touches_no_text_tower(tiny_clip: Clip, options: Method) -> None:
    """The bare names q_proj and v_proj stand in both towers."""
    adapted = adapt(tiny_clip, options, classes=3, seed=0, texts=TEXTS)
    assert not [
        n for n, _ in adapted.clip.model.named_modules() if n.startswith("text_model") and "lora" in n
    ]


@every_method
def test_before_training_the_backbone_is_unchanged(tiny_clip: Clip, options: Method) -> None:
    """The adapters' second factor starts at zero; the first step starts from the backbone."""
    before = embedding(tiny_clip.model)
    adapted = adapt(tiny_clip, options, classes=3, seed=0, texts=TEXTS)
    assert torch.allclose(embedding(adapted.clip.model), before, atol=1e-6)


@every_method
def test_the_same_seed_draws_the_same_start(tiny_clip_dir: Path, options: Method) -> None:
    """Head and adapters follow the seed alone, not what drew random numbers before."""

    def start(seed: int) -> dict[str, Tensor]:
        torch.rand(7)
        return whole_state(adapt(load(tiny_clip_dir), options, classes=3, seed=seed, texts=TEXTS))

    first, again, other = start(5), start(5), start(6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(first["head.weight"], other["head.weight"]) == (options.name == "flyp")


def test_the_head_is_the_same_for_every_method(tiny_clip_dir: Path) -> None:
    """Methods are compared from one start, however many random numbers one of them draws; but flyp."""
    heads = [
        adapt(load(tiny_clip_dir), options, classes=3, seed=5).head
        for options in EVERY
        if options.name != "flyp"
    ]
    assert all(torch.equal(head.weight, heads[0].weight) for head in heads)
    assert heads[0].weight.shape == (3, 24)
    assert heads[0].weight.abs().max() <= 24**-0.5
    assert not heads[0].bias.any()


# --- adapters as peft means them


@every_lora
def test_a_disabled_adapter_is_the_backbone(
    tiny_clip_dir: Path, trained: Callable[[Method], Adapted], options: Method
) -> None:
    """The adapters are all that differs; with them off not a bit does."""
    backbone = embedding(load(tiny_clip_dir).model)
    adapted = trained(options)
    assert not torch.allclose(embedding(adapted.clip.model), backbone, atol=1e-2)
    assert adapted.peft is not None
    with adapted.peft.disable_adapter():
        assert torch.equal(embedding(adapted.clip.model), backbone)


@every_lora
def test_merged_is_unmerged(trained: Callable[[Method], Adapted], options: Method) -> None:
    """Adding the adapters into the weights changes nothing but rounding."""
    adapted = trained(options)
    merged = copy.deepcopy(adapted.peft).merge_and_unload()
    assert (embedding(merged) - embedding(adapted.clip.model)).abs().max() < 1e-5


@every_method
def test_effective_weights_are_those_of_the_merged_model(
    trained: Callable[[Method], Adapted], options: Method
) -> None:
    """So that methods share a scale of weight drift: names and values of a plain CLIP."""
    adapted = trained(options)
    merged = adapted.clip.model if adapted.peft is None else copy.deepcopy(adapted.peft).merge_and_unload()
    expected = {
        name: p
        for name, p in merged.named_parameters()
        if name.startswith(("vision_model.", "visual_projection."))
    }
    found = effective_weights(adapted.clip.model)
    assert found.keys() == expected.keys()
    assert max((found[name] - expected[name]).abs().max() for name in found) < 1e-6


@every_lora
def test_effective_weights_of_a_merged_in_place_model(
    trained: Callable[[Method], Adapted], options: Method
) -> None:
    """Merged but not unloaded, the change must not be added twice."""
    adapted = trained(options)
    before = {name: w.clone() for name, w in effective_weights(adapted.clip.model).items()}
    assert adapted.peft is not None
    adapted.peft.merge_adapter()
    after = effective_weights(adapted.clip.model)
    assert before.keys() == after.keys()
    assert max((after[name] - before[name]).abs().max() for name in after) < 1e-6


@every_lora
def test_plain_peft_says_the_same(
    tiny_clip_dir: Path, trained: Callable[[Method], Adapted], options: LoraOptions
) -> None:
    """Plain peft code on a plain CLIP: the same trainable set, and with the same weights the same output."""
    adapted = trained(options)
    layers = {
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "out": "self_attn.out_proj",
    }
    kinds = [layers[t] for t in options.targets if t != "mlp"]
    kinds += ["mlp.fc1", "mlp.fc2"] if "mlp" in options.targets else []
    plain = get_peft_model(
        CLIPModel.from_pretrained(tiny_clip_dir),
        LoraConfig(
            r=options.rank,
            lora_alpha=options.alpha or 2 * options.rank,
            target_modules=[f"{BLOCK}.{i}.{kind}" for i in range(options.frozen_blocks, 2) for kind in kinds],
            modules_to_save=["visual_projection"] if options.train_projection else None,
            use_rslora=options.name == "rslora",
            use_dora=options.name == "dora",
        ),
    )
    trainable = {n.removeprefix("base_model.model.") for n, p in plain.named_parameters() if p.requires_grad}
    assert trainable == {n for n, _ in adapted.parameters() if not n.startswith("head.")}
    set_peft_model_state_dict(plain, get_peft_model_state_dict(adapted.peft))
    assert torch.equal(embedding(plain.base_model.model), embedding(adapted.clip.model))


def test_dropout_acts_in_training_alone(tiny_clip: Clip, make_deck: Callable[..., Deck]) -> None:
    """Measuring a model in training mode would scatter."""
    adapted = adapt(tiny_clip, Lora(name="lora", dropout=0.5), classes=3, seed=0)
    train_a_little(adapted, make_deck(12, classes=3))
    model = adapted.clip.model
    with torch.no_grad():
        assert torch.equal(*(model.get_image_features(images()).pooler_output for _ in range(2)))
        adapted.train()
        assert not torch.equal(*(model.get_image_features(images()).pooler_output for _ in range(2)))


# --- what is saved


def plain_load(folder: Path, base: Path, options: Method) -> CLIPModel:
    """As a user without clipdrift loads it; nothing may be missing or left over."""
    if (folder / "config.json").is_file():
        model, report = CLIPModel.from_pretrained(folder, output_loading_info=True)
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        return model
    model = CLIPModel.from_pretrained(base)
    assert (folder / "adapter_config.json").is_file() == isinstance(options, LoraOptions)
    if isinstance(options, LoraOptions):
        model = PeftModel.from_pretrained(
            model, folder
        ).base_model.model  # warns, and so fails, if keys are missing
    return model


@every_method
def test_plain_transformers_and_peft_load_what_was_saved(
    tiny_clip_dir: Path, tmp_path: Path, trained: Callable[[Method], Adapted], options: Method
) -> None:
    """The ecosystem's own loaders give the very model that was measured."""
    adapted = trained(options)
    adapted.save(tmp_path / "out")
    model = plain_load(tmp_path / "out", tiny_clip_dir, options)
    assert torch.equal(embedding(model), embedding(adapted.clip.model))
    head = load_file(tmp_path / "out/head.safetensors")
    assert torch.equal(head["weight"], adapted.head.weight)
    assert torch.equal(head["bias"], adapted.head.bias)


@every_method
def test_clipdrift_loads_what_was_saved(
    tiny_clip_dir: Path, tmp_path: Path, trained: Callable[[Method], Adapted], options: Method
) -> None:
    """Our loader gives the same, with the head."""
    adapted = trained(options)
    adapted.save(tmp_path / "out")
    clip = load_adapted(tmp_path / "out", ModelConfig(name="tiny", path=str(tiny_clip_dir)))
    assert torch.equal(embedding(clip.model), embedding(adapted.clip.model))
    assert clip.preprocess == adapted.clip.preprocess
    head = load_head(tmp_path / "out")
    assert isinstance(head, nn.Linear)
    assert torch.equal(head.weight, adapted.head.weight)


def test_a_saved_full_model_is_a_model_of_ours(tmp_path: Path, trained: Callable[[Method], Adapted]) -> None:
    """With its tokenizer and preprocessing beside it, a tuned model is loaded as any other."""
    adapted = trained(EVERY[0])
    adapted.save(tmp_path / "out")
    again = load(tmp_path / "out")
    assert again.preprocess == adapted.clip.preprocess
    assert again.tokenizer("red circles").input_ids == adapted.clip.tokenizer("red circles").input_ids


def test_an_adapter_for_another_layout_is_refused(
    tiny_clip_dir: Path, tmp_path: Path, trained: Callable[[Method], Adapted]
) -> None:
    """Weights that find no place would be left out with a warning, and the backbone measured instead."""
    trained(FROZEN_PROJECTION).save(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({k.replace("layers.1.", "layers.9."): v for k, v in weights.items()}, file)
    with pytest.raises(ModelError, match="4 of 8 adapter weights find no place"):
        load_adapted(tmp_path, ModelConfig(name="tiny", path=str(tiny_clip_dir)))


def test_an_adapter_with_weights_missing_is_refused(
    tiny_clip_dir: Path, tmp_path: Path, trained: Callable[[Method], Adapted]
) -> None:
    """Half an adapter would be filled up with one that does nothing."""
    trained(DEFAULT_LORA).save(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({k: v for k, v in weights.items() if "layers.1." not in k}, file)
    with pytest.raises(ModelError, match="4 of 9 adapter weights are missing"):
        load_adapted(tmp_path, ModelConfig(name="tiny", path=str(tiny_clip_dir)))


# --- snapshots


@every_method
def test_a_snapshot_comes_back(
    trained: Callable[[Method], Adapted], make_deck: Callable[..., Deck], options: Method
) -> None:
    """The best epoch is put back bit for bit, and later training does not reach into the copy."""
    adapted = trained(options)
    kept, before = adapted.snapshot(), embedding(adapted.clip.model)
    logits = adapted.head(before)
    train_a_little(adapted, make_deck(12, classes=3, seed=4))
    assert not torch.equal(embedding(adapted.clip.model), before) or options.name == "linear_probe"
    assert not torch.equal(adapted.head(before), logits) or adapted.objective != CrossEntropy()
    adapted.restore(kept)
    assert torch.equal(embedding(adapted.clip.model), before)
    assert torch.equal(adapted.head(before), logits)
    assert all(p.requires_grad for _, p in adapted.parameters())


def test_a_foreign_snapshot_is_refused(tiny_clip_dir: Path) -> None:
    """Half a snapshot would leave a mixture of two models."""
    lora, probe = (adapt(load(tiny_clip_dir), o, classes=3, seed=0) for o in (DEFAULT_LORA, EVERY[1]))
    with pytest.raises(ValueError, match="snapshot does not fit"):
        lora.restore(probe.snapshot())
    with pytest.raises(ValueError, match="snapshot does not fit"):
        probe.restore(lora.snapshot())
