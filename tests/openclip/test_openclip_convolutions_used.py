"""Comparing, checking, watching and training towers of stages: what is absent is said, with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from openclip_models import REASON, TEXT, TRUNKS, VISION, any_tower, moved, pixels
from safetensors.torch import save_file

import clipdrift
from clipdrift.comparison import Comparison, read_comparison
from clipdrift.comparison.compare import compare
from clipdrift.comparison.verdict import verdict
from clipdrift.config import ConfigError
from clipdrift.decision.baseline import read_baseline
from clipdrift.decision.checking import check
from clipdrift.figures.comparing import head_drift
from clipdrift.model.clip import load
from clipdrift.monitoring.errors import MonitorError
from clipdrift.monitoring.monitor import DriftMonitor
from clipdrift.repair import RepairError
from clipdrift.repair.rewinding import rewind
from clipdrift.reporting.comparison import report
from clipdrift.rules import Rules

open_clip = pytest.importorskip("open_clip", reason=REASON)

WHY = "its stages are convolutions and images are pooled by their mean, so nothing in it attends"
RESNET = VISION | {"layers": [1, 2, 1, 1], "width": 16, "image_size": 64, "head_width": 64}


def saved(name: str, place: Path, model: Any = None) -> Path:
    """As OpenCLIP pushes it to the hub."""
    place.mkdir()
    vision = RESNET if name == "resnet" else TRUNKS[name]
    config = {"embed_dim": 24, "quick_gelu": name == "resnet", "vision_cfg": vision, "text_cfg": TEXT}
    content = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (place / "open_clip_config.json").write_text(json.dumps(content))
    save_file((model or any_tower(name)).state_dict(), place / "open_clip_model.safetensors")
    return place


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {"cache": tmp_path / "cache", "device": "cpu", "limit": 24}


def compared(name: str, tmp_path: Path, pictures: Path, options: dict[str, Any], **more: Any) -> Comparison:
    base = saved(name, tmp_path / "base")
    tuned = saved(name, tmp_path / "tuned", moved(any_tower(name)))
    return compare(f"open_clip:{base}", f"open_clip:{tuned}", pictures, **options, **more)


def test_a_comparison_without_attention(tmp_path: Path, pictures: Path, options: dict[str, Any]) -> None:
    """All else is there: representation, weights, zero-shot. Verdict, file and page have the reason."""
    sets = {"name": "colours", "path": str(pictures)}
    found = compared("convnext", tmp_path, pictures, options, transfer=sets)
    assert {row.family for row in found.measures.values()} == {"representation", "weights"}
    assert found.shape.reader == "none"
    assert found.shape.absent == {"attention": WHY, "flow": WHY}
    assert found.maps is None
    assert found.heads == ()
    said = [line for line in verdict(found) if WHY in line]
    assert said == [f"No measures of attention over patches and no rollout or patch entropy: {WHY}."]
    assert "colours" in found.transfer
    assert len(found.measures["cka"].value_blocks) == 4
    frame = found.to_frame()
    assert not frame[["before", "after", "drift", "value"]].isna().all(axis=1).any()
    out = tmp_path / "compared"
    page = report(found, out).read_text()
    assert page.count(WHY) == 1
    assert {file.stem for file in out.glob("*.png")} == {
        "block_drift", "cka_matrix", "weight_drift", "spectrum", "transfer",
    }  # fmt: skip
    assert read_comparison(out) == found
    with pytest.raises(ValueError, match=f"no heads were measured by entropy: {WHY}"):
        head_drift(found)


def test_a_comparison_of_resnets(tmp_path: Path, pictures: Path, options: dict[str, Any]) -> None:
    """The pooling head's attention is compared; what its stages have not is named."""
    found = compared("resnet", tmp_path, pictures, options)
    assert found.shape.reader == "pooling head"
    assert found.measures["entropy"].drift
    assert found.measures["entropy"].drift_blocks == ()
    assert "rollout_entropy" not in found.measures
    assert "sink_patches" not in found.measures
    assert len([line for line in verdict(found) if "no attention from patch to patch" in line]) == 1
    assert {"conv2 of 1", "conv2 of 2"} <= set(found.to_frame()["set"])
    assert found.maps is not None
    assert found.maps.before.shape[1:] == (1, 8, 4)
    names = {file.stem for file in report(found, tmp_path / "out").parent.glob("*.png")}
    assert {"attention", "head_drift", "spectrum"} <= names


def test_statistics_that_differ_are_said(tmp_path: Path, pictures: Path, options: dict[str, Any]) -> None:
    """They act and are no weights; between two of them nothing is mixed."""
    other = any_tower("resnet").train()
    other.encode_image(pixels(8, 64))
    base = saved("resnet", tmp_path / "base")
    tuned = saved("resnet", tmp_path / "tuned", other.eval())
    names = f"open_clip:{base}", f"open_clip:{tuned}"
    found = compare(*names, pictures, **options)
    assert found.measures["weight_drift"].value == 0
    assert found.measures["embedding_drift"].value > 1e-4
    assert any("running statistics of batch normalisation differ" in note for note in found.notes)
    with pytest.raises(RepairError, match="running statistics of its batch normalisation are not those of"):
        rewind(*names, blocks="4", images=pictures, **options)


