"""Every cell of the table of docs/models.md, on a small random model of each family's class."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_table import COLUMNS, FAMILIES, Family, table
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel, SiglipModel

from clipdrift.adapt import Adapted, adapt, effective_weights, load_adapted
from clipdrift.config import Lora, Method, ModelConfig, OptimConfig, RunConfig, parse_config
from clipdrift.data.deck import Deck
from clipdrift.errors import ClipdriftError
from clipdrift.formulas import cka
from clipdrift.measures import read_internals
from clipdrift.model.clip import Clip, load
from clipdrift.model.towers import tower_of
from clipdrift.model.trace import trace
from clipdrift.model.zero_shot import class_features, predict
from clipdrift.training.loop import train_model

CLASSES = ("red circle", "green square", "blue hexagon")
TEXTS = tuple(f"a photo of a {name}" for name in CLASSES)
REASON = "needs OpenCLIP: make test-open-clip"
FULL = parse_config({"method": "full_ft"}, RunConfig).method
DOCS = Path(__file__).parents[2] / "docs/models.md"

Cell = Callable[[Family], Path]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    """The folder of a family's small model, made once."""
    made: dict[str, Path] = {}

    def of(family: Family) -> Path:
        if family.open_clip:
            pytest.importorskip(
                "open_clip", reason="needs OpenCLIP: make test-open-clip", exc_type=ImportError
            )
        if family.title not in made:
            made[family.title] = tmp_path_factory.mktemp("family")
            family.make(made[family.title])
        return made[family.title]

    return of


def cells(column: str) -> pytest.MarkDecorator:
    """Families of which a column says yes."""
    told = [pytest.param(family, id=family.title) for family in FAMILIES if family.says[column] is None]
    return pytest.mark.parametrize("family", told)


def images(family: Family, n: int = 3) -> Tensor:
    side = family.image_size
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def by_its_library(model: Any, pixels: Tensor) -> Tensor:
    """Image embeddings by the library's own function."""
    model.eval()
    if hasattr(model, "encode_image"):
        return model.encode_image(pixels)
    return model.get_image_features(pixel_values=pixels).pooler_output


def lora(family: Family) -> Method:
    """On every matrix that the family has; the usual ones where it has none."""
    return Lora(name="lora", rank=2, targets=family.adapted[0])


def deck_of(make_deck: Callable[..., Deck], family: Family, n: int = 8) -> Deck:
    return make_deck(n, classes=3, size=family.image_size)


def trained(clip: Clip, options: Method, deck: Deck) -> Adapted:
    adapted = adapt(clip, options, classes=3, seed=0, texts=TEXTS)
    optim = OptimConfig(learning_rate=0.01, epochs=1, batch_size=4)
    losses: list[float] = []
    for _ in train_model(adapted, deck, optim, seed=0, on_step=lambda _, loss: losses.append(loss)):
        pass
    assert np.isfinite(losses).all()
    adapted.eval()
    return adapted


def close(one: Tensor, other: Tensor, relative: float = 1e-5) -> bool:
    return bool((one - other).abs().max() <= relative * other.abs().max())


# --- the table itself


def test_the_docs_hold_this_table() -> None:
    """Row by row, with every reason."""
    wanted, found = table(), DOCS.read_text()
    begin, end = "<!-- models -->\n", "\n<!-- end of models -->"
    assert begin in found
    assert found.partition(begin)[2].partition(end)[0] == wanted, f"docs/models.md has to say:\n{wanted}"


