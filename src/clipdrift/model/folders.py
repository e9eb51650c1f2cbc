"""What a folder of a model is, told from its files alone: torch-free, nothing is unpickled."""

from __future__ import annotations

import codecs
import json
import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_POINTER = b"version https://git-lfs"
_PREFIXES = ("module.", "_orig_mod.", "model.", "clip.")
_WHOLE = ("text_model.", "vision_model.", "visual_projection.", "text_projection.", "logit_", "classifier.")
_HALF = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.", "final_layer_norm.", "head.")
_OWN = (*_WHOLE, *_HALF)
"""How the names of transformers' CLIP and SigLIP weights begin, in a whole model and in a tower alone."""
_LARGEST_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_PICKLED = (".pt", ".pth", ".bin", ".ckpt")


def why_no_model(folder: Path) -> str | None:
    """Why a folder without config.json holds no model, and what to give instead; None: nothing known."""
    if (folder / "config.json").is_file():
        return None
    inside = sorted(child for child in folder.iterdir())
    steps = [(int(found[1]), child) for child in inside if (found := _CHECKPOINT.fullmatch(child.name))]
    if steps:
        names = ", ".join(child.name for _, child in sorted(steps))
        return f"a training's folder with {names} in it; give one of them, such as {max(steps)[1]}"
    if (folder / "0_CLIPModel").is_dir():
        return f"a model of sentence-transformers; give the CLIP inside it, {folder / '0_CLIPModel'}"
    adapters = [child for child in inside if (child / "adapter_config.json").is_file()]
    if adapters:
        names = ", ".join(child.name for child in adapters)
        return f"a folder of named adapters ({names}); give one of them, such as {adapters[0]}"
    pickled = [child.name for child in inside if child.suffix in _PICKLED]
    if pickled:
        return (
            f"no config.json beside {pickled[0]}; pickled weights alone do not say of which model they are: "
            "load them into that model and save it with save_pretrained"
        )
    return None


def why_no_towers(config: dict[str, Any]) -> str | None:
    """Why a configuration of a right ``model_type`` still is no model with two towers."""
    kinds = config.get("architectures")
    odd = [
        str(kind)
        for kind in (kinds if isinstance(kinds, list) else ())
        if str(kind).endswith("ForImageClassification")
    ]
    if not odd:
        return None
    return (
        f"an image classifier ({odd[0]}): it has no text tower, so it tells its own classes and nothing "
        "zero-shot; give the whole CLIP that it was made from, compare it with that as TUNED, or "
        "fine-tune that with clipdrift"
    )


def why_unreadable(folder: Path) -> str | None:
    """Say what is wrong with the weight files of a folder, as far as their first bytes and lengths tell."""
    files = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.bin"))
    for file in files:
        with file.open("rb") as stream:
            if stream.read(len(_POINTER)) == _POINTER:
                return f"{file}: a pointer of Git LFS in place of the weights; run `git lfs pull` there"
        if file.suffix == ".safetensors" and (cut := _cut_off(file)):
            return f"{file}: {cut}; copy or save it again"
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return f"{index}: not an index of weight files; copy it again"
        lost = sorted(str(name) for name in named if not (folder / str(name)).is_file())
        if lost:
            return f"{index}: {len(lost)} of {len(named)} files of weights are missing, for example {lost[0]}"
    return None


def strange_prefix(folder: Path) -> str | None:
    """Prefix of every weight's name, such as ``module._orig_mod.``; None: there is none.

    Only what training tools are known to put there counts, and only if every weight has it.
    """
    names = [name for file in folder.glob("*.safetensors") for name in _names(file)]
    if not names or any(name.startswith(_OWN) for name in names):
        return None
    prefix = ""
    while found := next((p for p in _PREFIXES if all(name.startswith(prefix + p) for name in names)), None):
        prefix += found
    own = all(name[len(prefix) :].startswith(_OWN) for name in names)
    return prefix if prefix and own else None


def prefix_of_some(unexpected: Collection[str], missing: Collection[str]) -> tuple[str, int] | None:
    """Prefix that stands before some of the missing weights' names, and before how many; None: none."""
    for prefix in _PREFIXES:
        count = sum(name.startswith(prefix) and name[len(prefix) :] in missing for name in unexpected)
        if count:
            return prefix, count
    inside = [name for name in unexpected if "._orig_mod." in name]
    count = sum(name.replace("._orig_mod.", ".") in missing for name in inside)
    return ("_orig_mod.", count) if count else None


@contextmanager
def unmarked(folder: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The folder, or a copy of links in which no JSON file begins with a byte order mark.

    Windows' editors put one there, and no library reads it. Yields the folder to read and the names of files
    that had one.
    """
    marked = {}
    for file in sorted(folder.glob("*.json")):
        if file.is_file() and _mark(file.read_bytes()) is not None:
            with suppress(UnicodeDecodeError):  # no text: whoever reads it says so
                marked[file.name] = text_of(file).encode()
    if not marked:
        yield folder, ()
        return
    with tempfile.TemporaryDirectory() as place:
        for file in folder.iterdir():
            if file.name not in marked:
                (Path(place) / file.name).symlink_to(file.absolute())
        for name, content in marked.items():
            (Path(place) / name).write_bytes(content)
        yield Path(place), tuple(marked)


_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def text_of(file: Path) -> str:
    """Text of a UTF-8 file, or of any with a byte order mark, without it. Raises OSError, ValueError."""
    content = file.read_bytes()
    return content.decode(_mark(content) or "utf-8")


def _mark(content: bytes) -> str | None:
    """The encoding that a byte order mark names; None: there is none."""
    return next((name for mark, name in _MARKS.items() if content.startswith(mark)), None)


def _header(file: Path) -> tuple[int, dict[str, Any]] | None:
    """The header's length and content; None where it is no safetensors header."""
    with file.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > _LARGEST_HEADER:
            return None
        try:
            content = json.loads(stream.read(length))
        except ValueError:
            return None
    return (length, content) if isinstance(content, dict) else None


def _cut_off(file: Path) -> str | None:
    found = _header(file)
    if found is None:
        return "not a safetensors file, or one that was cut off at its start"
    length, content = found
    try:
        ends = [int(entry["data_offsets"][1]) for name, entry in content.items() if name != "__metadata__"]
    except (KeyError, IndexError, TypeError, ValueError):
        return "its header is damaged"
    wanted, there = 8 + length + max(ends, default=0), file.stat().st_size
    return f"cut off, {there} of {wanted} bytes are there" if there < wanted else None


def _names(file: Path) -> list[str]:
    found = _header(file)
    return [] if found is None else [name for name in found[1] if name != "__metadata__"]