def test_a_check_says_what_the_model_has_not(tmp_path: Path, pictures: Path, options: dict[str, Any]) -> None:
    """Rules on representation and kernels are judged, also against a baseline; one on attention is not."""
    base = f"open_clip:{saved('convnext', tmp_path / 'base')}"
    tuned = f"open_clip:{saved('convnext', tmp_path / 'tuned', moved(any_tower('convnext')))}"
    rules = ["cka/block_4 >= 0.1", "effective_rank/conv_dw >= 1", "weight_drift_conv_dw <= 9"]
    kept = tmp_path / "base.baseline"
    found = check(base, tuned, pictures, rules, save_baseline=kept, **options)
    assert [one.status for one in found.rules] == ["holds"] * 3
    assert found.exit_status == 0
    found = check(base, tuned, pictures, ["cka >= 0.1", "entropy_drift >= -10"], **options)
    assert found.rules[1].reason == f"these models have no entropy: {WHY}"
    assert found.exit_status == 2
    again = check(read_baseline(kept), tuned, None, ["cka/block_1 >= 0.1"], cache=tmp_path / "cache")
    assert again.exit_status == 0


def test_a_monitor_without_attention(tmp_path: Path, pictures: Path) -> None:
    """Numbers without attention; the page says why there is no picture; rules on it are refused."""
    folder = saved("convnext", tmp_path / "model")
    options: dict[str, Any] = {
        "limit": 24,
        "every": 1,
        "processor": load(f"open_clip:{folder}"),
        "cache": tmp_path / "cache",
        "budget": None,
        "on_error": "raise",
    }
    model = any_tower("convnext").train()
    for name, rules, watched in (
        ("a", Rules(warn_when="entropy_drift < -5"), None),
        ("b", Rules(), "measure/gini"),
        ("c", Rules(warn_when="weight_drift_q > 1"), None),
    ):
        with pytest.raises(MonitorError, match=r"the model has no (entropy|gini|weight_drift_q)"):
            DriftMonitor(model, pictures, out=tmp_path / name, rules=rules, monitor=watched, **options)
    rules = Rules(warn_when="cka/block_4 < 0.9999")
    monitor = DriftMonitor(model, pictures, out=tmp_path / "drift", rules=rules, **options)
    model.load_state_dict(moved(any_tower("convnext")).state_dict())
    row = monitor.step()
    assert row is not None
    assert row["drift/cka/block_4"] < 0.9999
    assert row["said"]
    assert not any("entropy" in key for key in row)
    page = monitor.report()
    assert page is not None
    text = page.read_text()
    monitor.close()
    assert f"there is no attention over patches: {WHY}" in text


@pytest.mark.parametrize("name", ["resnet", "convnext"])
def test_a_run(name: str, tmp_path: Path, pictures: Path) -> None:
    """Trained by its last two stages, recorded, loaded by OpenCLIP, compared with its backbone as a run."""
    folder = saved(name, tmp_path / "model")
    config = {
        "model": f"open_clip:{folder}",
        "data": {
            "target": str(pictures),
            "transfer": [{"name": "colours", "path": str(pictures)}],
            "validation_per_class": 4,
            "probe_per_class": 4,
        },
        "method": {"name": "last_blocks", "blocks": 2},
        "optim": {"learning_rate": 1e-2, "epochs": 1, "batch_size": 8},
        "evaluation": {"shown_images": 2},
    }
    with pytest.raises(ConfigError, match="patch_entropy is not measured while a run trains"):
        clipdrift.train(config | {"rules": {"warn_when": "patch_entropy < 1"}}, out=tmp_path / "runs")
    record = clipdrift.train(config, out=tmp_path / "runs", cache=tmp_path / "cache")
    assert record.status == "done"
    assert record.best is not None
    measures = record.best.measures
    assert measures["cka"].blocks[:2] == pytest.approx((1, 1))
    assert measures["weight_drift"].blocks[:2] == (0, 0)
    assert min(measures["weight_drift"].blocks[2:]) > 0
    assert ("entropy" in measures) == (name == "resnet")
    assert any("no attention" in note or "nothing in it attends" in note for note in record.model.notes)
    run = tmp_path / "runs" / record.key
    assert (run / "maps.npz").exists() == (name == "resnet")
    plain = open_clip.create_model(f"local-dir:{run / 'model'}").eval()
    found = compare(f"open_clip:{folder}", run, pictures, limit=12, cache=tmp_path / "cache", device="cpu")
    assert found.measures["weight_drift"].value == pytest.approx(measures["weight_drift"].mean, rel=1e-5)
    with torch.no_grad():
        ours = load(f"open_clip:{run / 'model'}").model.eval().encode_image(pixels(2, 64))
        assert torch.equal(plain.encode_image(pixels(2, 64)), ours)
