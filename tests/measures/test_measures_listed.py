"""Each number that measuring gives is listed, in the unit and within the range that the listing says."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from measure_oracles import Array, Eager
from torch import Tensor, nn
from transformers import CLIPModel, SiglipModel

from clipdrift.data.deck import Prepared
from clipdrift.listing import MEASURES
from clipdrift.measures import (
    ATTENTION,
    CONVOLUTIONS,
    FLOW,
    GATED,
    KINDS,
    REPRESENTATION,
    Internals,
    cka_minibatch,
    drift,
    read_internals,
    representation,
    spectra,
    task_vector_cosines,
    weights,
    weights_by_kind,
)
from clipdrift.model.clip import Clip
from clipdrift.model.weights import effective_weights


def ends(name: str, patches: int = 16) -> tuple[float, float]:
    """The listed range as numbers; "about" allows debiased estimates to leave it a little."""
    p = patches
    known: dict[str, tuple[float, float]] = {
        "0 to ln P": (0, math.log(p)),
        "0 to log2 P": (0, math.log2(p)),
        "0 to 1": (0, 1),
        "1/P to 1": (1 / p, 1),
        "0 to 1 - 1/P": (0, 1 - 1 / p),
        "0 to P/2": (0, p / 2),
        "about 0 to 1": (-0.3, 1),
        "0 to 2": (0, 2),
        "from 0": (0, math.inf),
        "1 to full rank": (1, 32),
        "0 to 10": (0, 10),
        "-1 to 1": (-1, 1),
    }
    return known[MEASURES[name].range]


def within(name: str, values: Array, patches: int = 16) -> None:
    low, high = ends(name, patches)
    assert np.min(values) >= low - 1e-6, name
    assert np.max(values) <= high + 1e-6, name


def moved(model: Any) -> Any:
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return other


def everything(model: Any, probe: Prepared) -> dict[str, tuple[str, Array]]:
    """Family and values of all that is read of a model and of a second one against it."""
    other = moved(model)
    before, after = (read_internals(m, probe, flow=True) for m in (model, other))
    out = {
        name: ("flow" if name in FLOW else "attention", before.attention.get(name, before.blocks(name)))
        for name in before.measures
    }
    alike = representation(before, after) | {"cka_minibatch": cka_minibatch(before, after, size=5)}
    out |= {name: ("representation", np.array(values)) for name, values in alike.items()}
    old, new = effective_weights(model), effective_weights(other)
    found = weights(old, new)
    found["weight_drift"] += found.pop("weight_drift_blocks")  # the same measure, block by block
    found |= {
        f"weight_drift_{kind}": [whole, *blocks]
        for kind, (whole, blocks) in weights_by_kind(old, new).items()
    }
    changes = spectra(old, new)
    found["effective_rank"] = [change.effective_rank for change in changes]
    found["intruder_dimensions"] = [change.intruders for change in changes]
    back = {name: 2 * weight - new[name] for name, weight in old.items()}
    for third in (back, effective_weights(moved(other))):
        whole, blocks = task_vector_cosines(old, new, third, blocks=2)
        found.setdefault("task_vector_cosine", []).extend(v for v in (whole, *blocks) if v is not None)
    return out | {name: ("weights", np.array(values)) for name, values in found.items()}


def test_all_that_clip_gives_is_listed(tiny_clip: Clip, probe: Prepared) -> None:
    """Family by family, none missing on either side; values in their ranges."""
    found = everything(tiny_clip.model, probe)
    families = {"attention", "flow", "representation", "weights"}
    listed = {name for name, entry in MEASURES.items() if entry.family in families}
    assert found.keys() == listed - {f"weight_drift_{kind}" for kind in CONVOLUTIONS | GATED}
    for name, (family, values) in found.items():
        assert MEASURES[name].family == family, name
        within(name, values)
    assert {*ATTENTION, *FLOW, *REPRESENTATION, *(f"weight_drift_{kind}" for kind in KINDS)} <= found.keys()


def test_all_that_siglip_gives_is_listed(siglip: SiglipModel, probe: Prepared) -> None:
    """All but what it has not: a class token and a projection."""
    found = everything(siglip, probe)
    both = {name for name, entry in MEASURES.items() if entry.family not in ("text", "ability", "stability")}
    convolutions = {f"weight_drift_{kind}" for kind in CONVOLUTIONS | GATED}
    assert both - found.keys() == {"cls_self", "weight_drift_projection"} | convolutions
    assert found.keys() <= both
    for name, (family, values) in found.items():
        assert MEASURES[name].family == family, name
        within(name, values)


def test_ranges_hold_at_the_real_geometry(b32: tuple[Internals, Eager]) -> None:
    """With 49 patches."""
    found = b32[0]
    for name in found.measures:
        if not name.startswith("erf"):
            within(name, found.attention.get(name, found.blocks(name)), 49)


# --- units: landmarks are ends of ranges


def look(model: CLIPModel, at: int | None) -> None:
    """Make every query attend to one token alone, or to all tokens alike."""
    for block in model.vision_model.encoder.layers:
        attention = block.self_attn
        with torch.no_grad():
            attention.q_proj.weight.zero_()
            attention.q_proj.bias.fill_(0.0 if at is None else 1.0)

        def keys(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            made = torch.zeros_like(output)
            made[:, at] = 1e3
            return made

        if at is not None:
            attention.k_proj.register_forward_hook(keys)


SPREAD = ("entropy", "normalised_entropy", "erf95", "rollout_entropy", "rollout_erf95", "patch_entropy")
"""High where attention is even."""
CONCENTRATION = ("gini", "sink_share", "rollout_gini")
"""Low where attention is even."""


def test_even_attention(tiny_clip: Clip, probe: Prepared) -> None:
    """ln 16 = 2.77 nats, log2 16 = 4 bits, as the listing's unit says; the other ends of the ranges, too."""
    look(tiny_clip.model, None)
    found = read_internals(tiny_clip.model, probe, flow=True)
    for name in SPREAD:
        assert found.attention[name] == pytest.approx(ends(name)[1], abs=1e-6), name
    for name in CONCENTRATION:
        assert found.attention[name] == pytest.approx(ends(name)[0], abs=1e-6), name
    for name in ("head_diversity", "head_diversity_of_mean"):
        assert found.blocks(name) == pytest.approx([0, 0], abs=1e-6)
    assert found.attention["cls_self"] == pytest.approx(1 / 17, abs=1e-6)
    most = {name: found.blocks(name)[0] for name in SPREAD}
    units = {"nats": math.log(16), "bits": 4, "share of patches": 1, "": 1}
    assert most == pytest.approx({name: units[MEASURES[name].unit] for name in SPREAD}, abs=1e-6)
    assert MEASURES["entropy"].unit == "nats"
    assert MEASURES["rollout_entropy"].unit == MEASURES["patch_entropy"].unit == "bits"


