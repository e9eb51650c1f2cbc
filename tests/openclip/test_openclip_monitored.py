"""Watching the training of an OpenCLIP model: its two towers, its texts, its state kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from openclip_models import REASON, build, moved
from safetensors.torch import load_file

from clipdrift.comparison.compare import compare
from clipdrift.model.clip import load
from clipdrift.monitoring.monitor import DriftMonitor
from clipdrift.rules import Rules

open_clip = pytest.importorskip("open_clip", reason=REASON)

KEEP = Rules(keep_best_when="embedding_drift < 2")


@pytest.fixture
def watched(folder: Path, pictures: Path, tmp_path: Path) -> tuple[Any, DriftMonitor]:
    """A model that OpenCLIP made, and its monitor, which has texts and preprocessing from a folder."""
    model = build().train()
    monitor = DriftMonitor(
        model,
        pictures,
        transfer={"name": "colours", "path": str(pictures)},
        every=1,
        limit=24,
        processor=load(f"open_clip:{folder}"),
        out=tmp_path / "drift",
        cache=tmp_path / "cache",
        rules=KEEP,
        budget=None,
        on_error="raise",
    )
    return model, monitor


def test_nothing_has_moved_and_the_model_stays_in_training(watched: tuple[Any, DriftMonitor]) -> None:
    model, monitor = watched
    row = monitor.step()
    assert row is not None
    assert row["drift/cka"] == pytest.approx(1)
    assert row["drift/weight_drift"] == 0
    assert row["zero_shot/colours"] == monitor._side.sets["colours"].accuracy  # type: ignore[union-attr]
    assert model.training
    assert not any(name.startswith("drift/text") for name in row)


def test_the_numbers_are_those_of_comparing_the_two(
    watched: tuple[Any, DriftMonitor], folder: Path, pictures: Path, tmp_path: Path
) -> None:
    model, monitor = watched
    model.load_state_dict(moved(build()).state_dict())
    row = monitor.step()
    assert row is not None
    torch.save(model.state_dict(), tmp_path / "tuned.pt")
    before = load(f"open_clip:{folder}")
    after = load(f"open_clip:{folder}")
    after.model.load_state_dict(torch.load(tmp_path / "tuned.pt"))
    found = compare(
        before,
        after,
        pictures,
        transfer={"name": "colours", "path": str(pictures)},
        limit=24,
        device="cpu",
        cache=tmp_path / "cache",
    )
    for name in ("cka", "embedding_drift", "weight_drift"):
        assert row[f"drift/{name}"] == pytest.approx(found.measures[name].value, rel=1e-5), name
    assert row["drift/entropy"] == pytest.approx(found.measures["entropy"].drift, rel=1e-4)
    assert 0 < row["drift/cka"] < 0.999
    assert row["drift/zero_shot_kl"] > 0
    assert row["kept"] == "weights"
    kept = load_file(monitor.good / "model.safetensors")  # type: ignore[operator]
    assert all(torch.equal(kept[name], weight) for name, weight in model.state_dict().items())


def test_a_text_tower_that_moves_counts_for_zero_shot(watched: tuple[Any, DriftMonitor]) -> None:
    """The tower of OpenCLIP's texts is not read, but its texts are encoded anew."""
    model, monitor = watched
    with torch.no_grad():
        model.text_projection.copy_(torch.randn(model.text_projection.shape))
    row = monitor.step()
    assert row is not None
    assert row["drift/cka"] == pytest.approx(1)
    assert row["drift/zero_shot_kl"] > 1e-3
    assert row["measure/logit_scale"] == pytest.approx(float(model.logit_scale.detach().exp()))
