"""Penalties on the text tower against transformers' eager attention, one caption at a time, in value and
gradient; that they hold what they are asked to hold, and that a batch in parts is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pair_runs import config_for, write_captions
from test_pair_loss import adapted_on, captions_of, gradients, several
from torch import Tensor
from torch.nn.functional import log_softmax, normalize
from transformers import CLIPModel

from clipdrift.adapt import Adapted, FixedTexts, Setting, build
from clipdrift.adapt.pairs import PairLoss
from clipdrift.adapt.reference import BackboneBatch, Reference
from clipdrift.adapt.text_penalties import TextReference
from clipdrift.config import ConfigError, OptimConfig, Penalty, RunConfig, parse_config
from clipdrift.data.deck import Deck
from clipdrift.data.errors import DataError
from clipdrift.measures import read_texts
from clipdrift.model.clip import Clip, load
from clipdrift.model.text_trace import TracedCaptions, trace_captions, trace_texts
from clipdrift.model.towers import text_tower_of
from clipdrift.model.trace import trace
from clipdrift.training.compared_texts import compared_texts
from clipdrift.training.loop import train_model
from clipdrift.training.preparation import resolve
from clipdrift.training.runner import run
from small_runs import CLASSES as CLASSES_OF
from small_runs import Lab, write_folder

MakeDeck = Callable[..., Deck]
TEXTS = ("a red circle", "two blue squares and a green one", "dog", "", "a photo of a large green circle")
CLASSES = ("a circle", "a square", "a dog")


def penalties(*asked: Any) -> tuple[Penalty, ...]:
    data = {"penalty": list(asked), "objective": {"name": "contrastive"}}
    return parse_config(data, RunConfig).penalty


def setting_of(adapted: Adapted, texts: tuple[str, ...] = TEXTS) -> Setting:
    """As a run makes it; before training only."""
    clip = adapted.clip
    features = normalize(clip.texts(CLASSES).float(), dim=-1)
    floors = read_texts(clip, texts).blocks("text_normalised_entropy").tolist()
    return Setting(adapted, (2.5, 2.5), features, FixedTexts(CLASSES, features), floors)


def shake(adapted: Adapted, size: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in adapted.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)  # type: ignore[misc]


def seen_by(clip: Clip, texts: tuple[str, ...] = TEXTS) -> TracedCaptions:
    tower = text_tower_of(clip.model)
    return trace_captions(tower, tower.prompts(clip.tokenizer, texts), rows=True)


# --- plain code


def plain(model: CLIPModel, tokenizer: Any, text: str) -> tuple[Tensor, Tensor, Tensor]:
    """Attention over words (L, H, n), renormalised; states (L, D); embedding (E): one text, not filled up."""
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    out = model.text_model(input_ids=ids, output_attentions=True, output_hidden_states=True)
    words = torch.stack(out.attentions)[:, 0, :, -1, 1:-1]
    states = torch.stack(out.hidden_states)[1:, 0, -1]
    return words / words.sum(-1, keepdim=True), states, model.text_projection(out.pooler_output)[0]


def plain_value(one: Any, now: CLIPModel, before: CLIPModel, tokenizer: Any, floors: list[float]) -> Tensor:
    total = torch.zeros(())
    blocks = [b - 1 for b in dict(one).get("blocks") or (1, 2)]
    for text in TEXTS:
        a, states, embedding = plain(now, tokenizer, text)
        with torch.no_grad():
            a0, states0, embedding0 = plain(before, tokenizer, text)
        if one.name == "ldifs":
            total = (
                total + (states - states0)[blocks].square().sum() + (embedding - embedding0).square().sum()
            )
        elif a.shape[-1] < 2:
            continue
        elif one.name == "apr":
            total = total + (a * (a / a0).log()).sum(-1)[blocks].mean()
        else:
            for block in blocks:
                floor = one.ratio * floors[block] * np.log(a.shape[-1])
                entropy = -(a[block] * a[block].log()).sum(-1)
                total = total + (floor - entropy).clamp_min(0).mean()
    return total / len(TEXTS)


def eager(folder: Path, like: CLIPModel | None = None) -> CLIPModel:
    model = CLIPModel.from_pretrained(folder, attn_implementation="eager").eval()
    if like is not None:
        model.load_state_dict(like.state_dict())
    return model


@pytest.mark.parametrize("asked", [
    {"name": "apr", "weight": 1.0},
    {"name": "apr", "weight": 3.0, "blocks": [2]},
    {"name": "entropy_floor", "weight": 1.0, "ratio": 1.05},
    {"name": "entropy_floor", "weight": 2.0, "ratio": 1.2, "blocks": [1]},
    {"name": "ldifs", "weight": 1.0},
    {"name": "ldifs", "weight": 0.5, "blocks": [1]},
], ids=str)  # fmt: skip
def test_value_and_gradient_by_plain_code(tiny_clip_dir: Path, asked: dict[str, Any]) -> None:
    """On a model that has moved; captions of all lengths together, two of them without words to compare."""
    adapted = adapted_on(load(tiny_clip_dir), several(4), towers="text")
    (one,) = penalties(asked)
    setting = setting_of(adapted)
    terms = build([one], setting)
    assert not terms.terms
    reference = TextReference(adapted)
    shake(adapted)
    tower = text_tower_of(adapted.clip.model)
    backbone = reference.of(tower.prompts(adapted.clip.tokenizer, TEXTS), rows=True)
    found = terms.of_texts(seen_by(adapted.clip), backbone)
    now = eager(tiny_clip_dir, adapted.clip.model)
    expected = one.weight * plain_value(
        one, now, eager(tiny_clip_dir), adapted.clip.tokenizer, list(setting.text_entropies)
    )
    assert expected.item() > 1e-3
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    found.backward()
    expected.backward()
    plainly = dict(now.named_parameters())
    touched = 0
    for name, parameter in adapted.parameters():
        other = plainly[name].grad
        if other is not None and other.abs().max() > 1e-6:
            touched += 1
            torch.testing.assert_close(parameter.grad, other, rtol=2e-3, atol=1e-5, msg=name)
    assert touched > 5


@pytest.mark.parametrize("towers", ["text", "both", "image"])
def test_zero_shot_kl_by_plain_code(tiny_clip_dir: Path, make_deck: MakeDeck, towers: str) -> None:
    """Which side is live: what is not held is the backbone's in both distributions."""
    adapted = adapted_on(load(tiny_clip_dir), several(4))
    deck = make_deck(5)
    images = deck.images(slice(None))
    (one,) = penalties({"name": "zero_shot_kl", "towers": towers, "weight": 2.0})
    terms = build([one], setting_of(adapted))
    reference = Reference(adapted, deck, terms.wants)
    scale = adapted.clip.model.logit_scale.detach().exp()
    shake(adapted)
    terms(trace(adapted.clip.model, images), 1, reference.of(np.arange(5), np.zeros(5, bool))).backward()
    value = terms(trace(adapted.clip.model, images), 1, reference.of(np.arange(5), np.zeros(5, bool)))
    now, before = eager(tiny_clip_dir, adapted.clip.model), eager(tiny_clip_dir)

    def shares(image: CLIPModel, text: CLIPModel) -> Tensor:
        tokens = adapted.clip.tokenizer(list(CLASSES), padding=True, return_tensors="pt")
        left = image.get_image_features(pixel_values=images).pooler_output
        right = text.get_text_features(**tokens).pooler_output
        return log_softmax(scale * normalize(left, dim=-1) @ normalize(right, dim=-1).T, dim=-1)

    with torch.no_grad():
        old = shares(before, before)
    new = shares(now if towers != "text" else before, now if towers != "image" else before)
    expected = 2.0 * (old.exp() * (old - new)).sum(-1).mean()
    assert expected.item() > 1e-4
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    expected.backward()
    plainly = dict(now.named_parameters())
    live = {name.split("_")[0] for name, p in adapted.parameters() if p.grad is not None}
    assert (
        live
        == {"text": {"text"}, "image": {"vision", "visual"}, "both": {"text", "vision", "visual"}}[towers]
    )
    for name, parameter in adapted.parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(
                parameter.grad, plainly[name].grad, rtol=5e-3, atol=1e-4 * value.item(), msg=name
            )


