"""Open what is to be exported: a run, a model, an adapter on its base."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clipdrift.adapt.heads import Head, ZeroShotHead, head_folder, load_head
from clipdrift.comparison.models import OpenedModel, adapter_folder, open_model
from clipdrift.comparison.pairs import right_base
from clipdrift.config import ContrastiveObjective, ModelConfig
from clipdrift.exporting.result import ExportError, ExportSource
from clipdrift.model.clip import SHIPPED, Clip, shipped_folder
from clipdrift.model.towers import unwrapped
from clipdrift.repair.merging import has_adapters
from clipdrift.runs.layout import CONFIG, HEAD, RECORD, WEIGHTS
from clipdrift.runs.record import Record
from clipdrift.runs.store import RunFolder

CLASSES = "classes.json"
"""Names of the head's classes, in its order."""

_FAMILIES = {"CLIPModel": "clip", "SiglipModel": "siglip"}


@dataclass(frozen=True, eq=False)
class Opened:
    """What is to be exported, live.

    Attributes:
        name: as it was given.
        clip: the whole model in float32, adapters in it not merged; what is written.
        reference: what is to come back, where that is a model of another library; none: ``clip``.
        form: what of it was saved: all of it, an adapter on its base, or a head beside it.
        family: clip, siglip, or open_clip for a model of that library.
        fingerprint: of its own files.
        base: name or folder of what it was fine-tuned from, with its content hash, where that is known.
        revision: of the base on the hub.
        adapter: folder of the adapter's files.
        head: linear, on the embedding as it comes; a zero-shot one normalises it.
        loss: what a loss on captions had beside the model, by name.
        classes: of the head, where they are known.
        run: key of the run that made it.
        prompts: texts of that run.
        notes: what a reader should know.
    """

    name: str
    clip: Clip
    form: Literal["model", "adapter", "head"]
    family: Literal["clip", "siglip", "open_clip"]
    fingerprint: str | None = None
    base: tuple[str, str | None] | None = None
    revision: str | None = None
    adapter: Path | None = None
    head: Head | None = None
    loss: dict[str, Tensor] | None = None
    classes: tuple[str, ...] = ()
    run: str | None = None
    prompts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reference: Clip | None = None

    @property
    def facts(self) -> ExportSource:
        """As it stands in the record."""
        kind = type(unwrapped((self.reference or self.clip).model))
        base, base_print = self.base or (None, None)
        return ExportSource(
            name=self.name,
            kind=self.form,
            library=f"{kind.__module__.partition('.')[0]} {kind.__name__}",
            fingerprint=self.fingerprint,
            base=base,
            base_fingerprint=base_print,
            run=self.run,
        )


def open_source(model: str, adapter: str | None = None, any_base: bool = False) -> Opened:
    """Open what is to be exported.

    Args:
        model: a run's folder, a model's folder or hub id, a shipped model, an adapter that names its base; or
            the base of ``adapter``.
        adapter: folder or hub id of a peft adapter.
        any_base: accept an adapter that was made on another model.

    Raises:
        ExportError, PairError, ModelError: what cannot be opened, and why.
    """
    if adapter is None:
        run = _run_folder(Path(model).expanduser())
        return _of_run(model, run) if run is not None else _of_files(model, open_model(model))
    base = open_model(model)
    if base.kind != "model":
        raise ExportError(
            f"{model}: an {base.kind} and an adapter; give the adapter's base first, or one of both alone"
            if base.kind == "adapter"
            else f"{model}: a run and an adapter; give the adapter's base first, or the run alone"
        )
    if _run_folder(Path(adapter).expanduser()) is not None:
        raise ExportError(f"{adapter}: a run, which names its own backbone; give it alone")
    opened = open_model(adapter, base)
    if opened.kind != "adapter":
        raise ExportError(f"{adapter}: no adapter, a full model; give it alone")
    notes = () if any_base else tuple(right_base(base, opened))
    given = (model, base.fingerprint)
    return replace(_of_files(adapter, opened, given), name=f"{model} + {adapter}", notes=notes)


