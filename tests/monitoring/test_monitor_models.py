"""Which models a monitor takes, what it says of the others, and what it reads of halves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trainings
from torch import nn
from transformers import (
    CLIPForImageClassification,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipModel,
    SiglipVisionModel,
)

from clipdrift.comparison.compare import compare
from clipdrift.errors import ClipdriftError
from clipdrift.model.clip import Clip
from clipdrift.monitoring.monitor import DriftMonitor
from clipdrift.rules import Rules

Tiny = Callable[[], Any]


def _siglip() -> Any:
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**tower, "vocab_size": 50, "max_position_embeddings": 8},
        vision_config={**tower, "image_size": 16, "patch_size": 4},
    )
    return SiglipModel(config)


def _moved(model: nn.Module, factor: float = 1.2) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "mlp.fc1.weight" in name:
                weight.mul_(factor)


@pytest.mark.parametrize("kind", [CLIPVisionModelWithProjection, "siglip", "whole"])
def test_numbers_are_those_of_comparing_with_a_copy(
    tiny_clip_dir: Path, tiny: Tiny, pixels: torch.Tensor, tmp_path: Path, kind: Any
) -> None:
    if isinstance(kind, str):
        model = _siglip() if kind == "siglip" else tiny()
    else:
        model = kind.from_pretrained(tiny_clip_dir, projection_dim=24)
    base = copy.deepcopy(model)
    monitor = DriftMonitor(model, pixels, out=tmp_path / "d", on_error="raise", flow=True)
    _moved(model)
    row = monitor.measure()
    found = compare(base, model, pixels, spectrum=False, shown=0).measures
    checked = 0
    for name, one in found.items():
        if name in ("cka_minibatch", "subset_sensitivity"):
            continue
        value = one.value if one.drift is None else one.drift
        key = f"drift/{name}"
        if key in row:
            assert row[key] == pytest.approx(value, rel=1e-9, abs=1e-12), name
            checked += 1
    assert checked > 15
    assert row["drift/weight_drift_fc1"] == pytest.approx(0.2, rel=1e-5)


@pytest.mark.parametrize(
    "kind", [CLIPForImageClassification, CLIPVisionModel, SiglipForImageClassification, SiglipVisionModel]
)
def test_an_image_tower_without_a_projection_is_read_as_far_as_it_goes(
    tiny_clip_dir: Path, tmp_path: Path, pixels: torch.Tensor, kind: Any
) -> None:
    """Classifiers: representation, attention and weights equal those of the same change in a whole model."""
    if "Siglip" in kind.__name__:
        whole = _siglip()
        whole.save_pretrained(tmp_path / "whole")
        model = kind.from_pretrained(tmp_path / "whole")
        model.config._name_or_path = model.name_or_path = ""
    else:
        from transformers import CLIPModel

        whole = CLIPModel.from_pretrained(tiny_clip_dir)
        model = kind.from_pretrained(tiny_clip_dir)
        model.name_or_path = ""  # or the projection would be found there
    monitor = DriftMonitor(model, pixels, out=tmp_path / "d", on_error="raise")
    base = copy.deepcopy(whole)
    _moved(model)
    _moved(whole.vision_model)
    row = monitor.measure()
    found = compare(base, whole, pixels, flow=False, spectrum=False, shown=0).measures
    for name in ("cka", "entropy", "weight_drift", "weight_drift_fc1"):
        one = found[name]
        assert row[f"drift/{name}"] == pytest.approx(one.value if one.drift is None else one.drift, rel=1e-9)
    assert "drift/weight_drift_projection" not in row


def test_a_classifier_borrows_what_its_backbone_has(
    tiny_clip_dir: Path, pictures: Path, tmp_path: Path
) -> None:
    """Its own files hold the whole CLIP: projection and texts come from there, as the tower is the same."""
    model = CLIPForImageClassification.from_pretrained(tiny_clip_dir, num_labels=3)
    monitor = DriftMonitor(
        model, pictures, transfer=f"colours={pictures}", out=tmp_path / "d", on_error="raise", every=1
    )
    assert any("the projection and the texts are those of" in line for line in monitor.said)
    trainings.train(model, None, steps=2)
    row = monitor.measure()
    assert row["drift/weight_drift_projection"] == 0
    assert {"zero_shot/colours", "drift/zero_shot_kl"} <= row.keys()
    # by hand: transformers' own whole model with this tower
    from transformers import CLIPModel

    whole = CLIPModel.from_pretrained(tiny_clip_dir)
    whole.vision_model.load_state_dict(model.vision_model.state_dict())
    found = compare(str(tiny_clip_dir), whole, pictures, transfer=f"colours={pictures}", shown=0)
    assert row["zero_shot/colours"] == pytest.approx(found.transfer["colours"].after)
    assert row["drift/embedding_drift"] == pytest.approx(found.measures["embedding_drift"].value, rel=1e-6)


def test_zero_shot_and_the_text_tower_are_those_of_comparing(
    tiny: Tiny, tiny_clip_dir: Path, pictures: Path, tmp_path: Path
) -> None:
    """Both towers trained: texts made anew, the text tower read on the prompts, the gap between both."""
    model = tiny()
    monitor = DriftMonitor(
        model, pictures, transfer=f"colours={pictures}", out=tmp_path / "d", on_error="raise", texts=_TEXTS
    )
    before = monitor.measure()
    assert not any(key.startswith("drift/text_") for key in before)  # it has not moved
    trainings.train(model, None, steps=3)
    row = monitor.measure()
    found = compare(str(tiny_clip_dir), model, pictures, transfer=f"colours={pictures}", shown=0)
    assert row["zero_shot/colours"] == pytest.approx(found.transfer["colours"].after)
    assert row["drift/text_weight_drift"] == pytest.approx(
        found.measures["text_weight_drift"].value, rel=1e-6
    )
    assert row["drift/text_cka"] < 1
    texts = {side: _encoded(m, tiny_clip_dir) for side, m in (("old", tiny()), ("new", model))}
    images = {side: _embedded(m, monitor) for side, m in (("old", tiny()), ("new", model))}
    gap = {s: float((_unit(images[s]).mean(0) - _unit(texts[s]).mean(0)).norm()) for s in ("old", "new")}
    assert row["measure/modality_gap"] == pytest.approx(gap["new"], rel=1e-5)
    assert row["drift/modality_gap"] == pytest.approx(gap["new"] - gap["old"], rel=1e-4)
    cosine = (_unit(texts["old"]) * _unit(texts["new"])).sum(1)
    assert row["drift/text_embedding_drift"] == pytest.approx(float((1 - cosine).mean()), rel=1e-5)
    logits = {
        s: float(m.logit_scale.detach().exp()) * _unit(images[s]) @ _unit(texts[s]).T
        for s, m in (("old", tiny()), ("new", model))
    }
    kl = torch.nn.functional.kl_div(
        logits["new"].log_softmax(-1), logits["old"].log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert row["drift/zero_shot_kl"] == pytest.approx(float(kl), rel=1e-4)


_TEXTS = [f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("circle", "square", "hexagon")]


def _encoded(model: Any, place: Path) -> torch.Tensor:
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(place)(_TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        found: torch.Tensor = model.eval().get_text_features(**tokens).pooler_output.double()
    return found


def _embedded(model: Any, monitor: DriftMonitor) -> torch.Tensor:
    images = monitor._given.probe.on(torch.device("cpu"))
    with torch.no_grad():
        parts = [model.eval().get_image_features(batch).pooler_output for batch, _ in images.batches(5)]
    return torch.cat(parts).double()


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)


def test_half_precision_models_are_measured_in_float32(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path
) -> None:
    model = tiny().to(torch.bfloat16)
    monitor = DriftMonitor(model, pixels, out=tmp_path / "d", on_error="raise")
    assert monitor.measure()["drift/cka"] == pytest.approx(1, abs=1e-6)
    assert next(model.parameters()).dtype == torch.bfloat16


def _made(model: Any, rules: dict[str, Any] | None = None, **given: Any) -> DriftMonitor:
    return DriftMonitor(model, rules=None if rules is None else Rules(**rules), **given)


def test_what_cannot_be_watched_is_said_in_one_line(
    tiny: Tiny, pixels: torch.Tensor, tiny_whole: Clip, tmp_path: Path
) -> None:
    broken = tiny()
    with torch.no_grad():
        broken.visual_projection.weight[0, 0] = float("nan")
    two = nn.ModuleDict({"student": tiny(), "teacher": tiny()})
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (nn.Linear(2, 2), {}, "is not supported"),
        (None, {}, "no torch module"),
        (two, {}, "holds 2 models of CLIP's kind (student, teacher)"),
        (broken, {}, "1 nan"),
        (tiny().to("meta"), {}, "meta device"),
        (tiny(), {"images": torch.randn(2, 3, 16, 16)}, "2 images"),
        (tiny(), {"images": torch.randn(9, 3, 17, 17)}, "17 x 17"),
        (tiny(), {"images": str(tmp_path / "none")}, "none"),
        (tiny(), {"rules": {"warn_when": "ckaa < 0.9"}}, "ckaa"),
        (tiny(), {"rules": {"warn_when": "cka ~ 0.9"}}, "cka ~ 0.9"),
        (tiny(), {"every": 0}, "every = 0"),
        (tiny(), {"budget": 2.0}, "budget = 2"),
        (tiny(), {"monitor": "cka"}, "drift/cka"),
        (tiny(), {"monitor": "drift/cka", "mode": "up"}, "mode = 'up'"),
        (tiny(), {"on_error": "ignore"}, "on_error"),
        (tiny(), {"transfer": "no-such-set", "processor": tiny_whole}, "no-such-set"),
        (tiny(), {"texts": ["one"], "processor": tiny_whole}, "two different ones"),
    ]
    for number, (model, more, said) in enumerate(cases):
        given: dict[str, Any] = {"images": pixels, "out": tmp_path / str(number)} | more
        with pytest.raises(ClipdriftError) as error:
            _made(model, **given)
        assert said in str(error.value), said
        assert "\n" not in str(error.value)


def test_zero_shot_without_texts_is_refused(
    tiny_clip_dir: Path, pixels: torch.Tensor, pictures: Path, tmp_path: Path
) -> None:
    model = CLIPVisionModelWithProjection.from_pretrained(tiny_clip_dir, projection_dim=24)
    with pytest.raises(ClipdriftError, match="backbone="):
        DriftMonitor(model, pixels, transfer=f"colours={pictures}", out=tmp_path / "d")
    monitor = DriftMonitor(
        model, pixels, transfer=f"colours={pictures}", out=tmp_path / "d", backbone=str(tiny_clip_dir)
    )
    assert monitor.measure()["drift/zero_shot_kl"] == pytest.approx(0, abs=1e-9)


def test_a_tower_that_was_replaced_is_said_and_the_training_goes_on(
    tiny: Tiny, pixels: torch.Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny()
    monitor = DriftMonitor(model, pixels, out=tmp_path / "d", every=1)
    del model.vision_model.encoder.layers[1]
    assert monitor.step() is None
    assert monitor.step() is None
    said = [record.message for record in caplog.records if "its tower was replaced" in record.message]
    assert len(said) == 1
