"""What makes each method itself, against plain code: variants of LoRA, the head first, the class texts."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from scipy.special import log_softmax
from tiny_methods import (
    BLOCK,
    CLASSES,
    TEXTS,
    adapted_by,
    embedding,
    expected_names,
    images,
    method,
    train_briefly,
    whole_state,
)
from torch import Tensor
from transformers import CLIPModel

from clipdrift.adapt import Adapted, adapt, check_method
from clipdrift.adapt.objective import CrossEntropy
from clipdrift.config import ConfigError, Method
from clipdrift.data.deck import Deck
from clipdrift.model.clip import Clip, load
from clipdrift.model.zero_shot import class_features, predict

FULL = [method("full_ft"), method("lp_ft"), method("flyp")]


def moved(adapted: Adapted, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in whole_state(adapted).items() if not torch.equal(value, before[name])}


# --- what two steps move


@pytest.mark.parametrize(
    "options",
    [
        method("full_ft", freeze_embeddings=True),
        method("full_ft", frozen_blocks=1, freeze_embeddings=True),
        method("lora", frozen_blocks=1, train_projection=False),
        method("rslora", targets=("mlp",)),
        method("lora_plus", targets=("out", "k")),
        method("bias_only", frozen_blocks=2, freeze_embeddings=True),
        method("norm_only", frozen_blocks=2, freeze_embeddings=True),
        method("norm_only", frozen_blocks=2),
        method("lp_ft", frozen_blocks=1),
        method("flyp", frozen_blocks=1, freeze_embeddings=True),
        method("flyp", train_texts=False),
    ],
    ids=str,
)
def test_two_steps_move_exactly_what_is_trained(
    tiny_clip: Clip, make_deck: Callable[..., Deck], options: Method
) -> None:
    """Of the whole CLIP and the head; all else stays bit for bit, text tower and logit scale among it."""
    expected = expected_names(tiny_clip, options)
    adapted = adapted_by(tiny_clip, options)
    assert {name for name, _ in adapted.parameters()} == expected
    before = whole_state(adapted)
    assert len(train_briefly(adapted, make_deck(8, classes=3))) == 2
    assert moved(adapted, before) == expected | ({"head.weight"} if adapted.trains_texts else set())


def test_last_blocks_by_hand(tiny_clip: Clip) -> None:
    """One block of two: sixteen of its weights, the final layer norm, the projection, the head."""
    names = {name for name, _ in adapted_by(tiny_clip, method("last_blocks")).parameters()}
    rest = names - {n for n in names if n.startswith(f"{BLOCK}.1.")}
    assert len(names) - len(rest) == 16
    norm = {f"vision_model.post_layernorm.{part}" for part in ("weight", "bias")}
    assert rest == norm | {"visual_projection.weight", "head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (method("full_ft", frozen_blocks=3), r"method\.frozen_blocks = 3: .* has 2 blocks; legal: 0 to 2"),
        (method("lora", frozen_blocks=2), r"method\.frozen_blocks = 2: .* has 2 blocks; legal: 0 to 1"),
        (method("dora", frozen_blocks=2), r"method\.frozen_blocks = 2: .* legal: 0 to 1"),
        (method("last_blocks", blocks=3), r"method\.blocks = 3: .* has 2 blocks; legal: 1 to 2"),
        (method("flyp", frozen_blocks=3), r"method\.frozen_blocks = 3: "),
    ],
    ids=str,
)
def test_more_blocks_than_there_are(tiny_clip: Clip, options: Method, message: str) -> None:
    """Refused before anything is changed, with what is legal; one less is taken."""
    for refuse in (lambda: check_method(tiny_clip, options), lambda: adapted_by(tiny_clip, options)):
        with pytest.raises(ConfigError, match=message):
            refuse()
    key = "blocks" if options.name == "last_blocks" else "frozen_blocks"
    check_method(tiny_clip, options.model_copy(update={key: dict(options)[key] - 1}))


# --- variants of LoRA


def acting(adapted: Adapted, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Base weight, A, B and the weight as it acts of the first block's queries, after some random change."""
    layer = adapted.clip.model.get_submodule(name)
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_(0, 0.2)
    a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
    width = layer.in_features
    with torch.no_grad():
        acts = (layer(torch.eye(width)) - layer(torch.zeros(1, width))).T
    return layer.get_base_layer().weight.detach(), a, b, acts


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        (method("lora", rank=4), 2.0),
        (method("lora", rank=4, alpha=6), 1.5),
        (method("lora_plus", rank=4), 2.0),
        (method("rslora", rank=4), 4.0),
        (method("rslora", rank=9, alpha=6), 2.0),
    ],
    ids=str,
)
def test_the_scale_of_the_update(tiny_clip: Clip, options: Method, scale: float) -> None:
    """alpha/r, and alpha/sqrt(r) for rslora, with alpha twice the rank unless given."""
    adapted = adapted_by(tiny_clip, options)
    adapted.eval()
    base, a, b, acts = acting(adapted, f"{BLOCK}.0.self_attn.q_proj")
    assert (acts - (base + scale * b @ a)).abs().max() < 1e-5


