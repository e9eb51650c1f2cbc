"""Save the live model as plain libraries load it: whole or not at all, and read back before it counts."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from clipdrift.adapt.heads import save_head
from clipdrift.adapt.saved import attach_adapter
from clipdrift.comparison.models import OpenedModel
from clipdrift.model.clip import Clip
from clipdrift.model.folders import text_of
from clipdrift.model.openclip_names import SAVED
from clipdrift.model.quiet import quiet
from clipdrift.model.saving import save_companions, save_open_clip
from clipdrift.model.towers.split_attention import joined
from clipdrift.model.weights import effective_weights
from clipdrift.repair import RepairError
from clipdrift.repair.context import RepairContext
from clipdrift.repair.endpoints import HEAD, Endpoints
from clipdrift.repair.merging import copied_clip, plain_copy
from clipdrift.runs.files import replace_folder
from clipdrift.runs.layout import WEIGHTS

_COPY = re.compile(r"\.modules_to_save\.[^.]+\.")


def place_for(out: Path, force: bool) -> Path:
    """Folder for the model, ``out/model``; checked before anything is measured.

    Raises:
        RepairError: something is there already, unless ``force``.
    """
    place = out / WEIGHTS
    if place.exists() and not force:
        raise RepairError(f"{place}: is there already; choose another --out, or say --force to replace it")
    return place


def save_model(
    context: RepairContext,
    place: Path,
    made: dict[str, Any],
    force: bool,
    factors: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the live model with head, tokenizer and preprocessing, and ``repair.json`` on how it was made.

    Args:
        made: what the setting is.
        factors: parameters of an adapter that were written anew, beside those that move.

    Raises:
        RepairError: what was written does not read back as the model that was measured.
    """
    measurer = context.measurer
    endpoints = measurer.endpoints
    measurer.reporter.stage(f"saving {place}")
    with _written_whole(place, force) as folder:
        clip = endpoints.clip or context.base.clip
        if endpoints.form == "adapter":
            moved = {name: move.tensor for name, move in endpoints.moves.items()} | dict(factors or {})
            _adapter(endpoints, moved, context.adapter, context.base, folder)
        else:
            _model(endpoints, clip, folder)
        if clip is not None and (clip.files or _is_transformers(endpoints.model)):
            save_companions(clip, folder)
        if measurer.head is not None:
            if measurer.refresh is not None:
                measurer.refresh(measurer.head)
            save_head(measurer.head, folder)
        base, tuned = context.sides
        told = {"base": base.name, "tuned": tuned.name, **made}
        (folder / "repair.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _written_whole(place: Path, force: bool) -> Iterator[Path]:
    """A temporary folder that takes its place when it is complete, and is removed otherwise."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if place.exists():
            place_for(place.parent, force)  # somebody else may have written it since it was asked for
        replace_folder(place, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _model(endpoints: Endpoints, clip: Clip | None, folder: Path) -> None:
    own = endpoints.model.state_dict()
    if _is_transformers(endpoints.model):
        with quiet():
            endpoints.model.save_pretrained(folder)
            back = type(endpoints.model).from_pretrained(folder, dtype=endpoints.model.dtype).state_dict()
    else:
        own = joined(own)
        if clip is not None and clip.files:
            save_open_clip(clip, own, folder)
        else:
            save_file(_on_cpu(own), folder / SAVED)
        back = load_file(folder / SAVED)
    _same(own, back, folder)


def _adapter(
    endpoints: Endpoints, moved: Mapping[str, Tensor], source: str, base: OpenedModel, folder: Path
) -> None:
    """The adapter's own files, with what was moved at its new values."""
    files = {name: _file(source, name) for name in ("adapter_config.json", "adapter_model.safetensors")}
    state = load_file(files["adapter_model.safetensors"])
    for name, tensor in moved.items():
        if name.startswith(f"{HEAD}."):
            continue
        key = next((key for key in _keys(name) if key in state), None)
        if key is None or state[key].shape != tensor.shape:
            raise RepairError(f"{source}: {name} is moved and has no place in the adapter's file")
        state[key] = tensor
    settings = text_of(files["adapter_config.json"])  # peft reads no byte order mark
    (folder / "adapter_config.json").write_text(settings, encoding="utf-8")
    save_file(_on_cpu(state), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    assert base.clip is not None  # an adapter is scaled on a Clip alone
    if base.clip.files:
        save_open_clip(base.clip, plain_copy(endpoints.model).state_dict(), folder)
    back = attach_adapter(copied_clip(base.clip), folder)
    _same(effective_weights(endpoints.model), effective_weights(back.model), folder)


def _keys(name: str) -> Iterator[str]:
    """Names that peft may write a live parameter under: without the adapter's, some without the last part."""
    path, _, last = name.rpartition(".")
    owner, _, adapter = path.rpartition(".")
    saved = owner.removesuffix(".modules_to_save")
    yield f"base_model.model.{saved}.{last}"  # lora_B.default.weight, modules_to_save.default.weight
    yield f"base_model.model.{_COPY.sub('.', name)}"  # deeper in a module that was trained in full
    yield f"base_model.model.{owner}"  # lora_magnitude_vector.default.weight
    yield f"base_model.model.{name}"  # a trained bias, base_layer.bias
    yield f"base_model.model.{name.replace('.base_layer.', '.')}"
    yield f"base_model.model.{owner}.{adapter}"


def _file(source: str, name: str) -> Path:
    folder = Path(source).expanduser()
    for place in (folder, folder / WEIGHTS):
        if (place / name).is_file():
            return place / name
    found = cached_file(source, name)  # a hub id, whose files were fetched when the model was opened
    assert found is not None
    return Path(found)


def _is_transformers(model: Any) -> bool:
    return isinstance(model, PreTrainedModel)


def _on_cpu(state: dict[str, Any]) -> dict[str, Tensor]:
    return {name: v.detach().to("cpu", copy=True).contiguous() for name, v in state.items()}


def _same(one: dict[str, Tensor], other: dict[str, Tensor], folder: Path) -> None:
    odd = sorted(one.keys() ^ other.keys())
    odd += [n for n in one.keys() & other.keys() if not torch.equal(one[n].cpu(), other[n].cpu())]
    if odd:
        raise RepairError(
            f"{folder}: {len(odd)} weights do not read back as they were measured, for example {odd[0]}; "
            "nothing was saved"
        )
