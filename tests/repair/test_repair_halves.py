"""Repairing half a model: what is saved is the whole CLIP that BASE's other parts make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from repair_models import plain
from transformers import CLIPModel

import half_models as half
from clipdrift.repair.interpolating import interpolate
from clipdrift.repair.rewinding import rewind


@pytest.mark.parametrize("make", [half.image_tower, half.classifier, half.text_tower])
def test_a_mix_is_saved_whole(
    tiny_clip_dir: Path, tuned_dir: Path, pictures: Path, tmp_path: Path, make: Any
) -> None:
    """Halfway between the tensors that TUNED brought; the others are BASE's, bit for bit."""
    tuned = plain(tuned_dir)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if name.startswith("text_model."):
                weight.add_(0.01)
    part = "text_model." if make is half.text_tower else "vision_model."
    folder = half.saved(make(tuned), tmp_path / "half")
    out = tmp_path / "out"
    found = interpolate(
        tiny_clip_dir, folder, alphas=[0.5, 1], save_at=0.5, images=str(pictures), out=out, limit=8
    )
    assert any("are BASE's" in note for note in found.notes)
    assert found.tuned.grafted
    assert any("takes no part" in note for note in found.notes) == (make is half.classifier)
    saved, base = CLIPModel.from_pretrained(out / "model").state_dict(), plain(tiny_clip_dir).state_dict()
    ends = tuned.state_dict()
    for name, weight in saved.items():
        if name.startswith(part):
            assert torch.allclose(weight, (base[name] + ends[name]) / 2, atol=1e-6)
        else:
            assert torch.equal(weight, base[name])
    assert (out / "model" / "tokenizer.json").is_file()


def test_blocks_are_put_back(tiny_clip_dir: Path, tuned_dir: Path, pictures: Path, tmp_path: Path) -> None:
    folder = half.saved(half.image_tower(plain(tuned_dir)), tmp_path / "half")
    found = rewind(tiny_clip_dir, folder, blocks="2..", images=str(pictures), limit=8)
    drift = found.steps[-1].measures["weight_drift"]
    assert drift.value_blocks[0] > 0
    assert drift.value_blocks[1] == 0
