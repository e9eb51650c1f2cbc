"""Each penalty against plain code, its gradient against differences, and that training with it does what it
is for; the backbone's side against an untouched backbone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr
from scipy.stats import entropy as scipy_entropy
from tiny_methods import (
    CLASSES,
    adapted_by,
    method,
    penalties_of,
    penalty,
    setting_of,
    train_briefly,
)
from torch import Tensor
from transformers import CLIPModel

from clipdrift.adapt import PENALTIES, Adapted, Penalties, build, check_penalties
from clipdrift.adapt.reference import BackboneBatch, Reference, Wants
from clipdrift.config import ConfigError
from clipdrift.data.deck import Deck
from clipdrift.listing import PENALTIES as LISTED
from clipdrift.model.clip import load
from clipdrift.model.trace import Traced, trace
from clipdrift.model.zero_shot import class_features

EVERYTHING = Wants(rows=True, states=True, embedding=True)
ALL = np.arange(6)
PLAIN = np.zeros(6, bool)
MakeDeck = Callable[..., Deck]


def test_the_tables_name_the_same_penalties() -> None:
    """What does the work and what is listed; these tests go over all of them."""
    assert PENALTIES.keys() == LISTED.keys() == ORACLES.keys()


# --- plain code


def plain_pass(model: CLIPModel, images: Tensor, folder: Path) -> dict[str, np.ndarray]:
    """Maps by eager attention (L, B, H, P), class states (L, B, D) and embeddings, by transformers alone."""
    eager = CLIPModel.from_pretrained(folder, attn_implementation="eager").eval()
    eager.load_state_dict(model.state_dict())
    with torch.no_grad():
        out = eager.vision_model(pixel_values=images, output_attentions=True, output_hidden_states=True)
        embedding = eager.visual_projection(out.pooler_output)
    maps = torch.stack(out.attentions)[:, :, :, 0, 1:].double()
    return {
        "maps": (maps / maps.sum(-1, keepdim=True)).numpy(),
        "states": torch.stack(out.hidden_states)[1:, :, 0].double().numpy(),
        "embedding": embedding.double().numpy(),
    }


Pass = dict[str, np.ndarray]


def plain_apr(now: Pass, before: Pass, blocks: list[int]) -> float:
    return rel_entr(now["maps"], before["maps"])[blocks].sum(-1).mean()


def plain_floor(now: Pass, before: Pass, blocks: list[int], ratio: float = 0.7) -> float:
    total = 0.0
    for block in blocks:
        floor = ratio * scipy_entropy(before["maps"][block], axis=-1).mean()
        total += np.maximum(0, floor - scipy_entropy(now["maps"][block], axis=-1)).mean()
    return total


def plain_pull(now: Pass, before: Pass, blocks: list[int], ratio: float = 0.8) -> float:
    total, most = 0.0, np.log(now["maps"].shape[-1])
    for block in blocks:
        ours, theirs = (scipy_entropy(seen["maps"][block], axis=-1).mean(1) for seen in (now, before))
        total += (((ours - np.minimum(ratio * theirs, most)) / most) ** 2).mean()
    return total


def plain_ldifs(now: Pass, before: Pass, blocks: list[int]) -> float:
    states = ((now["states"] - before["states"]) ** 2)[blocks].sum(-1).mean(1).sum()
    return states + ((now["embedding"] - before["embedding"]) ** 2).sum(-1).mean()


def plain_kl(now: Pass, before: Pass, features: np.ndarray, scale: float) -> float:
    logs = []
    for z in (before["embedding"], now["embedding"]):
        unit = z / np.linalg.norm(z, axis=1, keepdims=True)
        logs.append(log_softmax(scale * unit @ features.T, axis=1))
    return rel_entr(np.exp(logs[0]), np.exp(logs[1])).sum(1).mean()


ORACLES: dict[str, Any] = {
    "apr": plain_apr,
    "entropy_floor": plain_floor,
    "entropy_pull": plain_pull,
    "l2_sp": None,  # weights, not images: below
    "ldifs": plain_ldifs,
    "zero_shot_kl": plain_kl,
}


def shake(adapted: Adapted, size: float = 0.05, seed: int = 1) -> None:
    """Move all that is trained, adapters among it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in adapted.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)  # type: ignore[misc]


