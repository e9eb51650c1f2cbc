"""Half a model in a check and on a card: judged by what it brought, and what is BASE's is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPConfig, CLIPVisionModel

import half_models as half
from clipdrift.cli import main
from clipdrift.comparison.models import PairError
from clipdrift.decision.baseline import read_baseline
from clipdrift.decision.carding import card
from clipdrift.decision.checking import baseline, check
from clipdrift.decision.result import CheckError
from clipdrift.reporting.card import section

RULES = ["cka >= 0.2", "weight_drift <= 0.9", "retention/colours >= 10"]


def test_an_image_tower_is_checked_as_the_whole(
    tiny_clip_dir: Path, moved: Callable[[float], Path], known: Path, tmp_path: Path
) -> None:
    tower = half.saved(half.image_tower(half.load_plain(moved(0.1))), tmp_path / "half")
    projected = half.saved(half.projected_image_tower(half.load_plain(moved(0.1))), tmp_path / "projected")
    options = {"transfer": f"colours={known}", "limit": 40, "cache": tmp_path / "cache"}
    found = check(tiny_clip_dir, tower, str(known), RULES, **options)  # type: ignore[arg-type]
    assert any("visual projection, text tower and logit scale are BASE's" in note for note in found.notes)
    assert [rule.status for rule in found.rules[:2]] == ["holds", "holds"]
    whole = check(tiny_clip_dir, moved(0.1), str(known), RULES, **options)  # type: ignore[arg-type]
    alike = check(tiny_clip_dir, projected, str(known), RULES, **options)  # type: ignore[arg-type]
    assert [rule.value for rule in alike.rules] == pytest.approx([rule.value for rule in whole.rules])


def test_a_text_tower_is_not_judged_by_bases_images(tiny_clip_dir: Path, known: Path, tmp_path: Path) -> None:
    """CKA of BASE with itself would hold whatever was done to the texts."""
    folder = half.saved(half.text_tower(half.load_plain(tiny_clip_dir)), tmp_path / "half")
    options = {"transfer": f"colours={known}", "limit": 40, "cache": tmp_path / "cache"}
    rules = [
        "cka >= 0.2",
        "weight_drift <= 0.9",
        "entropy_drift <= 5 %",
        "zero_shot_agreement/colours >= 0.1",
    ]
    found = check(tiny_clip_dir, folder, str(known), rules, **options)  # type: ignore[arg-type]
    assert found.exit_status == 2
    *images, texts = found.rules
    assert all(rule.value is None for rule in images)
    assert texts.value == 1
    assert all("TUNED is a text tower alone" in str(rule.model_dump()) for rule in images)
    text = section(card(tiny_clip_dir, folder, str(known), **options), "clipdrift card")  # type: ignore[arg-type]
    assert "its image tower is the base's own" in text
    assert "what this model lacks (image tower, visual projection, text projection, logit scale)" in text
    assert "inside the image tower" not in text


def test_a_baseline_cannot_complete_a_half(tiny_clip_dir: Path, known: Path, tmp_path: Path) -> None:
    folder = half.saved(half.image_tower(half.load_plain(tiny_clip_dir)), tmp_path / "half")
    options = {"limit": 40, "cache": tmp_path / "cache"}
    file = baseline(tmp_path / "base.safetensors", tiny_clip_dir, str(known), **options)  # type: ignore[arg-type]
    with pytest.raises(PairError, match="takes what it lacks from a whole model"):
        check(read_baseline(file), folder, None, RULES[:1])
    with pytest.raises(PairError, match="takes what it lacks from a whole model"):
        baseline(tmp_path / "other.safetensors", folder, str(known), **options)  # type: ignore[arg-type]
    assert not (tmp_path / "other.safetensors").exists()


def test_images_of_another_size(tiny_clip_dir: Path, known: Path, tmp_path: Path) -> None:
    """Refused, or fitted on request; a baseline holds one size."""
    config = CLIPConfig.from_pretrained(tiny_clip_dir)
    config.vision_config.image_size = 24
    folder = half.saved(CLIPVisionModel(config.vision_config), tmp_path / "half")
    options: dict[str, Any] = {"limit": 40, "cache": tmp_path / "cache"}
    with pytest.raises(PairError, match="--interpolate-positions tuned"):
        check(tiny_clip_dir, folder, str(known), RULES[:1], **options)
    found = check(tiny_clip_dir, folder, str(known), RULES[:1], interpolate="tuned", **options)
    assert any("TUNED's positions were interpolated bicubically" in note for note in found.notes)
    made = card(tiny_clip_dir, folder, str(known), interpolate="base", **options)
    assert made.comparison.base.interpolated_from == 16
    kept = tmp_path / "base.safetensors"
    with pytest.raises(CheckError, match="interpolate `tuned`"):
        check(tiny_clip_dir, folder, str(known), RULES, interpolate="base", save_baseline=kept, **options)
    file = baseline(kept, tiny_clip_dir, str(known), **options)
    with pytest.raises(CheckError, match="a baseline is of one image size"):
        check(read_baseline(file), folder, None, RULES[:1], interpolate="tuned")
    fitted = ["--interpolate-positions", "base"]
    with pytest.raises(SystemExit) as ended:
        main(["check", str(folder), "--baseline", str(kept), "--min-cka", "1", *fitted])
    assert ended.value.code == 2
