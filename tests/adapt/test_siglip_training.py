"""Training SigLIP: what each method trains, its own loss and padding, and what plain libraries load."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny_methods import (
    TEXTS,
    embedding,
    images,
    method,
    penalty,
    setting_of,
    train_briefly,
    whole_state,
)
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize
from transformers import SiglipModel

from clipdrift.adapt import METHODS, Adapted, adapt, build, effective_weights, load_adapted
from clipdrift.adapt.feed import Feed
from clipdrift.adapt.pairs import adapt_pairs
from clipdrift.adapt.reference import Reference
from clipdrift.config import ConfigError, ContrastiveObjective, LogitScale, Method, ModelConfig, OptimConfig
from clipdrift.data.caption_store import CaptionPacker
from clipdrift.data.deck import Deck
from clipdrift.model.clip import Clip, load
from clipdrift.model.modes import in_eval_mode
from clipdrift.model.texts import TrainableTexts
from clipdrift.model.trace import trace
from clipdrift.training.loop import train_model

BLOCK = "vision_model.encoder.layers"
STEM = "vision_model.embeddings."
HEAD = "vision_model.head."
CLASSIFIER = {"head.weight", "head.bias"}
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
    method("flyp", loss="sigmoid"),
]
PLACES = {f"{letter}": (f"self_attn.{letter}_proj",) for letter in "qkv"} | {
    "out": ("self_attn.out_proj",),
    "mlp": ("mlp.fc1", "mlp.fc2"),
}
every_method = pytest.mark.parametrize("options", EVERY, ids=lambda options: options.name)


@pytest.fixture
def siglip(tiny_siglip_dir: Path) -> Clip:
    return load(tiny_siglip_dir)


def expected(names: list[str], options: Method) -> set[str]:
    """What a method trains, from the names of a plain SigLIP with two blocks; written apart from the code."""
    asked: dict[str, Any] = dict(options)
    tower = {name for name in names if name.startswith("vision_model.")}
    if "rank" in asked:
        parts = ["lora_A.default.weight", "lora_B.default.weight"]
        parts += ["lora_magnitude_vector.default.weight"] if options.name == "dora" else []
        matrices = [place for target in asked["targets"] for place in PLACES[target]]
        found = {f"{BLOCK}.{i}.{matrix}.{part}" for i in range(2) for matrix in matrices for part in parts}
        whole = {name.replace(HEAD, f"{HEAD}modules_to_save.default.") for name in tower if HEAD in name}
        return CLASSIFIER | found | (whole if asked["train_projection"] else set())
    if options.name == "linear_probe":
        return CLASSIFIER
    if options.name == "flyp":
        beside = {"logit_scale"} | ({"logit_bias"} if asked["loss"] == "sigmoid" else set())
        return tower | {name for name in names if name.startswith("text_model.")} | beside
    kept = {
        "projections": lambda name: name.startswith(HEAD),
        "last_blocks": lambda name: not name.startswith((STEM, f"{BLOCK}.0.")),
        "bias_only": lambda name: name.endswith("bias"),
        "norm_only": lambda name: "norm" in name,
    }.get(options.name, lambda name: True)
    return CLASSIFIER | {name for name in tower if kept(name)}


def test_every_method_of_the_table_is_tested() -> None:
    assert {options.name for options in EVERY} == METHODS.keys() - {"logit_scale"}


@every_method
def test_training_moves_these_and_nothing_else(
    siglip: Clip, make_deck: Callable[..., Deck], options: Method
) -> None:
    """By name; what is not trained stays to the bit."""
    names = expected([name for name, _ in siglip.model.named_parameters()], options)
    adapted = adapt(siglip, options, classes=3, seed=0, texts=TEXTS)
    assert {name for name, _ in adapted.parameters()} == names
    before = whole_state(adapted)
    train_briefly(adapted, make_deck(12, classes=3), epochs=2)
    moved = {name for name, value in whole_state(adapted).items() if not torch.equal(value, before[name])}
    follows = {"head.weight"} if options.name == "flyp" else set()
    assert moved - follows == names
    assert adapted.trains_texts == (options.name == "flyp")


@every_method
def test_plain_libraries_load_what_was_saved(
    siglip: Clip, tiny_siglip_dir: Path, tmp_path: Path, make_deck: Callable[..., Deck], options: Method
) -> None:
    """transformers' and peft's own loaders, and ours, give the very model that was measured."""
    adapted = adapt(siglip, options, classes=3, seed=0, texts=TEXTS)
    train_briefly(adapted, make_deck(12, classes=3))
    out = tmp_path / "out"
    adapted.save(out)
    if adapted.artefact == "model":
        plain, report = SiglipModel.from_pretrained(out, output_loading_info=True)
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    else:
        plain = SiglipModel.from_pretrained(tiny_siglip_dir)
    if adapted.artefact == "adapter":
        plain = PeftModel.from_pretrained(plain, out).base_model.model  # warns, and so fails, if keys miss
    now = embedding(adapted.clip.model)
    assert torch.equal(embedding(plain), now)
    again = load_adapted(out, ModelConfig(name="tiny", path=str(tiny_siglip_dir)))
    assert torch.equal(embedding(again.model), now)
    assert torch.equal(again.texts(TEXTS), adapted.clip.texts(TEXTS))
    assert again.preprocess == adapted.clip.preprocess


@pytest.mark.parametrize("options", [o for o in EVERY if "rank" in dict(o)], ids=lambda o: o.name)
def test_a_disabled_adapter_is_the_backbone(
    siglip: Clip, tiny_siglip_dir: Path, make_deck: Callable[..., Deck], options: Method
) -> None:
    """Adapters and the pooling head are all that differ; merged is unmerged, and so are effective weights."""
    adapted = adapt(siglip, options, classes=3, seed=0)
    train_briefly(adapted, make_deck(12, classes=3))
    backbone, now = embedding(load(tiny_siglip_dir).model), embedding(adapted.clip.model)
    assert adapted.peft is not None
    assert not torch.allclose(now, backbone, atol=1e-3)
    with adapted.peft.disable_adapter():
        assert torch.equal(embedding(adapted.clip.model), backbone)
    acting = effective_weights(adapted.clip.model)
    merged = copy.deepcopy(adapted.peft).merge_and_unload()
    assert (embedding(merged) - now).abs().max() < 1e-5
    plain = {name: p for name, p in merged.named_parameters() if name.startswith("vision_model.")}
    assert acting.keys() == plain.keys()
    assert max((acting[name] - plain[name]).abs().max() for name in plain) < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        method("last_blocks"),
        method("projections"),
        method("full_ft", frozen_blocks=2, freeze_embeddings=True),
        method("linear_probe"),
    ],
    ids=lambda options: options.name,
)
def test_what_is_kept_of_frozen_blocks_changes_no_loss(
    tiny_siglip_dir: Path, make_deck: Callable[..., Deck], options: Method
) -> None:
    """The pooling head reads all patches, so all are kept behind the last block too."""
    deck = make_deck(12, classes=3)
    losses = []
    for keep in (True, False):
        adapted = adapt(load(tiny_siglip_dir), options, classes=3, seed=0)
        feed = Feed.of(adapted, deck, flip=True, keep=keep)
        assert (feed.kept is None) == (not keep)
        losses.append(train_briefly(adapted, deck, keep_frozen=keep))
    assert np.allclose(losses[0], losses[1], atol=1e-5)


def test_the_tower_goes_on_from_within(siglip: Clip) -> None:
    """From the patches after one block, and after the last."""
    with in_eval_mode(siglip.model), torch.no_grad():
        whole = trace(siglip.model, images())
        left: list[Tensor] = []
        handles = [
            block.register_forward_hook(lambda _module, _inputs, output: left.append(output))
            for block in siglip.model.vision_model.encoder.layers
        ]
        siglip.model.vision_model(pixel_values=images())
        for handle in handles:
            handle.remove()
        for start, tokens in enumerate(left, start=1):
            found = trace(siglip.model, tokens, start=start)
            assert torch.allclose(found.embedding, whole.embedding, atol=1e-6)


# --- penalties


def test_penalties_on_attention_look_at_the_pooling_head(
    siglip: Clip, make_deck: Callable[..., Deck]
) -> None:
    """All patches count, none as a class token: by hand from torch's own attention of the head."""
    deck = make_deck(6)
    adapted = adapt(siglip, method("full_ft"), classes=3, seed=0)
    setting = setting_of(adapted, deck, first_patch=0)
    made = build([penalty("entropy_pull", weight=1, ratio=0.5), penalty("apr"), penalty("ldifs")], setting)
    reference = Reference(adapted, deck, made.wants)
    picked, mirrored = np.arange(6), np.zeros(6, bool)
    backbone = reference.of(picked, mirrored)
    assert backbone.rows is not None
    assert backbone.states is not None
    assert backbone.rows.shape == (1, 6, 2, 16)
    assert len(backbone.states) == 2
    with torch.no_grad():
        hidden = siglip.model.vision_model(pixel_values=deck.images(slice(None))).last_hidden_state
        head = siglip.model.vision_model.head
        probe = head.probe.expand(6, -1, -1)
        maps = head.attention(probe, hidden, hidden, average_attn_weights=False)[1][:, :, 0]
        seen = trace(siglip.model, deck.images(slice(None)), rows=True)
        total = made(seen, 1, backbone)
    assert torch.allclose(backbone.rows[0], maps, atol=1e-5)
    entropy = -(maps * maps.log()).sum(-1).mean(-1)
    assert float(total) == pytest.approx(float(((0.5 * entropy) / np.log(16)).square().mean()), rel=1e-4)


