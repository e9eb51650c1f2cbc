"""Training OpenCLIP models whose image towers are convolutional or hybrid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from openclip_models import REASON, any_tower, pixels
from torch import Tensor, nn

from clipdrift.adapt import Adapted, adapt, build, check_penalties
from clipdrift.adapt.feed import Feed
from clipdrift.adapt.penalties import Setting
from clipdrift.adapt.reference import Reference
from clipdrift.config import ConfigError, Method, OptimConfig, RunConfig, parse_config
from clipdrift.data.deck import Deck
from clipdrift.data.preprocess import Preprocess
from clipdrift.model.base import Clip
from clipdrift.model.modes import in_eval_mode
from clipdrift.model.openclip import OpenClipTexts
from clipdrift.model.towers import tower_of
from clipdrift.model.trace import trace
from clipdrift.model.weights import statistics
from clipdrift.training.loop import train_model

open_clip = pytest.importorskip("open_clip", reason=REASON)

PLAIN = Preprocess.from_config({"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}})
STAGES = {
    "resnet": "visual.layer{}.",
    "convnext": "visual.trunk.stages.{}.",
    "fastvit": "visual.trunk.stages.{}.",
}
STEM = {
    "resnet": ("visual.conv", "visual.bn"),
    "convnext": "visual.trunk.stem.",
    "fastvit": "visual.trunk.stem.",
}
PROJECTION = {
    "resnet": "visual.attnpool.c_proj.",
    "convnext": "visual.head.",
    "fastvit": "visual.trunk.head.fc.",
}
towers = pytest.mark.parametrize("name", list(STAGES))


def clip_of(name: str) -> Clip:
    model = any_tower(name)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    return Clip(name, model, tokenizer, PLAIN, {}, OpenClipTexts(model, tokenizer))


def deck_of(n: int = 12) -> Deck:
    data = np.random.default_rng(0).integers(0, 256, (n, 64, 64, 3), dtype=np.uint8)
    return Deck(data, np.arange(n), np.arange(n) % 3, PLAIN, torch.device("cpu"))


def method(name: str, **options: Any) -> Method:
    return parse_config({"method": {"name": name, **options}}, RunConfig).method


def stage(name: str, number: int) -> str:
    return STAGES[name].format(number if name == "resnet" else number - 1)


def trained(adapted: Adapted, deck: Deck, **options: Any) -> list[float]:
    losses: list[float] = []
    optim = OptimConfig(learning_rate=0.01, epochs=1, batch_size=4, **options)
    torch.manual_seed(0)
    for _ in train_model(adapted, deck, optim, seed=0, on_step=lambda _, loss: losses.append(loss)):
        pass
    adapted.eval()
    return losses


def whole(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@towers
@pytest.mark.parametrize(
    "options",
    [
        method("full_ft"),
        method("last_blocks", blocks=2),
        method("linear_probe"),
        method("projections"),
        method("norm_only"),
        method("bias_only"),
    ],
    ids=lambda options: options.name,
)
def test_a_method_trains_what_it_says(name: str, options: Method) -> None:
    """By OpenCLIP's own names; buffers, and what is not trained, stay to the bit."""
    clip = clip_of(name)
    image = {n for n, _ in clip.model.named_parameters() if n.startswith("visual.")}
    norms = (nn.BatchNorm2d, nn.LayerNorm)
    normed = {
        f"{path}.{own}"
        for path, module in clip.model.named_modules()
        if isinstance(module, norms)
        for own, _ in module.named_parameters(recurse=False)
    }
    expected = {
        "full_ft": image,
        "last_blocks": {n for n in image if not n.startswith((*STEM[name], stage(name, 1), stage(name, 2)))}
        if name == "resnet"
        else {n for n in image if not n.startswith((STEM[name], stage(name, 1), stage(name, 2)))},
        "linear_probe": set(),
        "projections": {n for n in image if n.startswith(PROJECTION[name])},
        "norm_only": image & normed,
        "bias_only": {n for n in image if n.endswith(".bias")},
    }[options.name]
    adapted = adapt(clip, options, classes=3, seed=0)
    assert {n for n, _ in adapted.parameters() if not n.startswith("head.")} == expected
    before = whole(clip.model)
    trained(adapted, deck_of())
    moved = {n for n, value in whole(clip.model).items() if not torch.equal(value, before[n])}
    assert moved == expected