def test_dora_by_hand(tiny_clip: Clip) -> None:
    """m (W + 2 B A) / |W + 2 B A|, norms over the inputs of each output, m at first |W|."""
    adapted = adapted_by(tiny_clip, method("dora", rank=4))
    adapted.eval()
    base, a, b, acts = acting(adapted, f"{BLOCK}.0.self_attn.q_proj")
    w, delta = base.double().numpy(), (2 * b @ a).double().numpy()
    length = np.linalg.norm(w, axis=1, keepdims=True)
    expected = length * (w + delta) / np.linalg.norm(w + delta, axis=1, keepdims=True)
    assert np.abs(acts.numpy() - expected).max() < 1e-5
    assert np.abs(acts.numpy() - w - delta).max() > 0.05


def first_change(clip: Clip, deck: Deck, options: Method) -> dict[str, Tensor]:
    adapted = adapted_by(clip, options)
    for name, parameter in adapted.parameters():  # with B at zero, A has no gradient
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    before = whole_state(adapted)
    train_briefly(adapted, deck, batch_size=len(deck), learning_rate=1e-4, weight_decay=0)
    return {n: v - before[n] for n, v in whole_state(adapted).items() if not torch.equal(v, before[n])}


@pytest.mark.parametrize("ratio", [1.0, 16.0])
def test_lora_plus_moves_b_faster(tiny_clip_dir: Path, make_deck: Callable[..., Deck], ratio: float) -> None:
    """Adam's first step is the rate of a parameter: of B so many times that of A, projection and head."""
    deck = make_deck(8, classes=3)
    change = first_change(load(tiny_clip_dir), deck, method("lora_plus", rate_ratio=ratio, dropout=0))
    size = {name: value.abs().median().item() for name, value in change.items()}
    assert sum(".lora_B." in name for name in size) == 4
    for name, value in size.items():
        assert value == pytest.approx(1e-4 * (ratio if ".lora_B." in name else 1), rel=0.02), name
    if ratio == 1:
        plain = first_change(load(tiny_clip_dir), deck, method("lora", dropout=0))
        assert plain.keys() == change.keys()
        assert max((plain[name] - change[name]).abs().max() for name in plain) < 1e-8


def test_variants_are_not_lora(tiny_clip_dir: Path, make_deck: Callable[..., Deck]) -> None:
    """Positive control: with the same seed each variant ends elsewhere than lora."""
    ends = []
    for name in ("lora", "rslora", "dora", "lora_plus"):
        adapted = adapted_by(load(tiny_clip_dir), method(name, dropout=0))
        train_briefly(adapted, make_deck(8, classes=3), epochs=2)
        ends.append(embedding(adapted.clip.model))
    assert min((ends[i] - ends[j]).abs().max() for i in range(4) for j in range(i)) > 1e-3


# --- the head first


