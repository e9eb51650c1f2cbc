"""Comparing OpenCLIP models: with each other, with an adapter, with the same weights in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openclip_models import REASON, as_hugging_face, build, hooks, moved
from peft import LoraConfig, get_peft_model

from clipdrift.comparison.compare import compare
from clipdrift.comparison.models import PairError
from clipdrift.data.preprocess import Preprocess
from clipdrift.model.clip import load
from clipdrift.model.weights import effective_weights

open_clip = pytest.importorskip("open_clip", reason=REASON)

PLAIN = Preprocess.from_config({"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}})


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {"cache": tmp_path / "cache", "device": "cpu", "limit": 24, "batch_size": 10}


def test_two_by_name(
    folder: Path, weights: Path, pictures: Path, model: Any, options: dict[str, Any]
) -> None:
    """A folder against a checkpoint that was trained on: every family of measures, zero-shot ability too."""
    other = moved(model)
    torch.save(other.state_dict(), weights)
    found = compare(
        f"open_clip:{folder}",
        f"open_clip:tiny-arch-quickgelu/{weights}",
        pictures,
        transfer={"name": "colours", "path": str(pictures)},
        **options,
    )
    assert found.base.library == found.tuned.library == "open_clip CLIP"
    families = {row.family for row in found.measures.values()}
    assert families >= {"attention", "flow", "representation", "weights"}
    before, after = effective_weights(model), effective_weights(other)
    tower = [name for name in before if name.startswith("vision_model.")]
    expected = sum(float((after[n] - before[n]).double().square().sum()) for n in tower) ** 0.5
    expected /= sum(float(before[n].double().square().sum()) for n in tower) ** 0.5
    assert found.measures["weight_drift"].value == pytest.approx(expected, rel=1e-6)
    assert 0 < found.measures["cka"].value < 0.999
    assert abs(found.measures["entropy"].drift) > 0.1
    assert len(found.spectra) == 12
    assert found.transfer["colours"].kl > 0
    assert found.maps is not None
    assert any("different preprocessing" in note for note in found.notes)


def test_the_same_model_in_two_libraries(pictures: Path, options: dict[str, Any]) -> None:
    """In memory: nothing has moved, and neither model has been touched."""
    model = build()
    other = as_hugging_face(model)
    model.train()
    before = hooks(model)
    found = compare(model, other, pictures, preprocess=PLAIN, **options)
    assert model.training
    assert hooks(model) == before
    assert (found.base.library, found.tuned.library) == ("open_clip CLIP", "transformers CLIPModel")
    for name in ("weight_drift", "weight_drift_projection"):
        assert found.measures[name].value == 0
    assert found.measures["weight_drift"].value_blocks == (0, 0)
    for name in ("cka", "cka_biased", "cka_embedding"):
        assert found.measures[name].value == pytest.approx(1, abs=1e-5)
    assert found.measures["embedding_drift"].value == pytest.approx(0, abs=1e-6)
    for name, row in found.measures.items():
        if row.before is not None:
            assert row.after == pytest.approx(row.before, abs=1e-4), name
    assert found.spectra == ()
    assert "the same weights in the image tower" in found.notes[0]


def test_drift_does_not_depend_on_the_library(pictures: Path, options: dict[str, Any]) -> None:
    """Base and tuned in OpenCLIP, in transformers, or one in each: the same numbers."""
    base = build()
    tuned = moved(base)
    sides = (base, as_hugging_face(base)), (tuned, as_hugging_face(tuned))
    tables = [
        compare(sides[0][i], sides[1][j], pictures, preprocess=PLAIN, **options).to_frame()
        for i, j in ((0, 0), (1, 1), (0, 1))
    ]
    keys = ["family", "measure", "set", "block"]
    first, *others = (table.sort_values(keys, ignore_index=True) for table in tables)
    for table in others:
        assert table[keys].equals(first[keys])
        for column in ("before", "after", "value"):
            found, expected = table[column].astype(float), first[column].astype(float)
            assert np.allclose(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True), column


def test_an_adapter_on_an_openclip_model(
    folder: Path, tmp_path: Path, pictures: Path, options: dict[str, Any]
) -> None:
    """Saved by peft, put on the model again; BASE stays as it is."""
    name = f"open_clip:{folder}"
    adapted = get_peft_model(
        load(name).model, LoraConfig(r=2, target_modules=r"visual\..*\.(attn|c_fc|c_proj)")
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if "lora_B" in key:
                parameter.normal_(0, 0.1, generator=generator)
    adapted.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    base = load(name)
    found = compare(base, tmp_path / "adapter", pictures, any_base=True, **options)
    inside = compare(base, adapted, pictures, preprocess=base.preprocess, **options)
    assert found.tuned.kind == "adapter"
    assert found.measures["weight_drift"].value == pytest.approx(inside.measures["weight_drift"].value)
    assert found.measures["weight_drift"].value > 0.01
    assert found.measures["cka"].value == pytest.approx(inside.measures["cka"].value, abs=1e-5)
    assert {(row.block, row.kind) for row in found.spectra} == {
        (block, kind) for block in (1, 2) for kind in ("q", "k", "v", "out", "fc1", "fc2")
    }


def test_another_activation_is_another_architecture(pictures: Path, options: dict[str, Any]) -> None:
    """The same weights under GELU and QuickGELU; also across libraries."""
    one, other = build(), build(quick_gelu=False)
    for tuned in (other, as_hugging_face(other, "gelu")):
        with pytest.raises(PairError, match="different architectures: activation quick_gelu against gelu"):
            compare(one, tuned, pictures, preprocess=PLAIN, **options)


def test_weights_that_only_one_side_has(pictures: Path, options: dict[str, Any]) -> None:
    """Layer scales against none."""
    with pytest.raises(PairError, match=r"do not have the same weights: 4 of .*ls_1\.gamma"):
        compare(build(), build(ls_init_value=0.5), pictures, preprocess=PLAIN, **options)
