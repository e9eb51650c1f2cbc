"""What a check needs of BASE, kept in one file, so that later checks need no backbone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from clipdrift.comparison import ProbeImages, Shape, Side
from clipdrift.comparison.abilities import TestSet, ZeroShot
from clipdrift.comparison.images import ProbeSet
from clipdrift.config import DataSet
from clipdrift.config.base import Frozen
from clipdrift.data.deck import Deck, Prepared
from clipdrift.data.preprocess import Preprocess
from clipdrift.decision.result import CheckError
from clipdrift.measures import Internals
from clipdrift.measures.packing import pack_states, unpack_states
from clipdrift.runs.files import write_bytes

_KEY, _SUM = "clipdrift_baseline", "sha256"
"""Keys of the file's metadata: the facts as JSON, and their checksum."""


class BaselineSet(Frozen):
    """A transfer set that BASE was tested on."""

    spec: DataSet
    fingerprint: str = Field(description="Content hash of its images and labels, in order.")
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    scale: float = Field(description="BASE's temperature.")


class BaselineFacts(Frozen):
    """All of a baseline but its tensors."""

    schema_version: Literal[1] = 1
    base: Side
    shape: Shape
    images: ProbeImages
    fingerprint: str = Field(description="Content hash of the images that were read, in order.")
    preprocess: dict[str, Any] | None
    limit: int
    seed: int
    transfer: dict[str, BaselineSet]
    tensors: dict[str, str] = Field(description="Checksum of every tensor.")


@dataclass(frozen=True, eq=False)
class Baseline:
    """BASE on its images and transfer sets.

    Attributes:
        internals: as they were read.
        zero_shot: of each transfer set.
    """

    facts: BaselineFacts
    internals: Internals
    zero_shot: dict[str, ZeroShot]

    @property
    def preprocess(self) -> Preprocess | None:
        given = self.facts.preprocess
        if given is None:
            return None
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}
        return Preprocess(**values)


def write_baseline(
    path: str | Path,
    *,
    base: Side,
    shape: Shape,
    probe: ProbeSet,
    preprocess: Preprocess | None,
    internals: Internals,
    tested: Mapping[str, tuple[DataSet, TestSet, ZeroShot]],
    limit: int,
    seed: int,
) -> Path:
    """Write a baseline, whole or not at all.

    Raises:
        StorageError: no room, or no right to write there.
    """
    tensors = {
        **pack_states(internals.states),
        "embedding": internals.embedding.contiguous(),
        **{f"attention.{name}": torch.from_numpy(v) for name, v in internals.attention.items()},
        **{f"whole.{name}": torch.from_numpy(np.asarray(v)) for name, v in internals.whole.items()},
    }
    for name, (_, _, seen) in tested.items():
        tensors |= {f"{name}.images": seen.images, f"{name}.texts": seen.texts}
        if seen.ensemble is not None:
            tensors[f"{name}.ensemble"] = seen.ensemble
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    facts = BaselineFacts(
        base=base,
        shape=shape,
        images=probe.facts,
        fingerprint=print_of(probe),
        preprocess=None if preprocess is None else asdict(preprocess),
        limit=limit,
        seed=seed,
        transfer={
            name: BaselineSet(
                spec=spec,
                fingerprint=test.fingerprint or _hash_of_deck(test.deck),
                classes=test.classes,
                prompts=test.prompts,
                scale=seen.scale,
            )
            for name, (spec, test, seen) in tested.items()
        },
        tensors={name: _sum(tensor) for name, tensor in tensors.items()},
    )
    text = facts.model_dump_json()
    metadata = {_KEY: text, _SUM: hashlib.sha256(text.encode()).hexdigest()}
    target = Path(path)
    write_bytes(target, save(tensors, metadata))
    return target