def test_lp_ft_trains_the_head_before_the_tower(tiny_clip: Clip, make_deck: Callable[..., Deck]) -> None:
    """While the head is trained alone the tower stays bit for bit; then all moves, from that head."""
    options = method("lp_ft", probe_epochs=3, probe_learning_rate=0.02)
    adapted = adapted_by(tiny_clip, options)
    assert adapted.head_warmup == (3, 0.02)
    start, trained = whole_state(adapted), {name for name, _ in adapted.parameters()}
    deck = make_deck(8, classes=3, signal=60)
    with adapted.head_alone():
        assert {name for name, _ in adapted.parameters()} == {"head.weight", "head.bias"}
        losses = train_briefly(adapted, deck, epochs=3, learning_rate=0.02)
    assert losses[-1] < losses[0]
    assert moved(adapted, start) == {"head.weight", "head.bias"}
    assert all(p.grad is None for name, p in adapted.parameters() if not name.startswith("head."))
    probed = whole_state(adapted)
    assert {name for name, _ in adapted.parameters()} == trained
    train_briefly(adapted, deck)
    assert moved(adapted, probed) == trained


def test_the_head_alone_is_a_linear_probe(tiny_clip_dir: Path, make_deck: Callable[..., Deck]) -> None:
    """The same weights as method linear_probe gives with the same rate and seed."""
    deck = make_deck(8, classes=3)
    probe, first = (adapted_by(load(tiny_clip_dir), method(name)) for name in ("linear_probe", "lp_ft"))
    train_briefly(probe, deck)
    with first.head_alone():
        train_briefly(first, deck)
    assert torch.equal(probe.head.weight, first.head.weight)
    assert torch.equal(probe.head.bias, first.head.bias)


def test_only_lp_ft_trains_the_head_first(tiny_clip: Clip) -> None:
    """And what was trained is trained again also where training broke off."""
    assert adapted_by(tiny_clip, method("full_ft")).head_warmup is None
    adapted = adapted_by(tiny_clip, method("lp_ft"))
    trained = {name for name, _ in adapted.parameters()}
    with pytest.raises(RuntimeError, match="stop"), adapted.head_alone():
        raise RuntimeError("stop")
    assert {name for name, _ in adapted.parameters()} == trained


# --- the class texts


@pytest.mark.parametrize("train_texts", [True, False])
@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 0, 2], [1, 1, 1, 0, 0, 0], [2, 2, 2, 2, 2, 2]], ids=str)
def test_the_loss_of_flyp_by_hand(tiny_clip: Clip, labels: list[int], train_texts: bool) -> None:
    """Images against the texts of the batch's classes, both ways; from a text, the mean over its images."""
    adapted = adapted_by(tiny_clip, method("flyp", train_texts=train_texts))
    found, _ = adapted.objective(adapted.head, torch.tensor(images_of(adapted)), torch.tensor(labels))
    image = images_of(adapted).astype(np.float64)
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    text = class_features(adapted.clip, CLASSES, ["a photo of a {}"]).double().numpy()
    present = sorted(set(labels))
    scores = math.exp(adapted.clip.model.logit_scale.item()) * image @ text[present].T
    by_image = log_softmax(scores, axis=1)
    to_text = np.mean([by_image[i, present.index(label)] for i, label in enumerate(labels)])
    by_text = log_softmax(scores, axis=0)
    to_image = np.mean(
        [np.mean([by_text[i, k] for i in range(6) if labels[i] == c]) for k, c in enumerate(present)]
    )
    assert found.item() == pytest.approx(-(to_text + to_image) / 2, rel=1e-5)


def images_of(adapted: Adapted) -> np.ndarray:
    return embedding(adapted.clip.model).numpy()


def test_with_one_image_of_each_class_flyp_is_clips_own_loss(tiny_clip: Clip) -> None:
    """transformers computes it from images and texts alone."""
    adapted = adapted_by(tiny_clip, method("flyp"))
    tokens = tiny_clip.tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    adapted.eval()
    with torch.no_grad():
        theirs = adapted.clip.model(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            pixel_values=images(3),
            return_loss=True,
        ).loss
        embedded = adapted.clip.model.get_image_features(pixel_values=images(3)).pooler_output
        ours, _ = adapted.objective(adapted.head, embedded, torch.arange(3))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("train_texts", [True, False])
