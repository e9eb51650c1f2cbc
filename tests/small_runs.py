"""Small runs for tests: three coloured classes as a folder and as parquet, and short configurations."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from clipdrift.config import RunConfig, parse_config
from clipdrift.runs.record import Record
from clipdrift.runs.store import RunFolder
from clipdrift.training.runner import run

CLASSES = ("blue", "green", "red")
"""In label order; a picture's colour leans towards its class."""
COUNTS = {"train": 24, "test": 9}
"""Pictures of each class."""


def picture(label: int, seed: int, size: int = 16) -> Image.Image:
    """Noise of the model's own image size, its class channel brighter: learnable, not trivial."""
    grey = np.random.default_rng([label, seed]).integers(0, 200, (size, size, 3))
    grey[..., 2 - label] += 40
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def _pictures(split: str) -> Iterator[tuple[int, str, bytes]]:
    """Label, file name and PNG bytes, class by class."""
    for label in range(len(CLASSES)):
        for i in range(COUNTS[split]):
            buffer = io.BytesIO()
            picture(label, i + 1000 * (split == "test")).save(buffer, "PNG")
            yield label, f"im{i:02}.png", buffer.getvalue()


def write_folder(root: Path) -> Path:
    """``root/{train,test}/<class>/im00.png``."""
    for split in COUNTS:
        for label, name, content in _pictures(split):
            place = root / split / CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
    return root


def write_parquet(root: Path) -> Path:
    """The same pictures in the hub's layout, ``root/data/train-00000-of-00001.parquet``."""
    (root / "data").mkdir(parents=True)
    features = {"image": {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    for split in COUNTS:
        rows = list(_pictures(split))
        table = pa.table(
            {
                "image": pa.array(
                    [{"bytes": content, "path": name} for _, name, content in rows],
                    pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
                ),
                "label": pa.array([label for label, _, _ in rows]),
            }
        )
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, root / "data" / f"{split}-00000-of-00001.parquet")
    return root


def settings(model: Path, target: Path | str, **changes: Any) -> dict[str, Any]:
    """Plain data of a run of two epochs on a few images; ``changes`` is merged in, table by table."""
    found: dict[str, Any] = {
        "model": {"name": model.name, "path": str(model)},
        "data": {
            "target": str(target),
            "transfer": [{"name": "objects-100", "per_class": 1}],
            "train_per_class": 12,
            "validation_per_class": 6,
            "probe_per_class": 4,
        },
        "optim": {"learning_rate": 1e-3, "epochs": 2, "batch_size": 8},
    }
    return merged(found, changes)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Plain data with changes, table by table."""
    both = {key: {**base[key], **value} for key, value in changes.items() if isinstance(base.get(key), dict)}
    return base | changes | both


def config_for(model: Path, target: Path | str, **changes: Any) -> RunConfig:
    """:func:`settings` as a RunConfig."""
    return parse_config(settings(model, target, **changes), RunConfig)


def toml(data: dict[str, Any]) -> str:
    """Plain data as TOML; enough for run files."""

    def value(x: Any) -> str:
        if isinstance(x, dict):
            return "{" + ", ".join(f"{k} = {value(v)}" for k, v in x.items()) + "}"
        if isinstance(x, list):
            return "[" + ", ".join(value(v) for v in x) + "]"
        return json.dumps(x)

    return "".join(f"{key} = {value(inner)}\n" for key, inner in data.items())


def numbers(data: Any, place: str = "") -> dict[str, float]:
    """Every number in nested plain data, by its place; truth values and texts are left out."""
    if isinstance(data, bool) or data is None or isinstance(data, str):
        return {}
    if isinstance(data, (int, float)):
        return {place: float(data)}
    pairs = data.items() if isinstance(data, dict) else enumerate(data)
    return {k: v for key, inner in pairs for k, v in numbers(inner, f"{place}.{key}").items()}


@dataclass(frozen=True)
class Lab:
    """Makes runs on the tiny CLIP, each in an empty folder unless one is given."""

    model: Path
    pictures: Path
    cache: Path
    tmp: Callable[[], Path]

    def config(self, method: Any = "full_ft", **changes: Any) -> RunConfig:
        return config_for(self.model, changes.pop("target", self.pictures), method=method, **changes)

    def run(self, config: RunConfig, out: Path | None = None, **options: Any) -> tuple[Record, RunFolder]:
        return run(config, out or self.tmp(), cache=self.cache, device="cpu", **options)
