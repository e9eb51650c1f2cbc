"""Read captions of a folder's images from its metadata file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from clipdrift.data.errors import DataError


def captions_of(folder: Path, where: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """Texts by position from ``metadata.jsonl`` or ``metadata.csv``, as in Hugging Face image folders.

    Columns ``file_name``, relative to the folder, and ``text`` (or ``caption``); several rows for one image
    are several captions.
    """
    table = _metadata(folder)
    if table is None:
        return {}
    column = next((name for name in ("text", "caption") if name in table.columns), None)
    if "file_name" not in table.columns or column is None:
        return {}
    place = {str(Path(path).resolve()): position for position, path in enumerate(where)}
    found: dict[int, list[str]] = {}
    for name, text in zip(table["file_name"], table[column], strict=True):
        position = place.get(str((folder / str(name)).resolve()))
        if position is not None and isinstance(text, str) and text.strip():
            found.setdefault(position, []).append(text)
    return {position: tuple(texts) for position, texts in sorted(found.items())}


def _metadata(folder: Path) -> pd.DataFrame | None:
    for name in ("metadata.jsonl", "metadata.csv"):
        file = folder / name
        if file.is_file():
            try:
                if name.endswith(".csv"):
                    return pd.read_csv(file, dtype=str, keep_default_na=False)
                lines = file.read_text(encoding="utf-8").splitlines()
                return pd.DataFrame([json.loads(line) for line in lines if line.strip()])
            except (OSError, ValueError) as error:
                raise DataError(f"{file}: unreadable ({error})") from None
    return None