def test_the_head_of_flyp_is_zero_shot(
    tiny_clip: Clip, make_deck: Callable[..., Deck], train_texts: bool
) -> None:
    """Before and after training its arg max is the zero-shot class by the texts as they are now."""
    adapted = adapted_by(tiny_clip, method("flyp", train_texts=train_texts))
    heads = []
    for _ in range(2):
        adapted.eval()
        features = class_features(adapted.clip, CLASSES, ["a photo of a {}"])
        embedded = embedding(adapted.clip.model)
        assert torch.equal(adapted.head(embedded).argmax(-1), predict(embedded, features))
        assert (adapted.head.weight - features).abs().max() < 1e-6
        assert not adapted.head.bias.any()
        heads.append(adapted.head.weight.detach().clone())
        train_briefly(adapted, make_deck(8, classes=3))
    assert torch.equal(*heads) != train_texts


def test_flyp_learns(tiny_clip: Clip, make_deck: Callable[..., Deck]) -> None:
    """Positive control: images come to their texts, so that zero-shot knows the classes."""
    adapted = adapted_by(tiny_clip, method("flyp"))
    deck = make_deck(24, classes=3, signal=60)
    losses = train_briefly(adapted, deck, epochs=12, batch_size=12, learning_rate=2e-3)
    assert losses[-1] < 0.6 * losses[0]
    with torch.no_grad():
        embedded = adapted.clip.model.get_image_features(deck.images(slice(None))).pooler_output
    right = adapted.head(embedded).argmax(-1).numpy() == deck.labels
    assert right.mean() > 0.9


def test_the_head_follows_a_snapshot(tiny_clip: Clip, make_deck: Callable[..., Deck]) -> None:
    """Made of texts, it is no part of the snapshot, and must still be that of the epoch put back."""
    adapted = adapted_by(tiny_clip, method("flyp"))
    kept, head = adapted.snapshot(), adapted.head.weight.clone()
    train_briefly(adapted, make_deck(8, classes=3))
    assert not torch.equal(adapted.head.weight, head)
    adapted.restore(kept)
    assert torch.equal(adapted.head.weight, head)


def test_flyp_without_texts_is_a_mistake(tiny_clip: Clip) -> None:
    """There would be nothing to train against."""
    with pytest.raises(ValueError, match="flyp needs the texts of the classes"):
        adapt(tiny_clip, method("flyp"), classes=3, seed=0)


def test_all_others_minimise_cross_entropy(tiny_clip: Clip) -> None:
    """Of the head's logits, as torch computes it."""
    adapted = adapted_by(tiny_clip, method("norm_only"))
    assert adapted.objective == CrossEntropy()
    target = torch.tensor([0, 1, 2, 0, 1, 2])
    embedded = embedding(tiny_clip.model)
    loss, right = adapted.objective(adapted.head, embedded, target)
    logits = adapted.head(embedded)
    assert torch.equal(right, logits.argmax(1) == target)
    by_hand = -log_softmax(logits.detach().double().numpy(), axis=1)[np.arange(6), target].mean()
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)


# --- saved


@pytest.mark.parametrize(
    "options",
    [method("rslora", frozen_blocks=1), method("dora", frozen_blocks=1), method("flyp"), method("norm_only")],
    ids=str,
)
def test_a_saved_result_opens_in_plain_code(
    tiny_clip_dir: Path, tmp_path: Path, make_deck: Callable[..., Deck], options: Method
) -> None:
    """Without clipdrift: the same embeddings, from the adapter as it is and merged, from texts too."""
    adapted = adapted_by(load(tiny_clip_dir), options)
    train_briefly(adapted, make_deck(8, classes=3))
    adapted.save(tmp_path)
    if adapted.peft is None:
        plain = CLIPModel.from_pretrained(tmp_path)
        state = adapted.clip.model.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    else:
        opened = PeftModel.from_pretrained(CLIPModel.from_pretrained(tiny_clip_dir), tmp_path)
        plain = opened.base_model.model
        merged = copy.deepcopy(opened).merge_and_unload()
        assert (embedding(merged) - embedding(plain)).abs().max() < 1e-5
    assert torch.equal(embedding(plain), embedding(adapted.clip.model))