def value(adapted: Adapted, deck: Deck, penalties: Penalties, reference: Reference) -> Tensor:
    seen = trace(adapted.clip.model, deck.images(slice(None)), rows=True)
    return penalties(seen, 1, reference.of(np.arange(len(deck)), np.zeros(len(deck), bool)))


@pytest.mark.parametrize(
    "options",
    [
        penalty("apr", weight=1),
        penalty("apr", weight=3, blocks=[2]),
        penalty("entropy_floor", weight=1, ratio=1.05),
        penalty("entropy_floor", weight=2, ratio=0.9, blocks=[1]),
        penalty("entropy_pull", weight=1, ratio=0.6),
        penalty("entropy_pull", weight=3, ratio=1.1, blocks=[2]),
        penalty("entropy_pull", weight=1, ratio=5),  # beyond uniform attention
        penalty("ldifs", weight=1),
        penalty("ldifs", weight=0.5, blocks=[1]),
        penalty("zero_shot_kl", weight=1),
    ],
    ids=str,
)
def test_values_by_plain_code(tiny_clip_dir: Path, make_deck: MakeDeck, options: Any) -> None:
    """On a model that has moved; blocks and weight as asked for."""
    deck = make_deck(6, classes=3)
    adapted = adapted_by(load(tiny_clip_dir), method("full_ft"))
    features = class_features(adapted.clip, CLASSES, ["a photo of a {}"]).double().numpy()
    scale = adapted.clip.model.logit_scale.exp().item()
    images = deck.images(slice(None))
    before = plain_pass(adapted.clip.model, images, tiny_clip_dir)
    penalties = penalties_of(adapted, deck, [options])
    reference = Reference(adapted, deck, penalties.wants)
    shake(adapted)
    now = plain_pass(adapted.clip.model, images, tiny_clip_dir)
    blocks = [block - 1 for block in dict(options).get("blocks") or (1, 2)]
    if options.name == "zero_shot_kl":
        expected = plain_kl(now, before, features, scale)
    elif options.name in ("entropy_floor", "entropy_pull"):
        expected = ORACLES[options.name](now, before, blocks, options.ratio)
    else:
        expected = ORACLES[options.name](now, before, blocks)
    assert expected > 1e-3
    found = value(adapted, deck, penalties, reference)
    assert found.item() == pytest.approx(options.weight * expected, rel=1e-3)


@pytest.mark.parametrize("name", ["full_ft", "lora", "dora", "rslora", "bias_only"])
def test_l2_sp_is_the_distance_of_the_merged_model(
    tiny_clip_dir: Path, make_deck: MakeDeck, name: str
) -> None:
    """Adapters by what they add to the weights, DoRA by what it makes of them, as peft merges them."""
    adapted = adapted_by(load(tiny_clip_dir), method(name))
    deck = make_deck(6, classes=3)
    penalties = penalties_of(adapted, deck, [penalty("l2_sp", weight=2)])
    shake(adapted)
    merged = adapted.clip.model
    if adapted.peft is not None:
        merged = copy.deepcopy(adapted.peft).merge_and_unload()
    base = dict(CLIPModel.from_pretrained(tiny_clip_dir).named_parameters())
    expected = sum(float(((p - base[n]).detach().double() ** 2).sum()) for n, p in merged.named_parameters())
    assert expected > 0.1
    assert value(adapted, deck, penalties, Reference(adapted, deck, Wants())).item() == pytest.approx(
        2 * expected, rel=1e-4
    )


