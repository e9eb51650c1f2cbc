"""A transformers image tower beside an OpenCLIP model: completed by what OpenCLIP's has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from openclip_models import REASON, as_hugging_face, build, moved
from transformers import CLIPVisionModel

import half_models as half
from clipdrift.comparison.compare import compare
from clipdrift.comparison.pairs import open_pair
from clipdrift.errors import ClipdriftError
from clipdrift.model.weights import effective_weights

pytest.importorskip("open_clip", reason=REASON)


def test_an_image_tower_in_a_copy_of_open_clips(pictures: Path, tmp_path: Path, folder: Path) -> None:
    """The same numbers as of the OpenCLIP model whose image tower it is, but for the projection."""
    base = build()
    tuned = moved(base)
    saved = half.saved(half.image_tower(as_hugging_face(tuned)), tmp_path / "half")
    kept = {name: weight.clone() for name, weight in base.state_dict().items()}
    options: dict[str, Any] = {"cache": tmp_path / "cache", "limit": 12, "device": "cpu", "flow": False}
    name = f"open_clip:{folder}"
    found = compare(name, saved, pictures, transfer=f"colours={pictures}", **options)
    assert found.tuned.library == "open_clip CLIP"
    assert found.tuned.grafted == ("visual projection", "text tower", "logit scale")
    whole = open_pair(name, saved)
    now, wanted, before = (effective_weights(model) for model in (whole.tuned.model, tuned, base))
    for weight in now:
        expected = before if weight.startswith("visual_projection.") else wanted
        assert torch.equal(now[weight], expected[weight]), weight
    assert all(torch.equal(weight, kept[key]) for key, weight in base.state_dict().items())


def test_a_text_tower_is_refused(tmp_path: Path, folder: Path) -> None:
    saved = half.saved(half.text_tower(as_hugging_face(build())), tmp_path / "half")
    with pytest.raises(ClipdriftError, match="the text tower of open_clip"):
        open_pair(f"open_clip:{folder}", saved)


def test_positions_are_not_interpolated(tmp_path: Path, folder: Path) -> None:
    model = as_hugging_face(build())
    config = model.config
    config.vision_config.image_size = 24
    saved = half.saved(CLIPVisionModel(config.vision_config), tmp_path / "half")
    with pytest.raises(ClipdriftError, match="its positions cannot be interpolated here"):
        open_pair(f"open_clip:{folder}", saved, interpolate="base")
    assert open_pair(f"open_clip:{folder}", saved, interpolate="tuned").tuned.interpolated_from == 24
