"""One export from what was asked to a folder in its place: written aside, read back, proven, then moved."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from clipdrift.errors import ClipdriftError, StorageError, one_line
from clipdrift.exporting import to_onnx, to_open_clip
from clipdrift.exporting.card import card
from clipdrift.exporting.from_open_clip import as_transformers
from clipdrift.exporting.opened import Opened, open_source
from clipdrift.exporting.proof import Reading, Samples, prove, read_source, samples_for
from clipdrift.exporting.result import (
    RECORD,
    Dtype,
    Exported,
    ExportError,
    Kind,
    Rounding,
    checked,
    free_place,
)
from clipdrift.exporting.to_transformers import read_adapter, read_model, write_adapter, write_model
from clipdrift.runs.files import storage, sync_folder
from clipdrift.runs.reporter import Reporter, Silent

_LIBRARIES = ("clipdrift", "torch", "transformers", "peft", "safetensors", "tokenizers")
_OTHERS = {"open_clip": ("open_clip_torch",), "onnx": ("onnx", "onnxscript", "onnxruntime")}


@torch.no_grad()
def export(
    model: str | Path,
    adapter: str | Path | None = None,
    *,
    to: str,
    out: str | Path | None = None,
    dtype: str = "float32",
    any_base: bool = False,
    command: str | None = None,
    reporter: Reporter | None = None,
) -> Exported:
    """Write a model as another library reads it, read it back with that library, and prove it equal.

    Generated images and fixed texts go through the source as it is, and through what the library made of the
    files. Where their embeddings are further apart than the type of the weights explains, nothing is kept.

    Args:
        model: a run's folder, a model's folder or hub id, a shipped model, an adapter that names its base; or
            the base of ``adapter``.
        adapter: folder or hub id of a peft adapter.
        to: transformers, merged, peft, open_clip or onnx.
        out: folder to be made; none: one in the working directory named by model, kind and type.
        dtype: of the weights: float32, fp16 or bf16.
        any_base: accept an adapter that was made on another model.
        command: as it was typed, for the record.

    Returns:
        What is also in ``export.json`` in the folder.

    Raises:
        ExportError: a kind that does not go with the model, a folder that is there already, a library that is
            missing, or an export that does not read back as its source.
        ModelError, PairError: what cannot be opened.
        StorageError: a place where nothing can be made.
    """
    kind, weights = checked(to, dtype)
    place = free_place(str(model if adapter is None else adapter), kind, weights, out)
    if kind == "onnx":
        to_onnx.libraries()
    elif kind == "open_clip":
        to_open_clip.library()
    told = reporter or Silent()
    told.stage(f"loading {model}" if adapter is None else f"loading {model} + {adapter}")
    source = open_source(str(model), None if adapter is None else str(adapter), any_base)
    refuse(source, kind)
    if source.family == "open_clip":
        source = replace(source, clip=as_transformers(source.clip), reference=source.clip, family="clip")
    told.stage("embedding what is to come back")
    samples = samples_for(source)
    wanted = read_source(source, samples)
    with _aside(place) as folder:
        told.stage(f"writing {kind}")
        rounding, notes = _write(source, folder, kind, weights, place.name)
        told.stage("reading it back")
        found, unrounded = _read(source, folder, samples, kind, weights)
        made = Exported(
            to=kind,
            dtype=weights,
            source=source.facts,
            proof=prove(source, samples, wanted, found, weights, rounding, unrounded),
            classes=source.classes,
            versions={name: _version(name) for name in (*_LIBRARIES, *_OTHERS.get(kind, ()))},
            files=_checksums(folder),
            command=command,
            notes=(*source.notes, *_beside(source, kind), *notes),
            folder=place,
        )
        (folder / "README.md").write_text(card(made, source), encoding="utf-8")
        (folder / RECORD).write_text(made.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return made


def refuse(source: Opened, kind: Kind) -> None:
    """Refuse a kind that the model cannot be exported as. Raises ExportError, with what to say instead."""
    name = source.name
    why = None
    if kind == "transformers" and source.form == "adapter":
        why = "an adapter; say --to merged for a full model, or --to peft for the adapter alone"
    elif kind == "merged" and source.form != "adapter":
        why = "has no adapter to merge; say --to transformers"
    elif kind == "peft" and source.form != "adapter":
        why = "no adapter, a full model; say --to transformers"
        if source.form == "head":
            why = "a head on its backbone, no adapter; say --to transformers"
    elif kind == "peft" and source.family == "open_clip":
        why = "an adapter on an OpenCLIP model, on which plain peft cannot put it; say --to merged"
    elif kind == "open_clip" and source.family == "siglip":
        why = (
            "a SigLIP; OpenCLIP builds its image tower with timm, under other names and with another "
            "tokenizer; say --to transformers or --to onnx"
        )
    if why is not None:
        raise ExportError(f"{name}: {why}")


def _write(
    source: Opened, folder: Path, kind: Kind, dtype: Dtype, name: str
) -> tuple[Rounding | None, list[str]]:
    if kind == "onnx":
        return None, to_onnx.write_onnx(source, folder, dtype)
    if kind == "open_clip":
        return to_open_clip.write_open_clip(source, folder, dtype, name)
    write = write_adapter if kind == "peft" else write_model
    return write(source, folder, dtype), []


def _read(
    source: Opened, folder: Path, samples: Samples, kind: Kind, dtype: Dtype
) -> tuple[Reading, Reading | None]:
    """As the library loads the files and, of a short type, in float32 where it can.

    onnxruntime computes as the file says; peft itself turns adapters into float32.
    """
    try:
        if kind == "onnx":
            return to_onnx.read_onnx(source, folder, samples), None
        if kind == "open_clip":  # its default is float32
            found = to_open_clip.read_open_clip(folder, samples)
            return found, None if dtype == "float32" else found
        if kind == "peft":
            return read_adapter(source, folder, samples), None
        found = read_model(source, folder, samples)
        return found, None if dtype == "float32" else read_model(source, folder, samples, torch.float32)
    except ClipdriftError:
        raise
    except Exception as error:  # of whatever library reads it
        said = one_line(error, 300).replace(str(folder), folder.name)
        raise ExportError(
            f"{source.name}: what was written does not read back ({type(error).__name__}: {said}); nothing "
            "was kept"
        ) from error


def _beside(source: Opened, kind: Kind) -> list[str]:
    """What a reader should know of the head."""
    if source.loss:
        names = ", ".join(sorted(source.loss))
        if kind == "onnx":
            return [f"The loss had {names} beside the model, which is left out here."]
        return [f"head.safetensors holds what the loss had beside the model: {names}."]
    if source.head is not None and not source.classes:
        return ["The names of the head's classes are not known."]
    return []


@contextmanager
def _aside(place: Path) -> Iterator[Path]:
    """A temporary folder that takes its place when it is complete, and is removed otherwise."""
    with storage(place):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{place}: cannot be made ({error.strerror})") from None
        folder = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir()
            yield folder
            for file in folder.rglob("*"):
                if file.is_file():
                    with file.open("rb") as stream:
                        os.fsync(stream.fileno())
            free_place("", "", "", place)  # somebody else may have written there meanwhile
            folder.rename(place)
            sync_folder(place.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _checksums(folder: Path) -> dict[str, str]:
    found = {}
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        with file.open("rb") as stream:
            found[file.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