def test_penalties_add_up(tiny_clip_dir: Path, make_deck: MakeDeck) -> None:
    """Each by its weight."""
    deck = make_deck(6, classes=3)
    adapted = adapted_by(load(tiny_clip_dir), method("full_ft"))
    setting = setting_of(adapted, deck)
    options = [penalty(name, weight=i + 1.0) for i, name in enumerate(PENALTIES)]
    each = [build([one], setting) for one in options]
    both = build(options, setting)
    assert both.wants == EVERYTHING
    reference = Reference(adapted, deck, EVERYTHING)
    shake(adapted)
    parts = [value(adapted, deck, one, reference).item() for one in each]
    assert value(adapted, deck, both, reference).item() == pytest.approx(sum(parts), rel=1e-5)


# --- at the start


@pytest.mark.parametrize("name", ["full_ft", "lora", "dora", "last_blocks", "flyp"])
def test_nothing_at_the_start(tiny_clip_dir: Path, make_deck: MakeDeck, name: str) -> None:
    """The adapted model is its backbone then: no penalty, and none on what lies above its floor."""
    deck = make_deck(6, classes=3)
    adapted = adapted_by(load(tiny_clip_dir), method(name))
    setting = setting_of(adapted, deck)
    reference = Reference(adapted, deck, EVERYTHING)
    for kind in PENALTIES:
        ratio: dict[str, Any] = {"entropy_floor": 0.01, "entropy_pull": 1.0}
        options = {"ratio": ratio[kind]} if kind in ratio else {}
        found = value(adapted, deck, build([penalty(kind, weight=1, **options)], setting), reference)
        assert abs(found.item()) < 1e-6, kind


def test_the_floor_holds_only_what_is_below_it(tiny_clip_dir: Path, make_deck: MakeDeck) -> None:
    """Under a floor of the mean itself some images lie at once; the deeper the floor the fewer."""
    deck = make_deck(6, classes=3)
    adapted = adapted_by(load(tiny_clip_dir), method("full_ft"))
    setting = setting_of(adapted, deck)
    reference = Reference(adapted, deck, EVERYTHING)
    found = [
        value(adapted, deck, build([penalty("entropy_floor", ratio=r)], setting), reference).item()
        for r in (0.01, 0.9, 1.0, 1.1)
    ]
    assert found[0] == 0 < found[2] < found[3]
    assert found == sorted(found)


# --- gradients


@pytest.mark.parametrize(
    ("name", "how"),
    [*((name, how) for name in ORACLES for how in ("full_ft", "lora")), ("l2_sp", "dora")],
)
def test_gradients_by_differences(tiny_clip_dir: Path, make_deck: MakeDeck, name: str, how: str) -> None:
    """Through the whole tower, along some random directions of all that is trained.

    Of dora the weights alone: in a forward pass peft leaves out the gradient of the length by design.
    """
    deck = make_deck(6, classes=3)
    adapted = adapted_by(load(tiny_clip_dir), method(how))
    options = {"ratio": 1.3} if name == "entropy_floor" else {}  # all below: no kink near by
    penalties = penalties_of(adapted, deck, [penalty(name, weight=1, **options)])
    reference = Reference(adapted, deck, penalties.wants)
    shake(adapted)
    value(adapted, deck, penalties, reference).backward()
    parameters = [p for n, p in adapted.parameters() if p.grad is not None]
    assert parameters
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        # half along the gradient, so that the slope is well above rounding
        step = [torch.randn(p.shape, generator=generator) for p in parameters]
        length = torch.cat([p.grad.flatten() for p in parameters]).norm()
        norm = torch.cat([s.flatten() for s in step]).norm()
        step = [s / norm + p.grad / length for s, p in zip(step, parameters, strict=True)]
        expected = sum(float((s * p.grad).sum()) for s, p in zip(step, parameters, strict=True))
        start, ends = [p.detach().clone() for p in parameters], []
        size = 3e-3
        for sign in (1, -1):
            with torch.no_grad():
                for p, p0, s in zip(parameters, start, step, strict=True):
                    p.copy_(p0 + sign * size * s)
                ends.append(value(adapted, deck, penalties, reference).double().item())
        with torch.no_grad():
            for p, p0 in zip(parameters, start, strict=True):
                p.copy_(p0)
        assert (ends[0] - ends[1]) / (2 * size) == pytest.approx(expected, rel=0.02)


