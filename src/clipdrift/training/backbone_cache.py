"""What runs on one backbone share, computed by whoever comes first and waited for by the others.

A file is named by everything that its content depends on: the model's weights, the images, the texts, the
code that computes it, torch and the kind of processor. So nothing in it is ever stale, and a run that finds
it gets the very bits that it would have computed.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from clipdrift.model.clip import Clip
from clipdrift.runs.files import storage, write_bytes
from clipdrift.runs.reporter import Reporter

_FOLDER = "shared"
_CODE = ("formulas", "measures", "model", "training/backbone_cache.py")
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
        """For ``clip`` as it is now, before anything is adapted."""
        parts = [_code(), torch.__version__, _processor(device), repr(clip.preprocess), weights_hash(clip)]
        return cls(cache / _FOLDER, _digest(parts), reporter)

    def tensors(
        self, what: str, given: object, make: Callable[[], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """What ``make`` gives, from the file that it was kept in where there is one.

        Args:
            what: part of the file's name, for people.
            given: all that the result depends on beside the backbone, as JSON can write it.
            make: computes it; tensors on the CPU.
        """
        path = self.folder / f"{what}-{_digest([self.content, what, given])[:24]}.safetensors"
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
            write_bytes(path, save(made))
            return made
        finally:
            lock.release()

    def number(self, what: str, given: object, make: Callable[[], float]) -> float:
        """:meth:`tensors` for one number, exactly."""
        found = self.tensors(what, given, lambda: {"value": torch.tensor(make(), dtype=torch.float64)})
        return float(found["value"])

    def _read(self, path: Path) -> Mapping[str, Tensor] | None:
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            said = " ".join(str(error).split())[:100]
            self.reporter.warn(f"{path}: damaged ({said}); computed again")
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


@functools.cache
def _code() -> str:
    """Hash of the code that computes what is kept, so that a change of it makes everything anew."""
    root, found = Path(__file__).parents[1], hashlib.sha256()
    for name in _CODE:
        place = root / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            found.update(path.read_bytes())
    return found.hexdigest()


def _processor(device: torch.device) -> str:
    """On what it is computed; sums are taken in another order by other processors and numbers of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"
