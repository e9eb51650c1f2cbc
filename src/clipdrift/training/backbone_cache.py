"""Results about one backbone that runs share: computed once, kept on disk, waited for by other processes.

A file is named by everything that its content depends on (:func:`ingredients`), so a result is never stale,
and a run that finds it gets the very bits that it would have computed. Each file carries its checksum: a
damaged one is reported and computed again.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from clipdrift import accelerator
from clipdrift.errors import one_line
from clipdrift.listing import MEASURE_EXTENSIONS
from clipdrift.model.clip import Clip
from clipdrift.runs.files import storage
from clipdrift.runs.kept import SUFFIX, DamagedFileError, keep, read_kept
from clipdrift.runs.reporter import Reporter

_FOLDER = "shared"
_ABOVE = frozenset(
    (
        "advice",
        "analysis",
        "cli",
        "comparison",
        "decision",
        "exporting",
        "figures",
        "forecasting",
        "integrations",
        "mixing",
        "monitoring",
        "pages",
        "pretrain",
        "repair",
        "replication",
        "reporting",
        "study",
        "sweeping",
        "testing",
    )
)
"""Rooms that training never imports: no kept result depends on them. All else in the package counts."""
_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow", "pyarrow")
_OPTIONAL = ("open_clip_torch", "timm")
_PATIENCE = 0.5
"""Seconds after which a run says that it waits for another one."""


@dataclass(frozen=True)
class BackboneCache:
    """Results about one backbone, kept in a cache folder.

    Attributes:
        folder: where they lie.
        content: what tells this backbone, on this machine, from any other.
    """

    folder: Path
    content: str
    reporter: Reporter

    @classmethod
    def of(cls, cache: Path, clip: Clip, device: torch.device, reporter: Reporter) -> BackboneCache:
        """Make the cache for ``clip`` as it is now, before anything is adapted."""
        return cls(cache / _FOLDER, _digest(ingredients(clip, device)), reporter)

    def tensors(
        self, what: str, given: object, make: Callable[[], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """Return what ``make`` gives, from the file where it was kept if there is one.

        Args:
            what: part of the file's name, for people.
            given: all that the result depends on beside the backbone, as JSON can write it.
            make: computes it; tensors on the CPU.
        """
        path = self.folder / f"{what}-{_digest([self.content, what, given])[:24]}{SUFFIX}"
        if path.is_file() and (found := self._read(path)) is not None:
            return found
        lock = FileLock(path.with_suffix(".lock"))
        with storage(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=_PATIENCE)
            except Timeout:
                self.reporter.stage(f"waiting for another run that computes the {what}")
                lock.acquire()
        try:
            if path.is_file() and (found := self._read(path)) is not None:
                return found
            made = {name: tensor.contiguous() for name, tensor in make().items()}
            keep(path, save(made))
            return made
        finally:
            lock.release()

    def number(self, what: str, given: object, make: Callable[[], float]) -> float:
        """:meth:`tensors` for one number, exactly."""
        found = self.tensors(what, given, lambda: {"value": torch.tensor(make(), dtype=torch.float64)})
        return float(found["value"])

    def _read(self, path: Path) -> Mapping[str, Tensor] | None:
        try:
            return load(read_kept(path))
        except (DamagedFileError, SafetensorError, ValueError) as error:
            self.reporter.warn(f"{one_line(error, 300)}; computed again")
            path.unlink(missing_ok=True)
            return None


def weights_hash(clip: Clip) -> str:
    """SHA-256 of all weights, names and shapes included."""
    found = hashlib.sha256()
    for name, tensor in sorted(clip.model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def ingredients(clip: Clip, device: torch.device) -> dict[str, object]:
    """Collect all that results about a backbone depend on, besides the images and texts that callers name."""
    return {
        "weights": weights_hash(clip),
        "preprocessing": repr(clip.preprocess),
        "code": _code(Path(__file__).parents[1]),
        "libraries": {name: _version(name) for name in (*_LIBRARIES, *_OPTIONAL)},
        "extensions": _extensions(),
        "processor": accelerator.processor_of(device),
    }


@functools.cache
def _code(package: Path) -> str:
    """Hash of all code that training can import, so that a change of it makes everything anew."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package)
        if name.parts[0] not in _ABOVE:
            digest.update(name.as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "absent"


def _extensions() -> dict[str, str]:
    """Map each measure of another package to its distribution and a hash of the package's code."""
    found = {}
    for name, extension in MEASURE_EXTENSIONS.usable.items():
        place = extension.spec.read or extension.spec.compare
        origin = importlib.util.find_spec(place.partition(":")[0].partition(".")[0])
        file = Path(origin.origin) if origin is not None and origin.origin else None
        code = "" if file is None else _source(file.parent if file.name == "__init__.py" else file)
        found[name] = f"{extension.distribution} {place} {code}"
    return found


def _source(place: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
        digest.update(path.read_bytes())
    return digest.hexdigest()