def test_the_head_and_the_texts_get_no_gradient(tiny_clip_dir: Path, make_deck: MakeDeck) -> None:
    """Penalties hold the image tower alone, and leave the backbone's side without a gradient."""
    deck = make_deck(6, classes=3)
    adapted = adapted_by(load(tiny_clip_dir), method("flyp"))
    penalties = penalties_of(adapted, deck, [penalty(name) for name in PENALTIES])
    reference = Reference(adapted, deck, EVERYTHING)
    shake(adapted)
    value(adapted, deck, penalties, reference).backward()
    touched = {n for n, p in adapted.parameters() if p.grad is not None}
    assert touched
    assert all(n.startswith(("vision_model.", "visual_projection.")) for n in touched)


def test_float32_under_autocast(tiny_clip_dir: Path, make_deck: MakeDeck) -> None:
    """The forward pass may be bf16; a penalty of the same pass is the same number with and without."""
    deck = make_deck(6, classes=3)
    adapted = adapted_by(load(tiny_clip_dir), method("full_ft"))
    setting = setting_of(adapted, deck)
    reference = Reference(adapted, deck, EVERYTHING)
    shake(adapted)
    for name in PENALTIES:
        options = {"ratio": 1.1} if name == "entropy_floor" else {}
        penalties = build([penalty(name, weight=1, **options)], setting)
        with torch.autocast("cpu", torch.bfloat16):
            seen = trace(adapted.clip.model, deck.images(slice(None)), rows=True)
            inside = penalties(seen, 1, reference.of(ALL, PLAIN))
        outside = penalties(seen, 1, reference.of(ALL, PLAIN))
        assert seen.embedding.dtype == torch.bfloat16
        assert inside.dtype == torch.float32
        assert torch.equal(inside, outside)
        exact = value(adapted, deck, penalties, reference)
        assert inside.item() == pytest.approx(exact.item(), rel=0.1), name


# --- blocks


@pytest.mark.parametrize("name", ["apr", "entropy_floor", "entropy_pull", "ldifs"])
def test_blocks_beyond_the_model_are_refused(tiny_clip_dir: Path, make_deck: MakeDeck, name: str) -> None:
    """With the number that there is."""
    adapted = adapted_by(load(tiny_clip_dir), method("full_ft"))
    wrong = penalty(name, blocks=[1, 3])
    with pytest.raises(ConfigError, match=rf"penalty {name}: block 3; the model has 2, from 1"):
        penalties_of(adapted, make_deck(6, classes=3), [wrong])
    check_penalties([penalty(name, blocks=[1, 2]), penalty("l2_sp")], 2)


@pytest.mark.parametrize("name", ["apr", "entropy_floor", "entropy_pull", "ldifs"])
def test_a_tower_that_starts_later_gives_the_same(
    tiny_clip_dir: Path, make_deck: MakeDeck, name: str
) -> None:
    """With the first block frozen its share is nothing, whether the pass begins before or after it."""
    deck = make_deck(6, classes=3)
    adapted = adapted_by(load(tiny_clip_dir), method("last_blocks"))
    ratio = {"ratio": 1.1} if name == "entropy_floor" else {}
    penalties = penalties_of(adapted, deck, [penalty(name, weight=1, **ratio)])
    early = penalties_of(adapted, deck, [penalty(name, weight=1, blocks=[1], **ratio)])
    reference = Reference(adapted, deck, penalties.wants)
    shake(adapted)
    seen = trace(adapted.clip.model, deck.images(slice(None)), rows=True)
    assert seen.rows is not None
    late = Traced(embedding=seen.embedding, states=seen.states[1:], pooled=seen.pooled, rows=seen.rows[1:])
    backbone = reference.of(ALL, PLAIN)
    whole, part = penalties(seen, 1, backbone), penalties(late, 2, backbone)
    assert whole.item() == pytest.approx(part.item(), rel=1e-5)
    assert whole.item() > 1e-4
    frozen = [early(seen, 1, backbone).item(), early(late, 2, backbone).item()]
    assert frozen[0] == pytest.approx(frozen[1], rel=1e-5, abs=1e-7)
    if name != "ldifs":  # which holds the embedding too
        assert abs(frozen[0]) < 1e-7


