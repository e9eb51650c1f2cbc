"""The parts of towers that methods freeze and train, and what is said of a tower that has none."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import nn

from clipdrift.adapt import check_method
from clipdrift.adapt.tower_parts import TowerParts, copied_tower
from clipdrift.config import ConfigError, LastBlocks, Lora
from clipdrift.model.clip import Clip, ModelError
from clipdrift.model.towers.base import Tower
from clipdrift.model.towers.huggingface import HuggingFaceClip
from clipdrift.model.towers.layout import TowerLayout, parameters_in, within

TOWERS: tuple[Literal["image", "text"], ...] = ("image", "text")


def test_a_place_is_a_name_or_what_lies_in_it() -> None:
    """``layers.1`` is no part of ``layers.10``."""
    assert within("layers.1.weight", ("layers.1",))
    assert within("layers.1", ("layers.1",))
    assert not within("layers.10.weight", ("layers.1",))


@pytest.mark.parametrize("tower", TOWERS)
def test_parts_are_disjoint_and_in_the_tower(tiny_clip: Clip, tower: Literal["image", "text"]) -> None:
    """Stem, blocks and projection; what is left of the tower is its final layer norm."""
    parts = TowerParts.of(tiny_clip, tower)
    layout = parts.layout
    places = [layout.stem, *((block,) for block in layout.blocks), layout.projection]
    names = [name for place in places for name, _ in parts.parameters(place)]
    whole = {name for name, _ in parts.parameters()}
    assert len(names) == len(set(names))
    assert all(list(parts.parameters(place)) for place in places)
    assert all("layer_norm" in name or "layernorm" in name for name in whole - set(names))
    assert set(names) < whole


def test_the_two_towers_are_all_but_the_scale(tiny_clip: Clip) -> None:
    every = {name for name, _ in tiny_clip.model.named_parameters()}
    towers = [{name for name, _ in TowerParts.of(tiny_clip, tower).parameters()} for tower in TOWERS]
    assert towers[0] | towers[1] == every - {"logit_scale"}
    assert not towers[0] & towers[1]


def test_blocks_are_those_that_are_read(tiny_clip: Clip) -> None:
    view = HuggingFaceClip.of(tiny_clip.model)
    blocks = [tiny_clip.model.get_submodule(name) for name in view.layout().blocks]
    assert all(one is other for one, other in zip(blocks, view.blocks, strict=True))


@pytest.mark.parametrize("tower", TOWERS)
def test_a_copied_tower_is_frozen_and_leaves_the_live_one(
    tiny_clip: Clip, tower: Literal["image", "text"]
) -> None:
    """Parameters of the other tower are the live model's own."""
    whole = TowerParts.of(tiny_clip, tower).layout.whole
    copied = copied_tower(tiny_clip, tower)
    live = dict(tiny_clip.model.named_parameters())
    for name, parameter in copied.named_parameters():
        inside = within(name, whole)
        assert (parameter is live[name]) != inside
        assert torch.equal(parameter, live[name])
        assert live[name].requires_grad
        assert parameter.requires_grad != inside


def test_what_cannot_be_trained_says_so(tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, from the view of the tower itself."""
    monkeypatch.setattr(HuggingFaceClip, "layout", Tower.layout)
    with pytest.raises(ModelError) as caught:
        check_method(tiny_clip, LastBlocks(name="last_blocks"))
    assert str(caught.value).startswith("tiny: the image tower of transformers.")
    assert str(caught.value).endswith("CLIPModel can be measured and compared, not trained")


def test_matrices_that_a_tower_has_not_are_named(tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = HuggingFaceClip.of(tiny_clip.model).layout()
    fields: dict[str, Any] = {name: getattr(whole, name) for name in TowerLayout.__dataclass_fields__}
    fields["matrices"] = {"mlp": r"mlp\.fc[12]"}
    monkeypatch.setattr(HuggingFaceClip, "layout", lambda self: TowerLayout(**fields))
    check_method(tiny_clip, Lora(name="lora", targets=("mlp",)))
    with pytest.raises(ConfigError, match="image tower of tiny have no matrix 'q'; legal: mlp"):
        check_method(tiny_clip, Lora(name="lora"))


def test_parameters_keep_their_order() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1))
    assert [name for name, _ in parameters_in(model, ("2", "0"))] == [
        "0.weight",
        "0.bias",
        "2.weight",
        "2.bias",
    ]