# --- the pass


def test_captions_of_any_lengths_as_one_by_one(tiny_clip: Clip) -> None:
    """Filling up changes nothing; words are where the measures have them."""
    tower = text_tower_of(tiny_clip.model)
    prompts = tower.prompts(tiny_clip.tokenizer, TEXTS)
    with torch.no_grad():
        together = seen_by(tiny_clip)
        assert together.rows is not None
        for number, prompt in enumerate(prompts):
            alone = trace_texts(tower, torch.tensor([prompt.ids]))
            size = len(prompt.ids)
            torch.testing.assert_close(together.embedding[number], alone.embedding[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(together.states[:, number], alone.states[:, 0], rtol=1e-4, atol=1e-5)
            rows = together.rows[:, number]
            torch.testing.assert_close(rows[..., :size], alone.rows[:, 0], rtol=1e-4, atol=1e-6)
            assert not rows[..., size:].any()
            marked = torch.zeros(together.words.shape[1], dtype=torch.bool)
            marked[prompt.span] = True
            assert torch.equal(together.words[number], marked)


@pytest.mark.parametrize("method", ["full_ft", {"name": "lora", "dropout": 0.3}], ids=str)
def test_nothing_at_the_start(tiny_clip: Clip, method: Any) -> None:
    """The adapted model is its backbone then, adapters and dropout or not."""
    adapted = adapted_on(tiny_clip, several(4), method=method)
    asked = [{"name": n, "towers": "both"} for n in ("apr", "ldifs", "zero_shot_kl", "l2_sp")]
    terms = build(
        penalties(*asked, {"name": "entropy_floor", "towers": "both", "ratio": 0.01}), setting_of(adapted)
    )
    assert len(terms.on_texts) == 3
    reference = TextReference(adapted)
    backbone = reference.of(text_tower_of(tiny_clip.model).prompts(tiny_clip.tokenizer, TEXTS), rows=True)
    assert terms.of_texts(seen_by(tiny_clip), backbone).item() == pytest.approx(0, abs=1e-6)


def test_the_backbone_stays_what_it_was(tiny_clip_dir: Path) -> None:
    """Through training, whether it is a copy or the live model without its adapters."""
    fresh = load(tiny_clip_dir)
    for method in ("full_ft", "lora"):
        adapted = adapted_on(load(tiny_clip_dir), several(4), method=method)
        reference = TextReference(adapted)
        shake(adapted)
        adapted.train()
        prompts = text_tower_of(fresh.model).prompts(fresh.tokenizer, TEXTS)
        found = reference.of(prompts, rows=False)
        torch.testing.assert_close(found.embedding, seen_by(fresh).embedding.detach(), rtol=1e-4, atol=1e-5)
        assert not found.embedding.requires_grad
        assert adapted.clip.model.training


# --- training


def moved(folder: Path, deck: Deck, name: str, weight: float) -> float:
    """What a penalty on the text tower is about, after a short training with it."""
    adapted = adapted_on(load(folder), several(12))
    loss = adapted.objective
    assert isinstance(loss, PairLoss)
    floor = {"ratio": 1.0} if name == "entropy_floor" else {}
    asked = penalties({"name": name, "towers": "text", "weight": weight, **floor})
    terms = build(asked, setting_of(adapted))
    optim = OptimConfig(learning_rate=3e-3, epochs=4, batch_size=6, warmup=0)
    torch.manual_seed(0)
    for _ in train_model(
        adapted, deck, optim, seed=0, targets=lambda epoch: loss.targets(0, epoch), penalties=terms
    ):
        pass
    adapted.eval()
    fresh = load(folder)
    with torch.no_grad():
        if terms.on_texts:
            (term,) = (term for _, term in terms.on_texts)
            return term(seen_by(adapted.clip), seen_by(fresh)).item()
        ((_, whole),) = terms.terms
        seen = trace(fresh.model, deck.images(slice(None)))
        return whole(seen, 1, BackboneBatch(None, None, seen.embedding)).item()


@pytest.mark.parametrize("name", ["apr", "entropy_floor", "ldifs", "l2_sp", "zero_shot_kl"])
def test_what_is_held_moves_less(tiny_clip_dir: Path, make_deck: MakeDeck, name: str) -> None:
    """Than by the same training with the penalty next to nothing."""
    deck = make_deck(12, signal=60)
    free, held = (moved(tiny_clip_dir, deck, name, weight) for weight in (1e-9, 30.0))
    assert held < (0.9 if name == "entropy_floor" else 0.5) * free  # a few steps lift no entropy to its mean


@pytest.mark.parametrize("options", [
    {"penalty": ({"name": "apr", "towers": "both"}, {"name": "ldifs", "towers": "text"})},
    {"penalty": ({"name": "entropy_floor", "towers": "both", "ratio": 1.1},), "towers": "both"},
    {"penalty": ({"name": "zero_shot_kl", "towers": "both"},)},
    {"penalty": ({"name": "ldifs"}, {"name": "zero_shot_kl"}), "towers": "text"},
], ids=str)  # fmt: skip
def test_a_batch_in_parts_has_the_gradient_of_the_batch(
    tiny_clip_dir: Path, make_deck: MakeDeck, options: dict[str, Any]
) -> None:
    """Captions without words to compare among them."""
    words = [(f"a thing {n}", "dog") if n % 3 else ("dog",) for n in range(14)]
    deck, captions = make_deck(14, signal=60), captions_of(*words)
    asked = penalties(*options.pop("penalty"))
    whole, loss = gradients(tiny_clip_dir, deck, captions, None, setting=setting_of, asked=asked, **options)
    parts, again = gradients(tiny_clip_dir, deck, captions, 3, setting=setting_of, asked=asked, **options)
    assert again == pytest.approx(loss, rel=1e-5)
    assert whole.keys() == parts.keys()
    first = [name for name in whole if name.startswith("1 ")]
    largest = max(float(np.abs(whole[name]).max()) for name in first)
    for name in first:
        assert np.allclose(whole[name], parts[name], rtol=1e-3, atol=2e-6 * largest), name


# --- what does not go together


@pytest.mark.parametrize(("asked", "objective", "message"), [
    ({"name": "apr", "towers": "image"}, {"towers": "text"},
     "penalty apr with objective.towers = 'text': it would hold the image tower, which does not move"),
    ({"name": "ldifs", "towers": "both"}, {"towers": "image"}, "hold the text tower, which does not move"),
    ({"name": "l2_sp", "towers": "text"}, {"towers": "image"}, "hold the text tower, which does not move"),
    ({"name": "zero_shot_kl", "over": {"name": "x", "retrieval": True, "classes": ["a", "b"]}}, {},
     "leave out over.classes"),
    ({"name": "zero_shot_kl", "over": "cifar100", "captions": 7}, {}, "classes are all taken"),
])  # fmt: skip
def test_refused_with_the_reason(asked: dict[str, Any], objective: dict[str, Any], message: str) -> None:
    data = {"penalty": asked, "objective": {"name": "contrastive", **objective}}
    with pytest.raises(ConfigError, match=message):
        parse_config(data, RunConfig)


def test_with_classes_the_text_tower_is_not_held() -> None:
    with pytest.raises(ConfigError, match=r"over captions .* with classes penalties hold the image tower"):
        parse_config({"penalty": {"name": "apr", "towers": "both"}}, RunConfig)


def test_blocks_beyond_the_text_tower_are_refused(tiny_clip: Clip) -> None:
    adapted = adapted_on(tiny_clip, several(4), towers="text")
    with pytest.raises(ConfigError, match="block 3; its text tower has 2, from 1"):
        build(penalties({"name": "apr", "blocks": [3]}), setting_of(adapted))


# --- runs


def test_what_a_penalty_is_taken_over(lab: Lab, captioned: Path, tmp_path: Path) -> None:
    """Captions of another set, of evenly spaced images; a list of classes; a known set's; a folder's."""
    other = write_captions(tmp_path / "other", 30)
    own = {"name": "mine", "classes": ["cat", "dog", "cat"], "prompts": ["one {}"]}
    folder = {"name": "kinds", "path": str(write_folder(tmp_path / "kinds"))}
    over: list[tuple[Any, int, set[str]]] = [
        ({"name": "other", "path": str(other), "retrieval": True}, 7, {"blue circle 0", "red circle 29"}),
        (own, 2, {"one cat", "one dog"}),
        ("cifar100", 100, {"a photo of a apple"}),
        (folder, len(CLASSES_OF), {f"a photo of a {name}" for name in CLASSES_OF}),
    ]
    for spec, count, some in over:
        asked = {"name": "zero_shot_kl", "over": spec} | ({"captions": 7} if count == 7 else {})
        texts = compared_texts(penalties(asked), 16)
        assert texts is not None
        assert len(texts) == count
        assert some <= set(texts)
    assert compared_texts(penalties("zero_shot_kl", "apr"), 16) is None
    with pytest.raises(DataError, match="mine: penalty zero_shot_kl needs 2 texts"):
        compared_texts(penalties({"name": "zero_shot_kl", "over": {"name": "mine", "classes": ["a"]}}), 16)


def test_a_run_refers_to_the_set_by_its_content(lab: Lab, captioned: Path, tmp_path: Path) -> None:
    """Two copies are one run; another set is another."""
    copies = [write_captions(tmp_path / name, count) for name, count in (("a", 9), ("b", 9), ("c", 12))]
    keys = []
    for path in copies:
        over = {"name": "ref", "path": str(path), "retrieval": True}
        config = config_for(lab.model, captioned, penalty=[{"name": "zero_shot_kl", "over": over}])
        keys.append(resolve(config).key)
    assert keys[0] == keys[1] != keys[2]


def test_a_run_holds_its_text_tower(lab: Lab, captioned: Path) -> None:
    """From configuration to record, by the measure of what the penalty is about."""
    drift = []
    for weight in (1e-6, 10.0):
        config = config_for(
            lab.model, captioned, penalty=[{"name": "ldifs", "towers": "both", "weight": weight}],
            optim={"learning_rate": 3e-3},
        )  # fmt: skip
        record, _ = run(config, lab.tmp(), cache=lab.cache, device="cpu")
        assert record.last is not None
        drift.append(
            [record.last.measures[name].mean for name in ("embedding_drift", "text_embedding_drift")]
        )
    assert all(held < 0.5 * free for free, held in zip(*drift, strict=True)), drift