# --- the backbone's side


def direct(folder: Path, deck: Deck, picked: np.ndarray, mirrored: np.ndarray) -> BackboneBatch:
    with torch.no_grad():
        seen = trace(load(folder).model, deck.images(picked, torch.from_numpy(mirrored)), rows=True)
    assert seen.rows is not None
    rows = seen.rows[..., 1:]
    return BackboneBatch(rows / rows.sum(-1, keepdim=True), seen.states, seen.embedding)


@pytest.mark.parametrize("name", ["full_ft", "lora", "dora", "last_blocks", "flyp"])
def test_the_backbones_values_are_the_backbones(tiny_clip_dir: Path, make_deck: MakeDeck, name: str) -> None:
    """By a pristine model on the same images and mirror images, also after training; each computed once."""
    deck = make_deck(6, classes=3)
    adapted = adapted_by(load(tiny_clip_dir), method(name))
    reference = Reference(adapted, deck, EVERYTHING)
    train_briefly(adapted, deck, epochs=2)
    adapted.train()
    seen: set[tuple[int, bool]] = set()
    for picked, mirrored in (
        ([0, 1, 2], [False, True, False]),
        ([2, 0], [True, False]),
        ([1, 2, 3], [True, True, False]),
        ([0, 1, 2, 3, 4, 5], [False] * 6),
    ):
        which, side = np.array(picked), np.array(mirrored)
        found, expected = reference.of(which, side), direct(tiny_clip_dir, deck, which, side)
        for part in ("rows", "states", "embedding"):
            ours, theirs = getattr(found, part), getattr(expected, part)
            assert ours.shape == theirs.shape
            assert (ours - theirs).abs().max() < 1e-5, part
        seen |= set(zip(picked, mirrored, strict=True))
        assert reference.computed == len(seen)
    other = reference.of(np.array([1]), np.array([False])).embedding
    turned = reference.of(np.array([1]), np.array([True])).embedding
    assert other is not None
    assert turned is not None
    assert (other - turned).abs().max() > 1e-3  # the mirror image is another image


def test_only_what_is_wanted_is_computed(tiny_clip_dir: Path, make_deck: MakeDeck) -> None:
    """A penalty on weights alone needs no backbone at all."""
    adapted = adapted_by(load(tiny_clip_dir), method("full_ft"))
    deck = make_deck(6, classes=3)
    nothing = Reference(adapted, deck, Wants())
    assert nothing.of(ALL, PLAIN) == BackboneBatch(None, None, None) or nothing.computed == 0
    part = Reference(adapted, deck, Wants(embedding=True)).of(ALL, PLAIN)
    assert part.rows is None
    assert part.states is None
    assert part.embedding is not None


@pytest.mark.parametrize("name", ["full_ft", "lora", "dora", "bias_only", "flyp"])
@pytest.mark.parametrize("training", [True, False])
def test_the_live_model_is_left_as_it_was(
    tiny_clip_dir: Path, make_deck: MakeDeck, name: str, training: bool
) -> None:
    """Mode, what is trained and the weights; adapters that are switched off are switched on again."""
    deck = make_deck(6, classes=3)
    adapted = adapted_by(load(tiny_clip_dir), method(name))
    shake(adapted)
    (adapted.train if training else adapted.eval)()

    def state() -> list[Any]:
        model = adapted.clip.model
        return [
            {n: m.training for n, m in model.named_modules()},
            {n: p.requires_grad for n, p in model.named_parameters()},
            torch.get_rng_state().tolist(),
        ]

    before = state()
    with torch.no_grad():
        images = deck.images(slice(None))
        was = trace(adapted.clip.model.eval(), images).embedding
        (adapted.train if training else adapted.eval)()
    Reference(adapted, deck, EVERYTHING).of(ALL, PLAIN)
    assert state() == before
    with torch.no_grad():
        assert torch.equal(trace(adapted.clip.model.eval(), images).embedding, was)


