"""A head that begins as the class texts, against transformers' own zero-shot logits; how heads are saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_methods import CLASSES, TEXTS, images, method
from torch import Tensor, nn

from clipdrift.adapt import ZeroShotHead, adapt, load_head, zero_shot_head
from clipdrift.adapt.heads import save_head
from clipdrift.config import ConfigError, load_config
from clipdrift.data.deck import Deck
from clipdrift.measures import accuracy, zero_shot_accuracy
from clipdrift.model.clip import BrokenWeightsError, Clip, ModelError
from clipdrift.model.zero_shot import class_features

PROMPT = ("a photo of a {}",)
FILE = "head.safetensors"
METHODS = ("full_ft", "lora", "dora", "linear_probe", "projections", "last_blocks", "bias_only", "lp_ft")


@torch.no_grad()
def own_logits(clip: Clip) -> Tensor:
    """(n, C) by transformers' whole model, its texts tokenised by its own tokenizer."""
    tokens = clip.tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    tokens = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    logits: Tensor = clip.model.eval()(pixel_values=images(), **tokens).logits_per_image
    return logits


@torch.no_grad()
def head_logits(clip: Clip, head: nn.Module) -> Tensor:
    logits: Tensor = head(clip.model.eval().get_image_features(pixel_values=images()).pooler_output)
    return logits


@pytest.mark.parametrize("name", METHODS)
def test_before_the_first_step_its_logits_are_the_zero_shot_ones(tiny_clip: Clip, name: str) -> None:
    """By every method: transformers' logits_per_image, the logit scale within."""
    with torch.no_grad():
        tiny_clip.model.logit_scale.fill_(1.7)
    wanted = own_logits(tiny_clip)
    adapted = adapt(tiny_clip, method(name), 3, 0, TEXTS, zero_shot_head(tiny_clip, CLASSES, PROMPT))
    assert wanted.abs().max() > 0.5
    torch.testing.assert_close(head_logits(tiny_clip, adapted.head), wanted, rtol=1e-4, atol=1e-5)
    names = {name for name, _ in adapted.parameters()}
    assert {"head.zero_shot.weight", "head.zero_shot.bias"} <= names


def test_its_accuracy_is_the_zero_shot_classifiers(tiny_clip: Clip, make_deck: Callable[..., Deck]) -> None:
    """On a deck of images, by one prompt and by the ensemble of two."""
    deck = make_deck(40, classes=3, signal=60)
    for prompts in (PROMPT, ("a photo of a {}", "one {} on plain ground")):
        head = zero_shot_head(tiny_clip, CLASSES, prompts)
        features = class_features(tiny_clip, CLASSES, prompts)
        wanted = zero_shot_accuracy(tiny_clip.model, features, deck)
        assert accuracy(tiny_clip.model, head, deck) == wanted
        assert head.prompts == prompts


def test_the_length_of_an_embedding_says_nothing_to_it(tiny_clip: Clip) -> None:
    """It normalises; in bfloat16's autocast too, whose logits would be coarse."""
    head = zero_shot_head(tiny_clip, CLASSES, PROMPT)
    embedding = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(7 * embedding), head(embedding))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(embedding), head(embedding))
        assert head(embedding).dtype == torch.float32
    torch.testing.assert_close(head(embedding), head(embedding))


def test_a_zero_shot_head_does_not_go_with_flyp(tiny_clip: Clip) -> None:
    head = zero_shot_head(tiny_clip, CLASSES, PROMPT)
    with pytest.raises(ConfigError, match="method flyp: its head is the class texts"):
        adapt(tiny_clip, method("flyp"), 3, 0, TEXTS, head)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["method=flyp"], "method flyp: its head is the class texts"),
        (["objective=contrastive"], "captions have no classes, so there is no head"),
        (["objective=contrastive", "method=logit_scale"], "captions have no classes"),
    ],
)
def test_where_it_means_nothing_it_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(None, ["head=zero_shot", *overrides])
    assert "\n" not in str(caught.value)