def test_attention_on_one_patch(tiny_clip: Clip, probe: Prepared) -> None:
    """Nothing to learn, one patch of sixteen, as unequal as can be."""
    look(tiny_clip.model, 5)
    found = read_internals(tiny_clip.model, probe, flow=True)
    for name in SPREAD:
        assert found.attention[name] == pytest.approx(ends(name)[0], abs=1e-6), name
    for name in CONCENTRATION:
        assert found.attention[name] == pytest.approx(ends(name)[1], abs=1e-6), name
    assert found.attention["cls_self"] == pytest.approx(0, abs=1e-6)


def test_embeddings_turned_round(tiny_clip: Clip, probe: Prepared) -> None:
    """An embedding drift of 2, the most there is, though CKA, which a sign is no change to, says 1."""
    before = read_internals(tiny_clip.model, probe)
    with torch.no_grad():
        tiny_clip.model.visual_projection.weight.neg_()
    found = representation(before, read_internals(tiny_clip.model, probe))
    assert found["embedding_drift"] == pytest.approx([ends("embedding_drift")[1]], abs=1e-6)
    assert found["cka_embedding"] == pytest.approx([1], abs=1e-9)
    assert found["cka"] == pytest.approx([1, 1], abs=1e-12)


# --- drift of what is zero


def test_drift_of_a_measure_that_was_zero_is_absolute(tiny_clip: Clip, probe: Prepared) -> None:
    """No sinks before, one in every image after: a change of 1 patch, not of infinite percent."""
    before = read_internals(tiny_clip.model, probe)
    assert not before.attention["sink_patches"].any()

    def hook(_module: nn.Module, _inputs: object, output: Any) -> Any:
        tokens = (output[0] if isinstance(output, tuple) else output).clone()
        tokens[:, 3] *= 1e3
        return (tokens, *output[1:]) if isinstance(output, tuple) else tokens

    tiny_clip.model.vision_model.encoder.layers[1].register_forward_hook(hook)
    after = read_internals(tiny_clip.model, probe)
    change = drift(before.blocks("sink_patches"), after.blocks("sink_patches"))
    assert change.absolute
    assert change.blocks == (0, 1)
    assert change.mean == 0.5
    back = drift(after.blocks("sink_patches"), before.blocks("sink_patches"))
    assert (back.absolute, back.blocks) == (True, (0, -1))  # also where one block alone is zero
    other = drift(before.blocks("entropy"), after.blocks("entropy"))
    assert not other.absolute