# --- what they are for


def ends(
    folder: Path, deck: Deck, options: Any, how: str = "full_ft", sharpen: float = 1, **optim: Any
) -> tuple[Pass, Pass, Adapted]:
    """Passes before and after a short training; ``options`` none: without a penalty."""
    adapted = adapted_by(load(folder), method(how))
    before = plain_pass(adapted.clip.model, deck.images(slice(None)), folder)
    penalties = penalties_of(adapted, deck, [options]) if options else None
    with torch.no_grad():
        for block in adapted.clip.model.vision_model.encoder.layers:
            block.self_attn.q_proj.weight *= sharpen
            block.self_attn.q_proj.bias *= sharpen
    train_briefly(adapted, deck, penalties, flip=False, **{"learning_rate": 3e-3, "epochs": 8, **optim})
    return before, plain_pass(adapted.clip.model, deck.images(slice(None)), folder), adapted


def cka(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    return ((x.T @ y) ** 2).sum() / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)


def test_each_penalty_does_what_it_is_for(tiny_clip_dir: Path, make_deck: MakeDeck) -> None:
    """Positive control: the same seed with and without it, by plain code."""
    deck = make_deck(8, classes=3, signal=40)
    before, free, model = ends(tiny_clip_dir, deck, None)
    features = class_features(model.clip, CLASSES, ["a photo of a {}"]).double().numpy()
    scale = model.clip.model.logit_scale.exp().item()

    def held(name: str, weight: float) -> Pass:
        return ends(tiny_clip_dir, deck, penalty(name, weight=weight))[1]

    kl = [plain_apr(now, before, [0, 1]) for now in (held("apr", 10), free)]
    assert kl[0] < 0.3 * kl[1]
    likeness = [cka(now["embedding"], before["embedding"]) for now in (held("ldifs", 1), free)]
    assert likeness[0] > likeness[1] + 0.05
    shift = [plain_kl(now, before, features, scale) for now in (held("zero_shot_kl", 10), free)]
    assert shift[0] < 0.3 * shift[1]


def test_l2_sp_holds_the_weights(tiny_clip_dir: Path, make_deck: MakeDeck) -> None:
    """Positive control, for full fine-tuning and for adapters."""
    deck = make_deck(12, classes=3, signal=40)
    base = dict(CLIPModel.from_pretrained(tiny_clip_dir).named_parameters())
    for how in ("full_ft", "dora"):
        drift = []
        for options in (penalty("l2_sp", weight=5), None):
            adapted = adapted_by(load(tiny_clip_dir), method(how))
            penalties = penalties_of(adapted, deck, [options]) if options else None
            train_briefly(adapted, deck, penalties, epochs=8, learning_rate=3e-3)
            merged = adapted.peft.merge_and_unload() if adapted.peft else adapted.clip.model
            state = {n: p.detach() for n, p in merged.named_parameters()}
            drift.append(sum(float((w - base[n].detach()).square().sum()) for n, w in state.items()))
        assert drift[0] < 0.3 * drift[1], how


def test_entropy_floor_lifts_what_is_below(tiny_clip_dir: Path, make_deck: MakeDeck) -> None:
    """Positive control: attention sharpened far below its floor comes up again, and not without it."""
    deck = make_deck(12, classes=3, signal=40)
    lack = []
    for options in (penalty("entropy_floor", weight=5, ratio=0.9), None):
        before, now, _ = ends(tiny_clip_dir, deck, options, sharpen=3, epochs=8)
        lack.append(plain_floor(now, before, [0, 1], 0.9))
    assert lack[1] > 0.1
    assert lack[0] < 0.5 * lack[1]
