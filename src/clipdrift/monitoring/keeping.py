"""Keep a good state on disk as its library writes it, whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from clipdrift.model.clip import Clip
from clipdrift.model.quiet import quiet
from clipdrift.runs.files import replace_folder, storage

GOOD = "good"
FACTS = "clipdrift.json"


def keep_state(model: nn.Module, out: Path, facts: dict[str, Any], processor: Any = None) -> str:
    """Save ``model`` into ``out/good`` over an older one; returns adapter, model or weights.

    Args:
        model: as it acts, adapters in it.
        facts: step and numbers, written beside the weights.
        processor: saved beside a whole model, so that it can be loaded by itself.

    Raises:
        StorageError: no room, or no right to write; what was kept before is whole.
    """
    place, made = out / GOOD, out / f".{GOOD}.new"
    with storage(out):
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        kind = _saved(model, made)
        if kind == "model" and processor is not None and hasattr(processor, "save_pretrained"):
            processor.save_pretrained(made)
        (made / FACTS).write_text(json.dumps(facts | {"kind": kind}, indent=1) + "\n", encoding="utf-8")
        replace_folder(place, made)
    return kind


def files_beside(clip: Clip | None, processor: object) -> Any:
    """What belongs beside a whole model's weights: the processor that was given, else its tokenizer."""
    if clip is None:
        return None
    return clip.tokenizer if processor is None or isinstance(processor, str) else processor


@torch.no_grad()
def _saved(model: Any, place: Path) -> str:
    settings = getattr(model, "peft_config", None)
    if settings and any(isinstance(part, BaseTunerLayer) for part in model.modules()):
        name = _active(model)
        _save_adapter(model, name, settings[name], place)
        return "adapter"
    if isinstance(model, PreTrainedModel):
        with quiet():
            model.save_pretrained(place)
        return "model"
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    save_file(weights, str(place / "model.safetensors"))
    return "weights"


def _active(model: nn.Module) -> str:
    for part in model.modules():
        if isinstance(part, BaseTunerLayer):
            return str(part.active_adapters[0])
    raise AssertionError("no adapter")


def _save_adapter(model: Any, name: str, settings: Any, place: Path) -> None:
    """Write an adapter as peft's own save_pretrained does, also where its wrapper is not known here."""
    found = get_peft_model_state_dict(model, state_dict=None, adapter_name=name)
    prefix = "base_model.model."
    weights = {
        key if key.startswith(prefix) else prefix + key: value.detach().cpu().contiguous().clone()
        for key, value in found.items()
    }
    save_file(weights, str(place / "adapter_model.safetensors"), metadata={"format": "pt"})
    inference, settings.inference_mode = settings.inference_mode, True
    try:
        settings.save_pretrained(str(place))
    finally:
        settings.inference_mode = inference