def test_batch_normalisation_keeps_its_statistics() -> None:
    """In training mode plain torch would have moved them: they are the backbone's after full fine-tuning."""
    clip = clip_of("resnet")
    kept = {n: value.clone() for n, value in statistics(clip.model).items()}
    assert kept
    adapted = adapt(clip, method("full_ft"), classes=3, seed=0)
    adapted.train()
    assert clip.model.visual.training
    assert not clip.model.visual.bn1.training
    trained(adapted, deck_of())
    assert all(torch.equal(value, kept[n]) for n, value in statistics(clip.model).items())
    clip.model.train()
    clip.model.encode_image(pixels(4, 64))
    assert not all(torch.equal(value, kept[n]) for n, value in statistics(clip.model).items())


@pytest.mark.parametrize("name", [*STAGES, "vit", "vitamin", "swin"])
def test_the_tower_goes_on_from_within(name: str) -> None:
    """From what each block has left, the embedding and the later states are those of the whole pass."""
    model = any_tower(name)
    tower = tower_of(model)
    images = pixels(3, tower.geometry.image_size)
    with in_eval_mode(model), torch.no_grad():
        seen = trace(model, images)
        left: list[Tensor] = []
        handles = [
            block.register_forward_hook(lambda _m, _i, output: left.append(tower.carried(output).clone()))
            for block in tower.blocks
        ]
        model.encode_image(images)
        for handle in handles:
            handle.remove()
        for start, carried in enumerate(left, start=1):
            found = trace(model, carried, start=start)
            assert torch.allclose(found.embedding, seen.embedding, atol=1e-5)
            assert len(found.states) == len(left) - start
        assert torch.allclose(trace(model, tower.needed(left[-1]), start=len(left)).embedding, seen.embedding)


@towers
def test_kept_maps_of_frozen_stages_change_no_loss(name: str) -> None:
    deck, losses = deck_of(), []
    for keep in (True, False):
        adapted = adapt(clip_of(name), method("last_blocks", blocks=1), classes=3, seed=0)
        feed = Feed.of(adapted, deck, flip=True, keep=keep)
        assert (feed.kept is not None) == keep
        losses.append(trained(adapted, deck, keep_frozen=keep))
    assert np.allclose(losses[0], losses[1], atol=1e-4)


def test_adapters_have_a_place_or_are_refused() -> None:
    """peft on the MLPs of a ConvNeXt: switched off it is the backbone; a ResNet has no such matrices."""
    with pytest.raises(ConfigError, match="method lora: the image tower of resnet has no matrices that"):
        adapt(clip_of("resnet"), method("lora"), classes=3, seed=0)
    with pytest.raises(ConfigError, match="have no matrix 'q'; legal: mlp"):
        adapt(clip_of("convnext"), method("lora"), classes=3, seed=0)
    clip = clip_of("convnext")
    images = pixels(2, 64)
    with torch.no_grad():
        backbone = clip.model.encode_image(images)
    adapted = adapt(clip, method("lora", targets=("mlp",)), classes=3, seed=0)
    trained(adapted, deck_of())
    assert adapted.peft is not None
    with torch.no_grad():
        now = trace(clip.model, images).embedding
        with adapted.peft.disable_adapter():
            assert torch.equal(trace(clip.model, images).embedding, backbone)
    assert not torch.allclose(now, backbone, atol=1e-3)
    assert all("mlp.fc" in n for n, _ in adapted.parameters() if "lora_" in n)


def test_penalties_that_hold_attention_are_refused() -> None:
    """One that holds states works where their widths differ, by the formula."""
    options = parse_config({"penalty": {"name": "apr"}}, RunConfig).penalty
    reason = tower_of(any_tower("convnext")).lacks("entropy")
    with pytest.raises(ConfigError, match="penalty apr: the model has no attention to hold: its stages are"):
        check_penalties(options, 4, inattentive=reason)
    clip, deck = clip_of("convnext"), deck_of(4)
    adapted = adapt(clip, method("full_ft"), classes=3, seed=0)
    ldifs = parse_config({"penalty": {"name": "ldifs", "weight": 1.0}}, RunConfig).penalty
    penalties = build(ldifs, Setting(adapted, (), torch.eye(24)[:3]))
    reference = Reference(adapted, deck, penalties.wants)
    with torch.no_grad():
        for parameter in clip.model.visual.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    picked, mirrored = np.arange(4), np.zeros(4, bool)
    adapted.eval()
    with torch.no_grad():
        seen = trace(clip.model, deck.images(picked))
        before = trace(any_tower("convnext"), deck.images(picked))
        total = penalties(seen, 1, reference.of(picked, mirrored))
    pairs = [*zip(seen.states, before.states, strict=True), (seen.embedding, before.embedding)]
    expected = sum(float(((x - y) ** 2).sum(1).mean()) for x, y in pairs)
    assert float(total) == pytest.approx(expected, rel=1e-5)
