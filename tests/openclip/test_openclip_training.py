"""Training OpenCLIP's models: what each method trains, and that OpenCLIP loads what was saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openclip_models import CONFIG, PREPROCESSING, REASON, as_hugging_face, build, pixels
from safetensors.torch import save_file
from torch import Tensor

open_clip = pytest.importorskip("open_clip", reason=REASON, exc_type=ImportError)

from clipdrift.adapt import METHODS, Adapted, adapt, load_adapted  # noqa: E402
from clipdrift.adapt.feed import Feed  # noqa: E402
from clipdrift.config import Method, ModelConfig, OptimConfig, RunConfig, parse_config  # noqa: E402
from clipdrift.data.deck import Deck  # noqa: E402
from clipdrift.model.clip import Clip, load  # noqa: E402
from clipdrift.model.text_trace import trace_captions  # noqa: E402
from clipdrift.model.texts import TrainableTexts  # noqa: E402
from clipdrift.model.towers import text_tower_of  # noqa: E402
from clipdrift.model.weights import effective_weights, text_weights  # noqa: E402
from clipdrift.training.loop import train_model  # noqa: E402

TEXTS = ("a photo of a red circle", "a photo of a green square", "a photo of a blue hexagon")
BLOCK = "visual.transformer.resblocks"
HEAD = {"head.weight", "head.bias"}
STEM = ("visual.class_embedding", "visual.positional_embedding", "visual.conv1.", "visual.ln_pre.")
PROJECTION = "visual.parametrizations.proj.0.modules_to_save.default.weight"
PLACES = {f"{letter}": (f"attn.{letter}_proj",) for letter in "qkv"} | {
    "out": ("attn.out_proj",),
    "mlp": ("mlp.c_fc", "mlp.c_proj"),
}


def method(name: str, **options: Any) -> Method:
    return parse_config({"method": {"name": name, **options}}, RunConfig).method


EVERY: list[Method] = [
    method("full_ft"),
    method("linear_probe"),
    method("lora"),
    method("lora", rank=3, targets=("q", "k", "v", "out", "mlp"), train_projection=False),
    method("rslora", rank=3),
    method("dora", rank=3, targets=("q", "mlp")),
    method("lora_plus", rank=3),
    method("projections"),
    method("last_blocks"),
    method("bias_only"),
    method("norm_only"),
    method("lp_ft"),
    method("flyp"),
]
LORAS = [options for options in EVERY if "rank" in dict(options)]


def named(options: Method) -> str:
    return options.name


@pytest.fixture(params=["CLIP", "CustomTextCLIP"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A random model of either class, as OpenCLIP pushes it to the hub."""
    place = tmp_path / "saved"
    place.mkdir()
    config = CONFIG | ({"custom_text": True} if request.param == "CustomTextCLIP" else {})
    content = {"model_cfg": config, "preprocess_cfg": PREPROCESSING}
    (place / "open_clip_config.json").write_text(json.dumps(content))
    save_file(build(request.param).state_dict(), place / "open_clip_model.safetensors")
    return place


@pytest.fixture
def clip(saved: Path) -> Clip:
    return load(saved)


def expected(names: list[str], options: Method) -> set[str]:
    """What a method trains, from OpenCLIP's own names; written apart from the code."""
    asked: dict[str, Any] = dict(options)
    tower = {name for name in names if name.startswith("visual.")}
    if "rank" in asked:
        parts = ["lora_A.default.weight", "lora_B.default.weight"]
        parts += ["lora_magnitude_vector.default.weight"] if options.name == "dora" else []
        matrices = [place for target in asked["targets"] for place in PLACES[target]]
        found = {f"{BLOCK}.{i}.{matrix}.{part}" for i in range(2) for matrix in matrices for part in parts}
        return HEAD | found | ({PROJECTION} if asked["train_projection"] else set())
    if options.name == "linear_probe":
        return HEAD
    if options.name == "flyp":
        return set(names)
    kept = {
        "projections": lambda name: name == "visual.proj",
        "last_blocks": lambda name: not name.startswith((*STEM, f"{BLOCK}.0.")),
        "bias_only": lambda name: name.endswith("bias"),
        "norm_only": lambda name: ".ln_" in name,
    }.get(options.name, lambda name: True)
    return HEAD | {name for name in tower if kept(name)}


def train(adapted: Adapted, deck: Deck, **optim: Any) -> list[float]:
    losses: list[float] = []
    settings = OptimConfig(**{"learning_rate": 0.01, "epochs": 1, "batch_size": 4, **optim})
    torch.manual_seed(0)
    for _ in train_model(adapted, deck, settings, seed=0, on_step=lambda _, loss: losses.append(loss)):
        pass
    adapted.eval()
    return losses


def state_of(adapted: Adapted) -> dict[str, Tensor]:
    own = {name: weight.clone() for name, weight in adapted.clip.model.state_dict().items()}
    return own | {f"head.{name}": value.clone() for name, value in adapted.head.state_dict().items()}


@torch.no_grad()
def embedded(model: Any) -> Tensor:
    return model.eval().encode_image(pixels(5))


def test_every_method_of_the_table_is_tested() -> None:
    assert {options.name for options in EVERY} == METHODS.keys() - {"logit_scale"}


@pytest.mark.parametrize("options", EVERY, ids=named)
def test_training_moves_these_and_nothing_else(
    clip: Clip, make_deck: Callable[..., Deck], options: Method
) -> None:
    """By name, of both classes; what is not trained stays to the bit."""
    names = expected([name for name, _ in clip.model.named_parameters()], options)
    adapted = adapt(clip, options, classes=3, seed=0, texts=TEXTS)
    assert {name for name, _ in adapted.parameters()} == names
    assert adapted.trains_texts == (options.name == "flyp")
    before = state_of(adapted)
    train(adapted, make_deck(12, classes=3), epochs=2)
    moved = {name for name, value in state_of(adapted).items() if not torch.equal(value, before[name])}
    assert moved - ({"head.weight"} if options.name == "flyp" else set()) == names