def _run_folder(folder: Path) -> Path | None:
    """The folder of a run that is given itself, or by its folder of weights."""
    if (folder / RECORD).is_file() and (folder / CONFIG).is_file():
        return folder
    if folder.name == WEIGHTS and (folder.parent / RECORD).is_file():
        return folder.parent
    return None


def _of_run(name: str, folder: Path) -> Opened:
    run = RunFolder(folder)
    if said := run.damaged_weights():
        raise ExportError(f"{said}; run it again")
    opened = open_model(folder)
    record = run.record()
    weights = folder / WEIGHTS
    form: Any = record.artefacts["kind"]
    found = _made(name, opened, form, weights, opened.backbone)
    revision = record.config.model.revision
    return replace(found, run=record.key, prompts=_prompts(record), revision=revision)


def _prompts(record: Record, most: int = 8) -> tuple[str, ...]:
    if isinstance(record.config.objective, ContrastiveObjective) or not record.target.prompts:
        return ()
    return tuple(record.target.prompts[0].format(name) for name in record.target.classes[:most])


def _of_files(name: str, opened: OpenedModel, given: tuple[str, str | None] | None = None) -> Opened:
    place = Path(name).expanduser()
    if opened.kind == "adapter":
        folder = adapter_folder(name, place)
        base = given or opened.backbone
        if base is None:
            raise ExportError(f"{name}: an adapter that does not say on which model it was made; give BASE")
        return _made(name, opened, "adapter", folder, base)
    folder = shipped_folder(name) if name in SHIPPED else place if place.is_dir() else None
    return _made(name, opened, "model", folder, None)


def _made(
    name: str,
    opened: OpenedModel,
    form: Literal["model", "adapter", "head"],
    folder: Path | None,
    base: tuple[str, str | None] | None,
) -> Opened:
    if opened.clip is None:
        raise ExportError(f"{name}: without tokenizer and preprocessing it cannot be exported")
    kind = type(unwrapped(opened.model))
    library = kind.__module__.partition(".")[0]
    family: Any = "open_clip" if library == "open_clip" else _FAMILIES.get(kind.__name__)
    if family is None:
        raise ExportError(f"{name}: {library} {kind.__name__} is not exported; CLIP and SigLIP are")
    if form != "adapter" and has_adapters(opened.model):
        raise ExportError(f"{name}: has adapters inside that lie in no folder of their own")
    found = Opened(
        name=name,
        clip=opened.clip,
        form=form,
        family=family,
        fingerprint=opened.fingerprint,
        base=base,
        adapter=folder if form == "adapter" else None,
        notes=opened.clip.notes,
    )
    return found if folder is None else _with_head(found, folder)


def _with_head(found: Opened, folder: Path) -> Opened:
    """What lies beside the weights: a head with its classes, or what a loss had."""
    file = folder / HEAD
    if not file.is_file():
        return found
    if head_folder(folder) is None:
        try:
            return replace(found, loss=load_file(file))
        except (OSError, SafetensorError) as error:
            raise ExportError(f"{file}: what is beside the model cannot be read ({error})") from None
    head = load_head(folder)
    classes = _classes(folder) or (head.classes if isinstance(head, ZeroShotHead) else ())
    return replace(found, head=head, classes=classes if len(classes) == head.out_features else ())


def _classes(folder: Path) -> tuple[str, ...]:
    """Of the run that the folder belongs to, or of an export."""
    run = RunFolder(folder.parent)
    if folder.name == WEIGHTS and run.finished:
        return tuple(run.record().target.classes)
    file = folder / CLASSES
    if not file.is_file():
        return ()
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{file}: cannot be read ({error})") from None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def place_of(name: str) -> str:
    """What plain libraries load a name by: the folder of a shipped model, else the name itself."""
    if name in SHIPPED:
        return str(shipped_folder(name))
    config = ModelConfig.model_validate(name)
    return config.name if config.path is None else str(Path(config.path).expanduser())


def reference_of(name: str) -> str:
    """A base as an adapter's file names it: a hub id or a shipped model by its name, a folder by its path."""
    if name in SHIPPED or not Path(name).expanduser().is_dir():
        return name
    return str(Path(name).expanduser().resolve())
