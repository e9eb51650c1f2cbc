"""Shared by the tests of the data room: real images where they are, small ones made on the spot."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import clipdrift

Encode = Callable[..., bytes]


@pytest.fixture(autouse=True)
def _own_datasets_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are never written to the user's cache, and no test reaches for the network."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def encode() -> Encode:
    """Encoded bytes of a random picture: ``encode(seed, size=(w, h), format="PNG", mode="RGB")``."""

    def make(
        seed: int = 0, size: tuple[int, int] = (12, 10), format: str = "PNG", mode: str = "RGB"
    ) -> bytes:
        rng = np.random.default_rng(seed)
        picture = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)
        buffer = io.BytesIO()
        picture.save(buffer, format)
        return buffer.getvalue()

    return make


@pytest.fixture
def image_folder(tmp_path: Path, encode: Encode) -> Callable[[dict[str, int]], Path]:
    """Makes a folder: ``image_folder({"train/cat": 3, "test/cat": 1, ...})``."""

    def make(counts: dict[str, int]) -> Path:
        root = tmp_path / "images"
        for place, (name, count) in enumerate(counts.items()):
            (root / name).mkdir(parents=True)
            for i in range(count):
                (root / name / f"im{i}.png").write_bytes(encode(1000 * place + i))
        return root

    return make


@pytest.fixture
def write_parquet() -> Callable[..., None]:
    """Writes a table as ``datasets`` does, its features in the file's metadata; ``None``: without them."""

    def write(path: Path, columns: dict[str, Sequence[Any]], features: dict[str, Any] | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table(
            {
                name: pa.array(values, picture if any(isinstance(value, dict) for value in values) else None)
                for name, values in columns.items()
            }
        )
        if features is not None:
            info = json.dumps({"info": {"features": features}})
            table = table.replace_schema_metadata({"huggingface": info})
        pq.write_table(table, path)

    return write


@pytest.fixture
def run_python() -> Callable[..., subprocess.Popen[str]]:
    """Starts a fresh interpreter that finds the package under test."""

    def start(code: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        source = str(Path(clipdrift.__file__).parents[1])
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def make_table(write_parquet: Callable[..., None], encode: Callable[..., bytes]) -> Callable[..., None]:
    """``make_table(path, labels, seed)``: an image column ``picture`` and a label column ``kind``."""

    def make(path: Path, labels: list[Any], label_feature: Any, seed: int = 0) -> None:
        pictures = [{"bytes": encode(seed + i), "path": f"{i}.png"} for i in range(len(labels))]
        features = None if label_feature is None else {"picture": {"_type": "Image"}, "kind": label_feature}
        write_parquet(path, {"picture": pictures, "kind": labels}, features)

    return make
