"""The path between two OpenCLIP models, and what is saved of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from openclip_models import REASON, moved

from clipdrift.model.clip import load
from clipdrift.model.weights import effective_weights
from clipdrift.repair.interpolating import interpolate
from clipdrift.repair.rewinding import rewind

pytest.importorskip("open_clip", reason=REASON)


def test_the_path_between_two_by_name(
    folder: Path, weights: Path, pictures: Path, model: Any, tmp_path: Path
) -> None:
    """The ends are the two models, the middle is between them, and what is saved is opened again."""
    other = moved(model)
    torch.save(other.state_dict(), weights)
    options: dict[str, Any] = {"images": pictures, "cache": tmp_path / "cache", "device": "cpu", "limit": 12}
    base, tuned = f"open_clip:{folder}", f"open_clip:tiny-arch-quickgelu/{weights}"
    found = interpolate(base, tuned, alphas="0:1:0.5", save_at=0.5, out=tmp_path / "mixed", **options)
    frame = found.to_frame()
    drift = frame[frame["measure"] == "weight_drift"].groupby("alpha")["value"].first()
    assert drift[0.0] == 0
    assert drift[0.5] == pytest.approx(drift[1.0] / 2, rel=1e-4)
    saved = tmp_path / "mixed" / "model" / "open_clip_model.safetensors"
    mixed = effective_weights(load(f"open_clip:tiny-arch-quickgelu/{saved}").model)
    endpoints = [effective_weights(load(name).model) for name in (base, tuned)]
    for name, weight in mixed.items():
        assert torch.allclose(weight, (endpoints[0][name] + endpoints[1][name]) / 2, atol=1e-6), name
    back = rewind(base, tuned, blocks="2..", **options)
    assert len(back.to_frame())
