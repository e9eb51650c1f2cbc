"""Write a model as its own library loads it, and what lies beside its weights."""

from __future__ import annotations

import json
from pathlib import Path

from clipdrift.model.base import Clip
from clipdrift.model.quiet import quiet


def save_weights(clip: Clip, folder: Path) -> None:
    """Write the live model's configuration and weights."""
    with quiet():
        clip.model.save_pretrained(folder)


def save_companions(clip: Clip, folder: Path) -> None:
    """Write tokenizer and preprocessing, which belong to a model and to an adapter on it alike."""
    with quiet():
        clip.tokenizer.save_pretrained(folder)
    text = json.dumps(clip.preprocessor, indent=2, sort_keys=True)
    (folder / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")
