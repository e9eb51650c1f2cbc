"""What a name of OpenCLIP's stands for: an architecture and where its weights are."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdrift.errors import one_line
from clipdrift.model.quiet import quiet

CONFIG = "open_clip_config.json"
SAVED = "open_clip_model.safetensors"
"""Files of a folder that OpenCLIP loads."""
_WEIGHTS = (
    SAVED,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""Of a folder's weight files the one that OpenCLIP takes, best first."""


class Reason(Exception):  # noqa: N818 - becomes the end of a ModelError, which names the model
    """Why a model cannot be loaded."""


@dataclass(frozen=True)
class OpenClipSource:
    """Files and configuration behind a name.

    Attributes:
        config: OpenCLIP's ``model_cfg``.
        preprocessing: its ``preprocess_cfg``, as far as known.
        weights: gives the file, which may have to be downloaded.
        folder: where a Hugging Face tokenizer is kept, if not under its own name.
    """

    config: dict[str, Any]
    preprocessing: Mapping[str, Any]
    weights: Callable[[], Path]
    folder: Path | None = None


def is_folder(place: Path) -> bool:
    """Whether a folder holds an OpenCLIP model and none of transformers."""
    return (place / CONFIG).is_file() and not (place / "config.json").is_file()


def local_place(name: str) -> Path | None:
    """Folder or file of weights that a name of OpenCLIP's says; None: it says neither, or none is there."""
    place = name.removeprefix("open_clip:")
    local = place if place.startswith((".", "/", "~")) else place.partition("/")[2]
    found = Path(local).expanduser()
    return found if local and found.exists() else None


def source_of(name: str, library: Any) -> OpenClipSource:
    """Read a name; nothing but a repository's configuration is fetched.

    Args:
        name: as :func:`clipdrift.model.openclip.load_open_clip` takes it.
        library: the module ``open_clip``.

    Raises:
        Reason: it stands for nothing.
    """
    if name.startswith("hf-hub:"):
        return _from_hub(name.removeprefix("hf-hub:"), library)
    place = name.removeprefix("open_clip:")
    if place.startswith((".", "/", "~")):
        return _from_folder(Path(place).expanduser())
    architecture, _, weights = place.partition("/")
    return _from_list(architecture, weights, library)


def _from_list(architecture: str, weights: str, library: Any) -> OpenClipSource:
    known = library.list_models()
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "open_clip.list_models() names them all"
        if Path(architecture).is_dir():
            hint = f"a folder is written open_clip:./{architecture}"
        raise Reason(f"OpenCLIP knows no architecture {architecture!r}; {hint}")
    config = library.get_model_config(architecture)
    tags = ", ".join(library.list_pretrained_tags_by_model(architecture)) or "none"
    if not weights:
        raise Reason(
            f"which weights? open_clip:{architecture}/TAG or open_clip:{architecture}/FILE; tags: {tags}"
        )
    if tag := library.get_pretrained_cfg(architecture, weights):
        # OpenCLIP itself only warns, and computes another model than was trained
        if tag.get("quick_gelu") and not config.get("quick_gelu"):
            raise Reason(
                f"these weights were trained with QuickGELU, which {architecture} is without; "
                f"say open_clip:{architecture}-quickgelu/{weights}"
            )
        return OpenClipSource(config, tag, lambda: _had(library.download_pretrained, tag))
    file = Path(weights).expanduser()
    if not file.is_file():
        raise Reason(f"{weights} is neither a tag of {architecture} nor a file; tags: {tags}")
    return OpenClipSource(config, {}, lambda: file)


def _from_folder(folder: Path) -> OpenClipSource:
    if not folder.is_dir():
        raise Reason("no such folder")
    content = _config(folder / CONFIG)
    return OpenClipSource(*content, lambda: _weights_in(folder), folder)


def _from_hub(repository: str, library: Any) -> OpenClipSource:
    fetch = library.pretrained.download_pretrained_from_hf
    content = _config(_had(fetch, repository, filename=CONFIG))
    return OpenClipSource(*content, lambda: _had(fetch, repository))


def _had(fetch: Callable[..., Any], *args: Any, **kwargs: Any) -> Path:
    """Find a file on the network, or in the cache of an earlier time."""
    try:
        with quiet():
            return Path(fetch(*args, **kwargs))
    except Exception as error:  # of the hub, of urllib, of OpenCLIP
        wanted = kwargs.get("filename", "the weights")
        raise Reason(
            f"{wanted} not found in the local cache and not to be had from the network ({one_line(error)})"
        ) from error


def _config(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read ``model_cfg`` and ``preprocess_cfg``."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        config, preprocessing = content["model_cfg"], content.get("preprocess_cfg") or {}
        if not all(isinstance(config[key], dict) for key in ("vision_cfg", "text_cfg")):
            raise TypeError("vision_cfg and text_cfg are not objects")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Reason(f"{CONFIG} is missing or not OpenCLIP's ({one_line(error)})") from None
    return config, preprocessing


def _weights_in(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    files = sorted(folder.iterdir())
    found = [file for file in files if file.suffix in (".safetensors", ".bin", ".pth")]
    if len(found) == 1:
        return found[0]
    if found:
        raise Reason(f"which weights? There are {', '.join(file.name for file in found)}; keep one")
    passed = [file.name for file in files if file.suffix in (".pt", ".ckpt")]
    hint = f"; OpenCLIP takes no {passed[0]}: rename it to {_WEIGHTS[2]}" if passed else ""
    raise Reason(f"no weights in the folder ({_WEIGHTS[0]}, or *.bin or *.pth){hint}")