def read_baseline(path: str | Path) -> Baseline:
    """Read a baseline and verify every checksum.

    Raises:
        CheckError: missing, no baseline, damaged, or of another schema.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise CheckError(f"{path}: no such baseline; `clipdrift check BASE --save-baseline {path}` makes one")
    again = "make it again with --save-baseline"
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckError(f"{path}: cannot be read as a baseline ({error}); {again}") from None
    text = metadata.get(_KEY)
    if text is None:
        raise CheckError(f"{path}: a safetensors file, but no baseline of clipdrift")
    if hashlib.sha256(text.encode()).hexdigest() != metadata.get(_SUM):
        raise CheckError(f"{path}: damaged (the checksum of its description does not fit); {again}")
    if json.loads(text).get("schema_version") != 1:
        raise CheckError(f"{path}: a baseline of another version of clipdrift; {again}")
    try:
        facts = BaselineFacts.model_validate_json(text)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise CheckError(f"{path}: a baseline that does not fit at {where}; {again}") from None
    odd = sorted(facts.tensors.keys() ^ tensors.keys())
    odd += [name for name, tensor in tensors.items() if _sum(tensor) != facts.tensors.get(name)]
    if odd:
        raise CheckError(f"{path}: damaged (checksum of {odd[0]} does not fit); {again}")
    return Baseline(facts, _internals(facts, tensors), _zero_shot(facts, tensors))


def _internals(facts: BaselineFacts, tensors: Mapping[str, Tensor]) -> Internals:
    starting = {
        prefix: {
            name.removeprefix(prefix): tensor.numpy()
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        for prefix in ("attention.", "whole.")
    }
    return Internals(
        attention=starting["attention."],
        heads={},
        whole=starting["whole."],
        states=unpack_states(tensors),
        embedding=tensors["embedding"],
        reader=facts.shape.reader,
    )


def _zero_shot(facts: BaselineFacts, tensors: Mapping[str, Tensor]) -> dict[str, ZeroShot]:
    return {
        name: ZeroShot(
            tensors[f"{name}.images"],
            tensors[f"{name}.texts"],
            tensors.get(f"{name}.ensemble"),
            kept.scale,
        )
        for name, kept in facts.transfer.items()
    }


def same_images(baseline: Baseline, probe: ProbeSet) -> None:
    """Refuse other images than those of the baseline.

    Raises:
        CheckError: with both numbers and sources.
    """
    facts = baseline.facts
    if print_of(probe) != facts.fingerprint:
        raise CheckError(
            f"{probe.facts.source}: not the images of the baseline ({facts.images.count} of "
            f"{facts.images.source}); give those, or make the baseline again"
        )


def same_set(baseline: Baseline, test: TestSet) -> None:
    """Refuse a transfer set that is not the one BASE was tested on.

    Raises:
        CheckError: says what differs.
    """
    kept = baseline.facts.transfer[test.name]
    pairs = {
        "images": (kept.fingerprint, test.fingerprint or _hash_of_deck(test.deck)),
        "classes": (kept.classes, test.classes),
        "prompts": (kept.prompts, test.prompts),
    }
    odd = [what for what, (old, new) in pairs.items() if old != new]
    if odd:
        raise CheckError(
            f"{test.name}: its {' and '.join(odd)} are not those of the baseline; give the same set, or make "
            "the baseline again"
        )


def print_of(probe: ProbeSet) -> str:
    """Content hash of a probe set's images, in order."""
    if probe.facts.fingerprint is not None:
        return probe.facts.fingerprint
    if isinstance(probe.images, Prepared):
        return _sum(probe.images.images)
    assert isinstance(probe.images, Deck)
    return _hash_of_deck(probe.images)


def _hash_of_deck(deck: Deck) -> str:
    return hashlib.sha256(np.ascontiguousarray(deck.data[deck.rows]).tobytes()).hexdigest()


def _sum(tensor: Tensor) -> str:
    kept = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(kept.shape)} {kept.dtype}".encode())
    digest.update(kept.numpy().tobytes())
    return digest.hexdigest()