@pytest.mark.parametrize("name", ["apr", "entropy_floor", "entropy_pull"])
def test_a_pooling_head_is_no_block_to_choose(
    siglip: Clip, make_deck: Callable[..., Deck], name: str
) -> None:
    """Where ldifs, which compares states, knows both blocks."""
    setting = setting_of(adapt(siglip, method("full_ft"), classes=3, seed=0), make_deck(6), first_patch=0)
    build([penalty("ldifs", blocks=[2])], setting)
    with pytest.raises(ConfigError, match=f"penalty {name}: blocks cannot be chosen"):
        build([penalty(name, blocks=[1])], setting)


@pytest.mark.parametrize("name", ["apr", "entropy_floor", "entropy_pull", "l2_sp", "ldifs", "zero_shot_kl"])
@pytest.mark.parametrize("options", [method("last_blocks"), method("lora")], ids=lambda o: o.name)
def test_every_penalty_trains(
    siglip: Clip, make_deck: Callable[..., Deck], options: Method, name: str
) -> None:
    """Also where training begins behind frozen blocks."""
    deck = make_deck(8, classes=3)
    adapted = adapt(siglip, options, classes=3, seed=0, texts=TEXTS)
    more = {"ratio": 1.5} if name == "entropy_floor" else {}
    made = build([penalty(name, weight=5.0, **more)], setting_of(adapted, deck, first_patch=0))
    with_it = train_briefly(adapted, deck, made, epochs=2)
    without = adapt(load(Path(str(siglip.model.name_or_path))), options, classes=3, seed=0, texts=TEXTS)
    assert not np.allclose(with_it, train_briefly(without, deck, epochs=2), atol=1e-7)


