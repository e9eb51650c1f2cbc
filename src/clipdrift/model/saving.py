"""Write a model as its own library loads it, and what lies beside its weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor

from clipdrift.model.base import Clip
from clipdrift.model.openclip_names import CONFIG, SAVED
from clipdrift.model.quiet import quiet
from clipdrift.model.towers.split_attention import joined


def save_model(clip: Clip, folder: Path) -> None:
    """Write the live model: configuration, weights, tokenizer, preprocessing.

    Of OpenCLIP's models ``open_clip_config.json`` and ``open_clip_model.safetensors``, which
    ``open_clip.create_model_and_transforms("local-dir:FOLDER")`` loads.
    """
    if clip.files:
        save_open_clip(clip, clip.model.state_dict(), folder)
    else:
        with quiet():
            clip.model.save_pretrained(folder)
    save_companions(clip, folder)


def save_adapter(clip: Clip, adapter: PeftModel, folder: Path) -> None:
    """Write an adapter as peft does; of OpenCLIP's models, in which peft finds no such layers, also the whole
    model with the adapter merged, which OpenCLIP loads."""
    with quiet():
        # peft would look on the hub whether the vocabulary was changed, which it never is here
        adapter.save_pretrained(str(folder), save_embedding_layers=False)
    if clip.files:
        with quiet():
            merged: Any = copy.deepcopy(adapter).merge_and_unload()
        save_open_clip(clip, merged.state_dict(), folder)
    save_companions(clip, folder)


def save_companions(clip: Clip, folder: Path) -> None:
    """Write tokenizer and preprocessing, which belong to a model and to an adapter on it alike."""
    if not clip.files:
        with quiet():
            clip.tokenizer.save_pretrained(folder)
    elif (own := getattr(clip.tokenizer, "tokenizer", None)) is not None:  # of Hugging Face's, in OpenCLIP
        with quiet():
            own.save_pretrained(folder)
    text = json.dumps(clip.preprocessor, indent=2, sort_keys=True)
    (folder / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")


def save_open_clip(clip: Clip, state: Mapping[str, Tensor], folder: Path) -> None:
    """Write weights of a plain OpenCLIP model, split or not, with the configuration of ``clip``."""
    (folder / CONFIG).write_text(json.dumps(dict(clip.files), indent=2) + "\n", encoding="utf-8")
    weights = {name: weight.detach().to("cpu").contiguous() for name, weight in joined(state).items()}
    save_file(weights, folder / SAVED)
