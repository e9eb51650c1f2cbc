"""Open BASE and TUNED: a model, an adapter on BASE, a run, an OpenCLIP checkpoint."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from transformers.utils.hub import cached_file

from clipdrift.adapt import load_adapted
from clipdrift.adapt.saved import attach_adapter
from clipdrift.config import RunConfig
from clipdrift.errors import ClipdriftError
from clipdrift.model.clip import SHIPPED, Clip, check_finite, fingerprint_model, load, shipped_folder
from clipdrift.model.folders import text_of
from clipdrift.model.half_loading import Classifier, Half, half_in_memory, half_kind, load_half
from clipdrift.model.openclip_names import CONFIG as OPEN_CLIP_CONFIG
from clipdrift.model.towers import unwrapped
from clipdrift.runs.layout import CONFIG, HEAD, WEIGHTS
from clipdrift.runs.store import RunFolder

ModelLike = str | Path | Clip | nn.Module
"""A name, a folder, a loaded Clip, or a model in memory of a library that can be read."""


class PairError(ClipdriftError):
    """Two models that cannot be compared; says why, with the count and names of what does not fit."""


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """One opened side of a comparison.

    Attributes:
        name: as it was given.
        kind: model, adapter, run or in memory.
        model: the live model.
        clip: with texts and preprocessing, where they are known.
        fingerprint: content hash of its files.
        backbone: what an adapter or a run says it was made from, and the content hash of that.
        interpolated_from: image size in pixels that its positions were made for, where they have been
            interpolated to another.
        grafted: parts that are BASE's, since the model is half of one.
        brought: names of the weights that half a model brought; None: all of them.
        head: of an image classifier.
        notes: what was done to open it that a reader should know, beside the Clip's own.
    """

    name: str
    kind: str
    model: Any
    clip: Clip | None
    fingerprint: str | None = None
    backbone: tuple[str, str | None] | None = None
    interpolated_from: int | None = None
    grafted: tuple[str, ...] = ()
    brought: frozenset[str] | None = None
    head: Classifier | None = None
    notes: tuple[str, ...] = ()


def open_model(given: ModelLike, base: OpenedModel | None = None) -> OpenedModel:
    """Open one side.

    Args:
        given: a hub id, a folder with config.json, ``clipdrift/mini``, the folder of a run, a peft adapter
            (folder or hub id), ``open_clip:...``, a Clip, or a model in memory.
        base: what an adapter is put on; none: what its own file names.

    Raises:
        PairError, ModelError: what cannot be opened, and why.
    """
    if isinstance(given, Clip):
        check_finite(given.model, given.name)
        return OpenedModel(given.name, "in memory", given.model, given)
    if isinstance(given, nn.Module):
        check_finite(given, type(given).__name__)
        return OpenedModel(type(given).__name__, "in memory", given, None)
    name = str(given)
    if (found := _open_run_or_adapter(name, base)) is not None:
        return found
    if (half := half_kind(name)) is not None:
        raise PairError(
            f"{name}: {half.article}, which takes what it lacks from a whole model: `clipdrift compare` and "
            "`check` take it, give it as TUNED, and as BASE the one that it was made from"
        )
    return _open_whole(name, base)


def open_tuned(given: ModelLike, base: OpenedModel) -> OpenedModel | Half:
    """Open TUNED: as :func:`open_model`, or half a model, which is to be completed by BASE.

    Raises:
        PairError, ModelError: what cannot be opened, and why.
    """
    if isinstance(given, nn.Module):
        inner = unwrapped(given)
        half = half_in_memory(inner, type(inner).__name__)
        if half is None:
            return open_model(given, base)
        check_finite(inner, half.name)
        return half
    if isinstance(given, Clip):
        return open_model(given, base)
    name = str(given)
    return _open_run_or_adapter(name, base) or load_half(name) or _open_whole(name, base)


def _open_whole(name: str, base: OpenedModel | None) -> OpenedModel:
    clip = load(name, None if base is None else base.clip)
    return OpenedModel(name, "model", clip.model, clip, fingerprint_of(name))


def _open_run_or_adapter(name: str, base: OpenedModel | None) -> OpenedModel | None:
    folder = Path(name).expanduser()
    if folder.is_file():
        raise PairError(f"{name}: a file; give the folder that holds the model, the adapter or the run")
    if (folder / CONFIG).is_file() and "method" in _json(folder / CONFIG):
        return _open_run(name, folder)
    if folder.is_dir() and (folder / HEAD).is_file() and not _is_model(folder):
        return _open_run(name, folder.parent)
    if adapter := adapter_folder(name, folder):
        return _open_adapter(name, adapter, base)
    return None


_CONFIGS = ("config.json", OPEN_CLIP_CONFIG)


def _is_model(folder: Path) -> bool:
    return any((folder / file).is_file() for file in (*_CONFIGS, "adapter_config.json"))


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(text_of(file))
    except (OSError, ValueError) as error:
        raise PairError(f"{file}: unreadable ({error})") from None
    return found if isinstance(found, dict) else {}


def _open_run(name: str, folder: Path) -> OpenedModel:
    """The adapted model that a run of ours left."""
    run = RunFolder(folder)
    if not run.finished:
        raise PairError(f"{folder}: a run that has not finished; it has no weights to compare yet")
    record = run.record()
    weights = folder / WEIGHTS
    if record.status != "done" or not weights.is_dir():
        raise PairError(f"{folder}: the run ended as {record.status} and left no weights")
    backbone = record.config.model
    now = fingerprint_of(_name_of(record.config))
    if record.artefacts["kind"] != "model" and now and backbone.fingerprint and now != backbone.fingerprint:
        raise PairError(
            f"{folder}: the files of its backbone {_name_of(record.config)} are no longer those that the run "
            "was made from; what it learnt belongs on those"
        )
    clip = load_adapted(weights, backbone)
    made_from = (_name_of(record.config), backbone.fingerprint)
    return OpenedModel(name, "run", clip.model, clip, fingerprint_model(weights), made_from)


def _name_of(config: RunConfig) -> str:
    return config.model.path or config.model.name


def adapter_folder(name: str, folder: Path) -> Path | None:
    """Find the folder of ``adapter_config.json``, on the disk or in the hub's cache; None: no adapter."""
    if folder.is_dir():
        return folder if (folder / "adapter_config.json").is_file() else None
    if name in SHIPPED or name.count("/") != 1 or ":" in name:
        return None
    found: list[str | None] = []
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        try:
            found.append(cached_file(name, file, _raise_exceptions_for_missing_entries=False))
        except (OSError, ValueError):  # no such repository or no network: loading it as a model will say so
            return None
    if found[0] is None:
        return None
    if found[1] is None:
        raise PairError(
            f"{name}: an adapter without adapter_model.safetensors; pickled weights are not loaded: save it "
            "again with safetensors"
        )
    return Path(found[0]).parent