# --- texts and losses


def test_texts_are_filled_up_as_in_training(siglip: Clip) -> None:
    """With gradient: every text has the full length, as transformers says it for SigLIP."""
    encoder = siglip.texts
    assert isinstance(encoder, TrainableTexts)
    embedded = encoder.embed(["Red circle!", "two small red circles on a striped ground"])
    tokens = siglip.tokenizer(
        ["red circle", "two small red circles on a striped ground"],
        padding="max_length", max_length=32, truncation=True, return_tensors="pt",
    )  # fmt: skip
    assert torch.equal(embedded, siglip.model.get_text_features(tokens["input_ids"]).pooler_output)
    assert embedded.requires_grad
    assert encoder.longest == 32


def on_captions(clip: Clip, options: Method, deck: Deck, **objective: Any) -> Adapted:
    packer = CaptionPacker()
    for image in range(len(deck)):
        packer.add(image, [f"picture {image} of a red circle"])
    settings = ContrastiveObjective(name="contrastive", **objective)
    return adapt_pairs(clip, options, settings, packer.packed()[1], np.arange(len(deck)), seed=0)


def train_on(adapted: Adapted, deck: Deck, **optim: Any) -> list[float]:
    losses: list[float] = []
    settings = OptimConfig(**{"learning_rate": 0.01, "epochs": 1, "batch_size": 6, **optim})
    objective: Any = adapted.objective
    for _ in train_model(
        adapted,
        deck,
        settings,
        seed=0,
        flip=False,
        targets=lambda epoch: objective.targets(0, epoch),
        on_step=lambda _, loss: losses.append(loss),
    ):
        pass
    adapted.eval()
    return losses


