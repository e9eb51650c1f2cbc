"""The backbone's side of a watched training: numbers, activations, its weights on disk; no second model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save, save_file
from torch import Tensor

from clipdrift.measures import Internals, TextInternals
from clipdrift.measures.packing import pack, unpack
from clipdrift.measures.states import KeptStates
from clipdrift.model.towers import Geometry
from clipdrift.monitoring.errors import MonitorError
from clipdrift.monitoring.pictures import BACKBONE, ProbeAttention
from clipdrift.runs.files import replace_folder, write_text
from clipdrift.runs.kept import DamagedFileError, keep, read_kept

FOLDER = BACKBONE
"""In the monitor's folder."""
_FACTS, _NUMBERS, _WEIGHTS = "backbone.json", "numbers.kept", "weights.safetensors"


def apart(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU that training does not touch."""
    return {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}


def same_weights(before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> bool:
    """Whether all weights are equal, to the last bit."""
    return before.keys() == now.keys() and all(torch.equal(before[n], now[n].detach().cpu()) for n in before)


@dataclass(frozen=True)
class SetSide:
    """The backbone on one transfer set.

    Attributes:
        accuracy: percent.
        images, classes: how many.
        measurable: whether it is above chance, so that one can say what is kept of it.
        features: (C, E) unit text features of its classes.
    """

    accuracy: float
    images: int
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    measurable: bool
    features: Tensor = field(repr=False, compare=False)


@dataclass(frozen=True, eq=False)
class BackboneSide:
    """Everything that the model in training is compared with.

    Attributes:
        model: its name, for people.
        geometry: sizes of its image tower.
        images: digest of the images that it was read on, as the model takes them.
        internals: of those images.
        weights: of the image tower, by name; read from disk one by one where they lie there.
        scale: what it multiplies cosines with; None where it has no texts.
        texts: that class probabilities are taken over, and (M, E) unit features of each.
        text_internals, text_weights: of its text tower, where it can be read.
        sets: by name.
        attention: of a few images, for pictures; None where their pictures are lost.
        absent: measures that its image tower has not, or families of them: why.
    """

    model: str
    geometry: Geometry
    images: str
    internals: Internals
    weights: Mapping[str, Tensor]
    scale: float | None = None
    texts: tuple[str, ...] = ()
    features: Tensor | None = None
    text_internals: TextInternals | None = None
    text_weights: Mapping[str, Tensor] = field(default_factory=dict)
    sets: Mapping[str, SetSide] = field(default_factory=dict)
    attention: ProbeAttention | None = None
    absent: Mapping[str, str] = field(default_factory=dict)


class _OnDisk(Mapping[str, Tensor]):
    """Weights in a file, read when asked for; it stays open, so that one who tidies up takes nothing away."""

    def __init__(self, path: Path, prefix: str) -> None:
        opened: Any = safe_open(str(path), "pt")
        self._file, self._prefix, names = opened, prefix, opened.keys()
        self._names = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        found: Tensor = self._file.get_tensor(self._prefix + name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def store(side: BackboneSide, out: Path) -> BackboneSide:
    """Write a backbone's side into ``out``; returns the same with its weights read from there.

    Raises:
        StorageError, OSError: no room, or no right to write.
    """
    place, made = out / FOLDER, out / f".{FOLDER}.new"
    made.mkdir(parents=True, exist_ok=True)
    weights = {f"image.{name}": w.detach().cpu().contiguous().clone() for name, w in side.weights.items()}
    weights |= {
        f"text.{name}": w.detach().cpu().contiguous().clone() for name, w in side.text_weights.items()
    }
    save_file(weights, str(made / _WEIGHTS))
    tensors = {f"internals.{name}": tensor.contiguous() for name, tensor in pack(side.internals).items()}
    if side.text_internals is not None:
        found = side.text_internals
        tensors |= {f"texts.attention.{n}": torch.from_numpy(np.array(v)) for n, v in found.attention.items()}
        tensors |= {f"texts.heads.{n}": torch.from_numpy(np.array(v)) for n, v in found.heads.items()}
        tensors |= {
            "texts.states": torch.stack(list(found.states)),
            "texts.embedding": found.embedding,
            "texts.words": torch.from_numpy(found.words),
        }
    if side.features is not None:
        tensors["features"] = side.features.cpu()
    tensors |= {f"set.{name}": one.features.cpu() for name, one in side.sets.items()}
    keep(made / _NUMBERS, save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    if side.attention is not None:
        side.attention.save(made)
    facts = {
        "model": side.model,
        "geometry": asdict(side.geometry),
        "reader": side.internals.reader,
        "absent": dict(side.absent),
        "images": side.images,
        "scale": side.scale,
        "texts": side.texts,
        "text_attention": [] if side.text_internals is None else list(side.text_internals.attention),
        "sets": {name: _facts(one) for name, one in side.sets.items()},
        "weights": _checksum(made / _WEIGHTS),
    }
    write_text(made / _FACTS, json.dumps(facts, indent=1) + "\n")
    replace_folder(place, made)
    return _with_weights(side, place)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _facts(one: SetSide) -> dict[str, Any]:
    return {
        "accuracy": one.accuracy,
        "images": one.images,
        "classes": one.classes,
        "prompts": one.prompts,
        "measurable": one.measurable,
    }


def _with_weights(side: BackboneSide, place: Path) -> BackboneSide:
    return BackboneSide(
        **{
            **{name: getattr(side, name) for name in side.__dataclass_fields__},
            "weights": _OnDisk(place / _WEIGHTS, "image."),
            "text_weights": _OnDisk(place / _WEIGHTS, "text.") if side.text_weights else {},
        }
    )


def restore(out: Path) -> BackboneSide | None:
    """What :func:`store` wrote; None: nothing is there.

    Raises:
        MonitorError: damaged, to the last bit; says which folder to remove.
    """
    place = out / FOLDER
    if not (place / _FACTS).is_file():
        return None
    try:
        facts = json.loads((place / _FACTS).read_text(encoding="utf-8"))
        if _checksum(place / _WEIGHTS) != facts["weights"]:
            raise ValueError(f"{_WEIGHTS}: its checksum does not fit")
        tensors = load(read_kept(place / _NUMBERS))
        return _restored(facts, tensors, place)
    except (OSError, ValueError, KeyError, TypeError, DamagedFileError, SafetensorError) as error:
        raise MonitorError(
            f"{place}: the backbone's side is damaged ({error}); a training cannot go on against it: remove "
            f"{out}, or name another folder, and say backbone= if the model has been trained already"
        ) from None


def _restored(facts: Mapping[str, Any], tensors: Mapping[str, Tensor], place: Path) -> BackboneSide:
    inner = {n.removeprefix("internals."): t for n, t in tensors.items() if n.startswith("internals.")}
    texts = None
    if "texts.states" in tensors:
        states = KeptStates()
        states.add(tensors["texts.states"])
        texts = TextInternals(
            attention={n: tensors[f"texts.attention.{n}"].numpy() for n in facts["text_attention"]},
            heads={n: tensors[f"texts.heads.{n}"].numpy() for n in facts["text_attention"]},
            states=states,
            embedding=tensors["texts.embedding"],
            words=tensors["texts.words"].numpy(),
        )
    geometry = facts["geometry"]
    return BackboneSide(
        model=facts["model"],
        geometry=Geometry(**{**geometry, "grid": tuple(geometry["grid"])}),
        images=facts["images"],
        internals=unpack(inner, facts["reader"]),
        absent=facts.get("absent", {}),  # older releases read no towers that lack any
        weights=_OnDisk(place / _WEIGHTS, "image."),
        scale=facts["scale"],
        texts=tuple(facts["texts"]),
        features=tensors.get("features"),
        text_internals=texts,
        text_weights=_OnDisk(place / _WEIGHTS, "text.") if texts is not None else {},
        sets={
            name: SetSide(
                accuracy=one["accuracy"],
                images=one["images"],
                classes=tuple(one["classes"]),
                prompts=tuple(one["prompts"]),
                measurable=one["measurable"],
                features=tensors[f"set.{name}"],
            )
            for name, one in facts["sets"].items()
        },
    )