def _open_adapter(name: str, folder: Path, base: OpenedModel | None) -> OpenedModel:
    settings = _json(folder / "adapter_config.json")
    made_from = settings.get("base_model_name_or_path")
    if base is None:
        if not made_from:
            raise PairError(
                f"{name}: an adapter that does not say on which model it was made; give it as TUNED"
            )
        base = open_model(str(made_from))
    if any(isinstance(part, BaseTunerLayer | ModulesToSaveWrapper) for part in base.model.modules()):
        raise PairError(
            f"{name}: an adapter is put on BASE, and {base.name} has adapters in it already; merge those and "
            "save the result, or compare two runs"
        )
    if base.clip is None:
        raise PairError(f"{name}: an adapter folder needs BASE by name, by folder or as a Clip")
    # a model in memory must not be changed, and peft changes the very object that it is given
    clip = attach_adapter(copied_clip(base.clip), folder)
    origin = (str(made_from), fingerprint_of(str(made_from))) if made_from else None
    return OpenedModel(name, "adapter", clip.model, clip, fingerprint_model(folder), origin)


def copied_clip(clip: Clip) -> Clip:
    """Copy a Clip with its model and its texts' encoder, which holds the model too, together."""
    model, texts = copy.deepcopy((clip.model, clip.texts))
    return replace(clip, model=model, texts=texts)


def fingerprint_of(name: str) -> str | None:
    """Content hash of a local model's files; None for what is not local."""
    if name in SHIPPED:
        return fingerprint_model(shipped_folder(name))
    folder = Path(name).expanduser()
    return fingerprint_model(folder) if any((folder / file).is_file() for file in _CONFIGS) else None