def test_the_sigmoid_loss_has_the_models_own_bias(siglip: Clip, make_deck: Callable[..., Deck]) -> None:
    """As written in the paper, and as transformers scores pairs; scale and bias learn with the towers."""
    deck = make_deck(6)
    words = [f"picture {image} of a red circle" for image in range(6)]
    tokens = siglip.tokenizer(words, padding="max_length", max_length=32, return_tensors="pt")
    with torch.no_grad():
        scores = siglip.model(tokens["input_ids"], deck.images(slice(None))).logits_per_image
    wanted = -logsigmoid(scores * (2 * torch.eye(6) - 1)).sum() / 6
    before = siglip.model.logit_bias.detach().clone()
    adapted = on_captions(siglip, method("full_ft"), deck, loss="sigmoid")
    assert not list(adapted.head.parameters())
    losses = train_on(adapted, deck)
    assert losses[0] == pytest.approx(float(wanted), rel=1e-5)
    assert not torch.equal(siglip.model.logit_bias, before)


def test_the_softmax_loss_leaves_the_bias(siglip: Clip, make_deck: Callable[..., Deck]) -> None:
    """It has no part in it."""
    before = siglip.model.logit_bias.detach().clone()
    adapted = on_captions(siglip, method("full_ft"), make_deck(6))
    train_on(adapted, make_deck(6))
    assert torch.equal(siglip.model.logit_bias, before)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_adapters_on_both_towers_leave_scale_and_bias(
    siglip: Clip, make_deck: Callable[..., Deck], loss: str
) -> None:
    """They have no place to keep them; the text tower's head is its projection."""
    adapted = on_captions(siglip, method("lora", rank=2), make_deck(6), loss=loss)
    names = {name for name, _ in adapted.parameters()}
    assert "text_model.head.modules_to_save.default.weight" in names
    assert any(name.startswith("text_model.encoder.layers.1.self_attn.q_proj.lora_A") for name in names)
    assert not {"logit_scale", "logit_bias"} & names
    assert np.isfinite(train_on(adapted, make_deck(6))).all()


def test_a_scale_beyond_a_hundred_stays(siglip: Clip, make_deck: Callable[..., Deck]) -> None:
    """SigLIP is trained without CLIP's bound; training must not begin by pulling it down."""
    with torch.no_grad():
        siglip.model.logit_scale.fill_(float(np.log(117.0)))
    adapted = on_captions(siglip, LogitScale(name="logit_scale"), make_deck(6), loss="sigmoid")
    objective: Any = adapted.objective
    objective.refresh(adapted.head)
    assert float(siglip.model.logit_scale.detach().exp()) == pytest.approx(117.0)
    with torch.no_grad():
        siglip.model.logit_scale.add_(1)
    objective.refresh(adapted.head)
    assert float(siglip.model.logit_scale.detach().exp()) == pytest.approx(117.0)


def test_flyp_by_the_sigmoid_loss(siglip: Clip) -> None:
    """Each image with each class of the batch is a yes or no."""
    adapted = adapt(siglip, method("flyp", loss="sigmoid"), classes=3, seed=0, texts=TEXTS)
    labels = torch.tensor([0, 2, 2, 0])
    found = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss, _ = adapted.objective(adapted.head, found, labels)
        texts = normalize(siglip.texts([TEXTS[0], TEXTS[2]]), dim=-1)
        scores = siglip.model.logit_scale.exp() * normalize(found, dim=-1) @ texts.T + siglip.model.logit_bias
    signs = torch.tensor([[1.0, -1], [-1, 1], [-1, 1], [1, -1]])
    assert float(loss) == pytest.approx(float(-logsigmoid(signs * scores).sum() / 4), rel=1e-5)


def test_the_sigmoid_loss_of_flyp_needs_a_bias(tiny_clip: Clip) -> None:
    with pytest.raises(ConfigError, match=r"method.loss = 'sigmoid': tiny has no logit bias.*take softmax"):
        adapt(tiny_clip, method("flyp", loss="sigmoid"), classes=3, seed=0, texts=TEXTS)
