"""Training OpenCLIP models on timm's Eva (EVA01-CLIP, EVA02-CLIP)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openclip_models import CONFIG, PREPROCESSING, REASON, eva, moved, pixels
from safetensors.torch import save_file
from torch import Tensor, nn

from clipdrift.adapt import Adapted, adapt
from clipdrift.adapt.feed import Feed
from clipdrift.comparison.compare import compare
from clipdrift.config import ConfigError, Method, OptimConfig, RunConfig, parse_config
from clipdrift.data.deck import Deck
from clipdrift.data.preprocess import Preprocess
from clipdrift.exporting import ExportError
from clipdrift.exporting.from_open_clip import as_transformers
from clipdrift.model.base import Clip
from clipdrift.model.clip import load
from clipdrift.model.openclip import OpenClipTexts
from clipdrift.model.trace import trace
from clipdrift.model.weights import effective_weights
from clipdrift.repair.softening import soften
from clipdrift.training.loop import train_model
from eva_models import EVAS, vision_of

open_clip = pytest.importorskip("open_clip", reason=REASON)

PLAIN = Preprocess.from_config({"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}})
kinds = pytest.mark.parametrize("kind", ["eva02", "eva01", "eva_mixed"])


def clip_of(kind: str) -> Clip:
    model = eva(kind)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    return Clip(kind, model, tokenizer, PLAIN, {}, OpenClipTexts(model, tokenizer))


def deck_of(n: int = 12) -> Deck:
    data = np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    return Deck(data, np.arange(n), np.arange(n) % 3, PLAIN, torch.device("cpu"))


def method(name: str, **options: Any) -> Method:
    return parse_config({"method": {"name": name, **options}}, RunConfig).method


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


def folder_of(model: Any, place: Path) -> Path:
    place.mkdir()
    content = {"model_cfg": CONFIG | {"vision_cfg": vision_of("eva02")}, "preprocess_cfg": PREPROCESSING}
    (place / "open_clip_config.json").write_text(json.dumps(content))
    save_file(model.state_dict(), place / "open_clip_model.safetensors")
    return place


@kinds
@pytest.mark.parametrize(
    "options",
    [
        method("full_ft"),
        method("last_blocks", blocks=1),
        method("linear_probe"),
        method("projections"),
        method("norm_only"),
        method("bias_only"),
    ],
    ids=lambda options: options.name,
)
def test_a_method_trains_what_it_says(kind: str, options: Method) -> None:
    """By OpenCLIP's own names; what is not trained stays to the bit."""
    clip = clip_of(kind)
    image = {n for n, _ in clip.model.named_parameters() if n.startswith("visual.")}
    end = {n for n in image if n.startswith(("visual.trunk.norm.", "visual.trunk.head."))}
    expected = {
        "full_ft": image,
        "last_blocks": end | {n for n in image if n.startswith("visual.trunk.blocks.1.")},
        "linear_probe": set(),
        "projections": {n for n in image if n.startswith("visual.trunk.head.")},
        "norm_only": {n for n in image if "norm" in n},
        "bias_only": {n for n in image if n.endswith(("bias", "q_bias", "v_bias"))},
    }[options.name]
    adapted = adapt(clip, options, classes=3, seed=0)
    assert {n for n, _ in adapted.parameters() if not n.startswith("head.")} == expected
    if options.name == "bias_only":
        inside = "visual.trunk.blocks.1.attn."
        assert {f"{inside}q_bias", f"{inside}q_proj.bias"} & expected
    before = whole(clip.model)
    trained(adapted, deck_of())
    changed = {n for n, value in whole(clip.model).items() if not torch.equal(value, before[n])}
    assert changed == expected


@pytest.mark.parametrize("kind", EVAS)
def test_what_frozen_blocks_make_is_kept_and_changes_no_loss(kind: str) -> None:
    """The blocks behind them turn their queries and keys as in the whole pass."""
    deck, losses = deck_of(), []
    for keep in (True, False):
        adapted = adapt(clip_of(kind), method("last_blocks", blocks=1), classes=3, seed=0)
        feed = Feed.of(adapted, deck, flip=True, keep=keep)
        assert (feed.kept is not None) == keep
        losses.append(trained(adapted, deck, keep_frozen=keep))
    assert np.allclose(losses[0], losses[1], atol=1e-4)


def test_adapters_have_a_place_where_there_are_matrices() -> None:
    """On all of EVA02's; EVA01 keeps queries, keys and values in one matrix."""
    with pytest.raises(ConfigError, match="have no matrix 'q'; legal: out, mlp"):
        adapt(clip_of("eva01"), method("lora"), classes=3, seed=0)
    for kind, targets, each in (("eva02", ("q", "k", "v", "out", "mlp"), 7), ("eva01", ("out", "mlp"), 3)):
        clip = clip_of(kind)
        with torch.no_grad():
            backbone = clip.model.encode_image(pixels(2))
        adapted = adapt(clip, method("lora", targets=targets), classes=3, seed=0)
        assert sum("lora_A" in name for name, _ in adapted.parameters()) == 2 * each
        trained(adapted, deck_of())
        assert adapted.peft is not None
        with torch.no_grad():
            now = trace(clip.model, pixels(2)).embedding
            with adapted.peft.disable_adapter():
                assert torch.equal(trace(clip.model, pixels(2)).embedding, backbone)
        assert not torch.allclose(now, backbone, atol=1e-3)


def test_two_are_compared_and_softened(pictures: Path, tmp_path: Path) -> None:
    """Kinds of matrix are those of gated MLPs, in drift and intruders; OpenCLIP loads what is saved."""
    model = eva("eva02")
    other = moved(model, by=0.2)
    base, tuned = folder_of(model, tmp_path / "base"), folder_of(other, tmp_path / "tuned")
    options: dict[str, Any] = {"cache": tmp_path / "cache", "device": "cpu", "limit": 8}
    found = compare(str(base), str(tuned), pictures, **options)
    old, new = (
        torch.stack([block.mlp.fc1_g.weight.detach() for block in side.visual.trunk.blocks])
        for side in (model, other)
    )
    assert found.measures["weight_drift_fc1_g"].value == pytest.approx(
        float((new - old).norm() / old.norm()), rel=1e-4
    )
    assert "weight_drift_fc1" not in found.measures
    assert found.measures["entropy"].before is not None
    assert {row.kind for row in found.spectra} == {"q", "k", "v", "out", "fc1_g", "fc1_x", "fc2"}
    done = soften(
        str(base), str(tuned), images=pictures, scale=0.5, threshold=0.99, out=tmp_path / "soft", **options
    )
    assert done.steps[0].intruders["fc1_x"]
    saved = load(str(tmp_path / "soft" / "model")).model
    again = open_clip.create_model(f"local-dir:{tmp_path / 'soft' / 'model'}").eval()
    with torch.no_grad():
        assert torch.equal(saved.encode_image(pixels(2)), again.encode_image(pixels(2)))
    name = "vision_model.encoder.layers.0.mlp.fc1_x.weight"
    assert not torch.allclose(effective_weights(saved)[name], effective_weights(other)[name])


def test_transformers_has_no_such_model() -> None:
    with pytest.raises(ExportError, match=r"has no such image tower \(Eva\); what clipdrift saves of it"):
        as_transformers(clip_of("eva_axial"))
