"""Every method with every penalty trains; what cannot be combined is refused with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from clipdrift.adapt import METHODS, PENALTIES, Setting, adapt, build, check_method, check_penalties
from clipdrift.config import ConfigError, OptimConfig, RunConfig, parse_config
from clipdrift.data.deck import Deck
from clipdrift.formulas import entropy
from clipdrift.model.clip import Clip
from clipdrift.model.trace import trace
from clipdrift.model.zero_shot import class_features
from clipdrift.training.loop import train_model

CLASSES = ("circle", "square")
NAMES: list[str | None] = [None, *PENALTIES]


def epoch(clip: Clip, deck: Deck, config: RunConfig, bf16: bool = False) -> float:
    """The loss of one epoch, composed as a run composes it; the weights must be finite and have moved."""
    check_method(clip, config.method)
    check_penalties(config.penalty, clip.blocks)
    with torch.no_grad():
        rows = trace(clip.model, deck.images(slice(None)), rows=True).rows
    assert rows is not None
    entropies = tuple(entropy(rows[..., 1:]).mean((1, 2)).tolist())
    features = class_features(clip, CLASSES, ["a {}"])
    adapted = adapt(clip, config.method, 2, 0, [f"a {name}" for name in CLASSES])
    penalties = build(config.penalty, Setting(adapted, entropies, features))
    before = adapted.snapshot()
    optim = OptimConfig(learning_rate=1e-3, epochs=1, batch_size=4)
    (moment,) = train_model(adapted, deck, optim, seed=0, penalties=penalties, bf16=bf16)
    after = adapted.snapshot()
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
    return moment.loss


@pytest.mark.parametrize("penalty", NAMES, ids=str)
@pytest.mark.parametrize("method", [name for name in METHODS if name != "logit_scale"])  # of captions
def test_one_epoch(tiny_clip: Clip, make_deck: Callable[..., Deck], method: str, penalty: str | None) -> None:
    """Finite loss, finite weights; or refused, for the one method that leaves the tower alone."""
    data: dict[str, Any] = {"method": method, **({"penalty": penalty} if penalty else {})}
    if method == "linear_probe" and penalty:
        with pytest.raises(ConfigError, match=f"penalty {penalty} with method linear_probe: only the head"):
            parse_config(data, RunConfig)
        return
    assert math.isfinite(epoch(tiny_clip, make_deck(4), parse_config(data, RunConfig)))


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"linear_probe", "logit_scale"}))
def test_all_penalties_at_once_in_bf16(tiny_clip: Clip, make_deck: Callable[..., Deck], method: str) -> None:
    """As on a GPU; frozen blocks where the method knows them."""
    options: dict[str, Any] = {"name": method}
    fixed = ("last_blocks", "projections")
    options |= {} if method in fixed else {"frozen_blocks": 1}
    options |= {} if "lora" in method or method in ("dora", *fixed) else {"freeze_embeddings": True}
    config = parse_config({"method": options, "penalty": list(PENALTIES)}, RunConfig)
    assert math.isfinite(epoch(tiny_clip, make_deck(4), config, bf16=True))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"method": "linear_probe", "penalty": "apr"}, "penalty apr with method linear_probe: only the head"),
        ({"penalty": ["apr", {"name": "apr", "weight": 1}]}, "penalty names 'apr' twice"),
        ({"method": "lorra"}, r"method\.name = 'lorra': unknown; legal: 'full_ft', 'lora'"),
        ({"penalty": "l2"}, r"penalty\.name = 'l2': unknown; legal: 'apr'"),
        ({"method": {"name": "full_ft", "frozen_blocks": 3}}, r"method\.frozen_blocks = 3: .*legal: 0 to 2"),
        ({"method": {"name": "last_blocks", "blocks": 3}}, r"method\.blocks = 3: .*legal: 1 to 2"),
        ({"method": {"name": "lora", "frozen_blocks": 2}}, r"method\.frozen_blocks = 2: .*legal: 0 to 1"),
        ({"penalty": {"name": "ldifs", "blocks": [3]}}, "penalty ldifs: block 3; the model has 2, from 1"),
    ],
    ids=str,
)
def test_contradictions_are_refused(
    tiny_clip: Clip, make_deck: Callable[..., Deck], data: dict[str, Any], message: str
) -> None:
    """When the configuration is read, or once the model is known; before anything is trained."""
    with pytest.raises(ConfigError, match=message):
        epoch(tiny_clip, make_deck(4), parse_config(data, RunConfig))
    assert all(p.requires_grad for p in tiny_clip.model.parameters())
