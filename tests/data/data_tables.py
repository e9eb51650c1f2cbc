"""Features of parquet tables, and a short way to open a local copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipdrift.config.named import DataSet
from clipdrift.data.sources import Source, open_source

IMAGE = {"_type": "Image"}
TEXT = {"dtype": "string", "_type": "Value"}
NUMBER = {"dtype": "int64", "_type": "Value"}


def names(*classes: str) -> dict[str, Any]:
    return {"names": list(classes), "_type": "ClassLabel"}


def local(path: Path, name: str = "mine", **options: Any) -> Source:
    return open_source(DataSet(name=name, path=str(path), **options), image_size=56)