def test_a_linear_head_is_written_as_ever() -> None:
    """Older configurations have no such key: one that is at its default writes none, so cells stay cells."""
    plain, other = load_config(None, ["head=linear"]), load_config(None, ["head=zero_shot"])
    assert "head" not in plain.model_dump(mode="json")
    assert other.model_dump(mode="json")["head"] == "zero_shot"
    assert type(other).model_validate_json(other.model_dump_json()).key == other.key != plain.key


def test_a_saved_head_says_itself_what_it_is(tiny_clip: Clip, tmp_path: Path) -> None:
    """By the names of its tensors, beside which its classes and prompts stand."""
    head = zero_shot_head(tiny_clip, CLASSES, PROMPT)
    with torch.no_grad():
        head.zero_shot.bias.add_(torch.arange(3.0))
    save_head(head, tmp_path)
    back = load_head(tmp_path)
    assert isinstance(back, ZeroShotHead)
    assert (back.classes, back.prompts) == (CLASSES, PROMPT)
    assert torch.equal(head_logits(tiny_clip, back), head_logits(tiny_clip, head))
    save_file(load_file(tmp_path / FILE), tmp_path / FILE)  # as another tool writes it again: without words
    bare = load_head(tmp_path)
    assert isinstance(bare, ZeroShotHead)
    assert (bare.classes, bare.prompts) == ((), ())
    assert torch.equal(head_logits(tiny_clip, bare), head_logits(tiny_clip, head))


def test_an_older_head_is_linear(tmp_path: Path) -> None:
    """A file of weight and bias and nothing else, as every version has written it."""
    head = nn.Linear(24, 3)
    save_file(dict(head.state_dict()), tmp_path / FILE)
    before = (tmp_path / FILE).read_bytes()
    back = load_head(tmp_path)
    assert isinstance(back, nn.Linear)
    assert torch.equal(back.weight, head.weight)
    save_head(head, tmp_path)
    assert (tmp_path / FILE).read_bytes() == before


WEIGHTS = {"weight": torch.ones(3, 4), "bias": torch.zeros(3)}
OURS = {f"zero_shot.{name}": value for name, value in WEIGHTS.items()}


@pytest.mark.parametrize(
    ("state", "about", "said"),
    [
        (WEIGHTS, {"head": "zero_shot"}, "says head = 'zero_shot' and holds bias, weight"),
        (OURS, {"head": "linear"}, "says head = 'linear' and holds zero_shot.bias"),
        (WEIGHTS | OURS, {}, "its tensors are bias, weight, zero_shot"),
        ({"bias": WEIGHTS["bias"]}, {}, "its tensors are bias"),
        (OURS, {"classes": json.dumps(["one"])}, "3 classes in it, 1 named"),
        (OURS, {"classes": "red, green"}, "cannot be read"),
        (OURS | {"zero_shot.bias": torch.zeros(4)}, {}, "cannot be read"),
    ],
)
def test_a_head_cannot_be_taken_for_another(
    tmp_path: Path, state: dict[str, Tensor], about: dict[str, str], said: str
) -> None:
    save_file({name: value.clone() for name, value in state.items()}, tmp_path / FILE, metadata=about or None)
    with pytest.raises(ModelError, match=said) as caught:
        load_head(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_head_with_nan_is_refused(tmp_path: Path) -> None:
    save_file({**OURS, "zero_shot.bias": torch.full((3,), torch.nan)}, tmp_path / FILE)
    with pytest.raises(BrokenWeightsError, match=r"zero_shot\.bias"):
        load_head(tmp_path)


def test_a_model_without_a_logit_scale_has_no_such_head(tiny_clip: Clip) -> None:
    model: Any = tiny_clip.model
    del model.logit_scale
    with pytest.raises(ModelError, match="no logit scale"):
        zero_shot_head(tiny_clip, CLASSES, PROMPT)
