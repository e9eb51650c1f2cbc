"""Load what a run saved as a CLIP, strictly."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file

from clipdrift.config import ModelConfig
from clipdrift.errors import one_line
from clipdrift.model.clip import BrokenWeightsError, Clip, ModelError, load
from clipdrift.model.finite import broken_tensors
from clipdrift.model.folders import text_of, unmarked
from clipdrift.model.openclip_names import is_folder
from clipdrift.model.quiet import quiet
from clipdrift.model.towers import text_tower_of, tower_of
from clipdrift.model.towers.layout import within
from clipdrift.model.towers.split_attention import made_on_split
from clipdrift.runs.layout import HEAD


def load_adapted(folder: Path, backbone: ModelConfig) -> Clip:
    """The adapted CLIP in ``folder``: a full model, an adapter on ``backbone``, or a head on it.

    Raises:
        ModelError: as :func:`clipdrift.model.clip.load`; an adapter with weights missing or without a place.
    """
    adapter = (folder / "adapter_config.json").is_file()
    if (folder / "config.json").is_file() or (is_folder(folder) and not adapter):
        return load(ModelConfig(name=folder.name or str(folder), path=str(folder)))
    clip = load(backbone)
    if not adapter:
        if (folder / HEAD).is_file():
            return clip
        raise ModelError(f"{folder}: neither a model, an adapter nor a head is saved here")
    return attach_adapter(clip, folder)


def attach_adapter(clip: Clip, folder: Path) -> Clip:
    """Put the peft adapter in ``folder`` on ``clip``, whose model is changed in place.

    Raises:
        ModelError: adapter weights missing or without a place, or nothing that peft can load.
    """
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise ModelError(
            f"{folder}: an adapter without adapter_model.safetensors; pickled weights (adapter_model.bin) "
            "are not loaded: save it again with safetensors"
        )
    try:
        settings = json.loads(text_of(folder / "adapter_config.json"))
        tensors = load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{folder}: the adapter cannot be read ({error})") from None
    if said := broken_tensors(tensors.items()):
        raise BrokenWeightsError(f"{folder}: {said}")
    saved = set(tensors)
    _make_adaptable(clip, saved)
    try:
        with quiet(), warnings.catch_warnings(), unmarked(folder) as (readable, marked):
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # an error, below
            model = PeftModel.from_pretrained(clip.model, str(readable))
    except Exception as error:  # peft and torch raise many kinds for an adapter of another model
        said = one_line(error, 300)
        raise ModelError(f"{folder}: the adapter does not fit {clip.name}: {said}") from error
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    wanted = set(state)
    made = f"(peft {settings.get('peft_version', '?')})"
    if lost := saved - wanted:
        raise ModelError(
            f"{folder}: {len(lost)} of {len(saved)} adapter weights find no place in {clip.name}, for "
            f"example {min(lost)}; was the adapter {made} made for another model?"
        )
    # made on the image tower alone, its bare module names hit the text tower as well, where it does nothing
    image = tower_of(clip.model).layout().whole
    idle = {name for name in wanted - saved if not within(name.removeprefix("base_model.model."), image)}
    if any(bool(state[name].any()) for name in idle if ".lora_B." in name):
        idle = set()
    if missing := wanted - saved - idle:
        raise ModelError(
            f"{folder}: {len(missing)} of {len(wanted)} adapter weights are missing, for example "
            f"{min(missing)}; copy the adapter {made} again"
        )
    clip.model.eval()
    notes = tuple(f"{folder}: a byte order mark before {name} was skipped." for name in marked)
    return replace(clip, notes=(*clip.notes, *notes))


def _make_adaptable(clip: Clip, saved: Collection[str]) -> None:
    """Bring the towers that an adapter lies in into the form in which methods put adapters on them."""
    split = {name.removeprefix("base_model.model.") for name in saved if made_on_split(name)}
    image = tower_of(clip.model)
    in_image = {name for name in split if within(name, image.layout().whole)}
    if in_image:
        image.make_adaptable()
    if split - in_image:
        text_tower_of(clip.model).make_adaptable()