def test_every_cell_is_a_yes_or_has_a_reason() -> None:
    assert all(family.says.keys() == set(COLUMNS) for family in FAMILIES)
    assert all(set(family.no) <= set(COLUMNS) and all(family.no.values()) for family in FAMILIES)
    assert len({family.title for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize(
    "family", [pytest.param(family, id=family.title) for family in FAMILIES if "load" in family.no]
)
def test_what_is_not_loaded_says_why(family: Family, folders: Cell) -> None:
    """In one line, with the table's own reason in it."""
    with pytest.raises(ClipdriftError) as caught:
        load(folders(family))
    assert family.no["load"] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "family", [pytest.param(family, id=family.title) for family in FAMILIES if "lora" in family.no]
)
def test_without_a_place_for_adapters(family: Family, folders: Cell) -> None:
    with pytest.raises(ClipdriftError) as caught:
        adapt(load(folders(family)), lora(family), classes=3, seed=0, texts=TEXTS)
    assert family.no["lora"] in str(caught.value)


@pytest.mark.parametrize(
    "family", [pytest.param(family, id=family.title) for family in FAMILIES if "attention" in family.no]
)
def test_without_attention(family: Family, folders: Cell) -> None:
    """Nothing is read in its place."""
    clip = load(folders(family))
    with torch.no_grad():
        assert trace(clip.model, images(family), rows=True).rows is None
    assert family.no["attention"] in str(tower_of(clip.model).lacks("entropy"))


# --- its cells


@cells("load")
def test_load(family: Family, folders: Cell) -> None:
    """The embeddings are those of the library; the grid is the shape's."""
    clip = load(folders(family))
    assert clip.geometry.grid == (family.grid, family.grid)
    assert clip.image_size == family.image_size
    with torch.no_grad():
        found = trace(clip.model, images(family)).embedding
    assert close(found, by_its_library(clip.model, images(family)))
    assert torch.isfinite(clip.texts(TEXTS)).all()


@cells("train")
def test_train(family: Family, folders: Cell, make_deck: Callable[..., Deck]) -> None:
    """Every part of the image tower moves, and nothing of the text tower."""
    clip = load(folders(family))
    before, words = effective_weights(copy.deepcopy(clip.model)), clip.texts(TEXTS)
    adapted = trained(clip, FULL, deck_of(make_deck, family))
    after = effective_weights(adapted.clip.model)
    still = {name for name, weight in before.items() if torch.equal(weight, after[name])}
    assert not still
    assert close(adapted.clip.texts(TEXTS), words)


@cells("lora")
def test_lora(family: Family, folders: Cell, make_deck: Callable[..., Deck]) -> None:
    """On every matrix of every block; switched off, the backbone is there; merged, nothing changes."""
    clip = load(folders(family))
    backbone = by_its_library(clip.model, images(family))
    adapted = trained(clip, lora(family), deck_of(make_deck, family))
    assert adapted.peft is not None
    assert (
        sum(name.endswith("lora_A.default.weight") for name, _ in adapted.parameters()) == family.adapted[1]
    )
    now = by_its_library(adapted.clip.model, images(family))
    assert not close(now, backbone, 1e-3)
    with adapted.peft.disable_adapter():
        assert close(by_its_library(adapted.clip.model, images(family)), backbone)
    merged = copy.deepcopy(adapted.peft).merge_and_unload()
    assert close(by_its_library(merged, images(family)), now, 1e-4)


@torch.no_grad()
def its_rows(model: Any, pixels: Tensor) -> Tensor:
    """Attention over patches as torch or transformers returns it, on what each block is given."""
    given: list[Tensor] = []

    def keep(_module: object, _inputs: object, output: Tensor) -> None:
        given.append(output)

    if isinstance(model, SiglipModel):
        hidden = model.vision_model(pixel_values=pixels).last_hidden_state
        head = model.vision_model.head
        probe = head.probe.expand(len(pixels), -1, -1)
        return head.attention(probe, hidden, hidden, average_attn_weights=False)[1][None, :, :, 0]
    if isinstance(model, CLIPModel):
        plain = copy.deepcopy(model)
        plain.set_attn_implementation("eager")
        found = plain.vision_model(pixel_values=pixels, output_attentions=True).attentions
        return torch.stack(found)[:, :, :, 0, 1:]
    if hasattr(model.visual, "attnpool"):
        pool, places = (
            model.visual.attnpool,
            model.visual.forward_intermediates(pixels)["image_intermediates"],
        )
        tokens = places[-1].flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + pool.positional_embedding
        q, k = (
            layer(given).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
            for layer, given in ((pool.q_proj, tokens[:, :1]), (pool.k_proj, tokens))
        )
        return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)[None, :, :, 0, 1:]
    if hasattr(model.visual, "trunk"):
        plain = copy.deepcopy(model)
        for block in plain.visual.trunk.blocks:
            block.attn.fused_attn = False
            block.attn.attn_drop.register_forward_hook(keep)
        plain.encode_image(pixels)
        return torch.stack(given)[:, :, :, 0, 1:]
    blocks = list(model.visual.transformer.resblocks)
    handles = [block.ln_1.register_forward_hook(keep) for block in blocks]
    model.encode_image(pixels)
    for handle in handles:
        handle.remove()
    rows = []
    for block, x in zip(blocks, given, strict=True):
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        q, k, _ = (x @ weight.T + bias).unflatten(-1, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        rows.append((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)[:, :, 0, 1:])
    return torch.stack(rows)


@cells("attention")
def test_attention(family: Family, folders: Cell) -> None:
    """The rows that are read are those that the model computes with."""
    clip = load(folders(family))
    with torch.no_grad():
        found = trace(clip.model, images(family), rows=True).patch_rows
    assert found is not None
    assert found.shape[-1] == family.grid**2
    assert (found - its_rows(clip.model, images(family))).abs().max() < 1e-5


@cells("representation")
def test_representation(family: Family, folders: Cell, make_deck: Callable[..., Deck]) -> None:
    """States and embeddings of a probe set: as near itself as CKA says, less so once weights have moved."""
    clip = load(folders(family))
    probe = deck_of(make_deck, family)
    before = read_internals(clip.model, probe)
    with torch.no_grad():
        for weight in effective_weights(clip.model).values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    after = read_internals(clip.model, probe)
    assert before.states.blocks == after.states.blocks == family.blocks
    assert float(cka(before.embedding, before.embedding)) == pytest.approx(1)
    assert float(cka(before.embedding, after.embedding)) < 0.9999
    assert ("entropy" in before.measures) == (family.says["attention"] is None)
    for name in before.measures:
        assert before.blocks(name).shape == after.blocks(name).shape


@cells("zero-shot")
def test_zero_shot(family: Family, folders: Cell) -> None:
    """The class whose text is nearest by the library's own scores."""
    clip = load(folders(family))
    features = class_features(clip, CLASSES, ["a photo of a {}"])
    found = by_its_library(clip.model, images(family, 6))
    scores = normalize(found, dim=-1) @ normalize(clip.texts(TEXTS), dim=-1).T
    assert torch.equal(predict(found, features), scores.argmax(-1))
    assert torch.allclose(features, normalize(clip.texts(TEXTS), dim=-1), atol=1e-5)


@cells("save")
@pytest.mark.parametrize("way", ["full", "lora"])
def test_save(
    family: Family, folders: Cell, make_deck: Callable[..., Deck], tmp_path: Path, way: str
) -> None:
    """The model's own library loads what was saved, and so does clipdrift: the same embeddings."""
    clip = load(folders(family))
    if way == "lora" and family.says["lora"]:
        pytest.skip("no place for adapters")
    adapted = trained(clip, FULL if way == "full" else lora(family), deck_of(make_deck, family))
    adapted.save(tmp_path / "out")
    now = by_its_library(adapted.clip.model, images(family))
    assert close(
        by_its_library(plain(family, clip, tmp_path / "out", folders(family)), images(family)), now, 1e-4
    )
    again = load_adapted(tmp_path / "out", ModelConfig(name="family", path=str(folders(family))))
    assert close(by_its_library(again.model, images(family)), now)


def plain(family: Family, clip: Clip, saved: Path, base: Path) -> Any:
    """As a user without clipdrift loads it."""
    if family.open_clip:
        open_clip = pytest.importorskip("open_clip")
        return open_clip.create_model(f"local-dir:{saved}")
    kind = SiglipModel if isinstance(clip.model, SiglipModel) else CLIPModel
    if not (saved / "adapter_config.json").is_file():
        return kind.from_pretrained(saved)
    return PeftModel.from_pretrained(kind.from_pretrained(base), saved).base_model.model