@pytest.mark.parametrize("options", [o for o in EVERY if o.name != "linear_probe"], ids=named)
def test_openclip_loads_what_was_saved(
    clip: Clip, saved: Path, tmp_path: Path, make_deck: Callable[..., Deck], options: Method
) -> None:
    """By its own function from the folder, adapters merged; and clipdrift, on the backbone."""
    adapted = adapt(clip, options, classes=3, seed=0, texts=TEXTS)
    train(adapted, make_deck(12, classes=3))
    out = tmp_path / "out"
    adapted.save(out)
    now, words = embedded(adapted.clip.model), adapted.clip.texts(TEXTS)
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{out}")
    tolerance = 2e-5 if adapted.artefact == "adapter" else 2e-6  # torch has two paths of attention
    assert (embedded(theirs) - now).abs().max() < tolerance * now.abs().max()
    with torch.no_grad():
        own = theirs.encode_text(open_clip.get_tokenizer(f"local-dir:{out}")(list(TEXTS)))
    assert (own - words).abs().max() < tolerance * words.abs().max()
    assert list(preprocess.transforms[-1].mean) == PREPROCESSING["mean"]
    again = load_adapted(out, ModelConfig(name="saved", path=str(saved)))
    assert (embedded(again.model) - now).abs().max() < 2e-6 * now.abs().max()
    assert (again.texts(TEXTS) - words).abs().max() < 2e-6 * words.abs().max()
    for weights in (effective_weights, text_weights):
        own_weights, back = weights(adapted.clip.model), weights(again.model)
        assert own_weights.keys() == back.keys()
        assert all(torch.equal(back[name], weight) for name, weight in own_weights.items())
    assert again.preprocess == adapted.clip.preprocess
    assert (out / "adapter_config.json").is_file() == (adapted.artefact == "adapter")


@pytest.mark.parametrize("options", LORAS, ids=named)
def test_a_disabled_adapter_is_the_backbone(
    clip: Clip, saved: Path, make_deck: Callable[..., Deck], options: Method
) -> None:
    """All that differs are adapters and projection; effective weights are those of the merged model."""
    adapted = adapt(clip, options, classes=3, seed=0)
    train(adapted, make_deck(12, classes=3))
    now = embedded(adapted.clip.model)
    backbone = load(saved).model
    assert adapted.peft is not None
    with adapted.peft.disable_adapter():
        assert (embedded(adapted.clip.model) - embedded(backbone)).abs().max() < 1e-5
        at_rest = effective_weights(adapted.clip.model)
    assert (now - embedded(backbone)).abs().max() > 1e-3
    first = effective_weights(backbone)
    assert at_rest.keys() == first.keys()
    assert all(torch.equal(at_rest[name], weight) for name, weight in first.items())
    acting = effective_weights(adapted.clip.model)
    merged = effective_weights(adapted.peft.merge_and_unload())
    assert max((acting[name] - merged[name]).abs().max() for name in merged) < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        method("last_blocks"),
        method("projections"),
        method("full_ft", frozen_blocks=2, freeze_embeddings=True),
    ],
    ids=named,
)
def test_what_is_kept_of_frozen_blocks_changes_no_loss(
    saved: Path, make_deck: Callable[..., Deck], options: Method
) -> None:
    deck = make_deck(12, classes=3)
    losses = []
    for keep in (True, False):
        adapted = adapt(load(saved), options, classes=3, seed=0)
        assert (Feed.of(adapted, deck, flip=True, keep=keep).kept is None) == (not keep)
        losses.append(train(adapted, deck, keep_frozen=keep))
    assert np.allclose(losses[0], losses[1], atol=1e-5)


# --- the text tower


def test_the_text_tower_is_read_as_transformers_reads_it(saved: Path) -> None:
    """States, attention and embeddings of texts of several lengths, of the same weights in a CLIPModel."""
    clip = load(saved)
    model = clip.model
    same = build()
    same.load_state_dict({name.removeprefix("text."): w for name, w in model.state_dict().items()})
    plain = as_hugging_face(same)
    words = ["a cat", "two small red circles on a striped ground", "dog"]
    theirs = text_tower_of(plain)
    ours = text_tower_of(model)
    prompts = ours.prompts(clip.tokenizer, words)
    assert [prompt.length for prompt in prompts] == [2, 8, 1]
    with torch.no_grad():
        found, wanted = trace_captions(ours, prompts, True), trace_captions(theirs, prompts, True)
        assert torch.allclose(found.embedding, clip.texts(words), atol=1e-4)
    for name in ("embedding", "states", "rows"):
        assert torch.allclose(getattr(found, name), getattr(wanted, name), atol=1e-4), name
    ours_named, theirs_named = text_weights(model), text_weights(plain)
    assert ours_named.keys() == theirs_named.keys()
    assert all(torch.equal(ours_named[name], weight) for name, weight in theirs_named.items())


def test_texts_have_a_gradient_and_a_length(clip: Clip) -> None:
    encoder = clip.texts
    assert isinstance(encoder, TrainableTexts)
    assert encoder.embed(TEXTS).requires_grad
    assert encoder.longest == 16
    tokens = clip.tokenizer(["a cat"])[0]
    assert encoder.count_tokens(["a cat", "cat " * 40]) == [int(tokens.argmax()) + 1, 42]
