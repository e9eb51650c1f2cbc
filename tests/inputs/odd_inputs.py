"""Makes the folders and tables that people have: small pictures, written where they are told."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipdrift.config.named import DataSet
from clipdrift.data.sources import Source, open_source


@cache
def picture(seed: int = 0, format: str = "PNG") -> bytes:
    """Encoded bytes of a picture of 8 x 8 pixels."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, format)
    return out.getvalue()


def put(root: Path, *names: str) -> Path:
    """Write a picture under each name, another one each; a name with ``*n`` at its end stands for n files."""
    seed = 0
    for name in names:
        pattern, _, count = name.partition("*")
        for i in range(int(count or 1)):
            path = root / pattern.format(i)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(seed))
            seed += 1
    return root


def write(path: Path, content: str | bytes = "x") -> Path:
    """Write a file, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def archive(path: Path, *endings: str, count: int = 6) -> None:
    """A shard of a WebDataset."""
    contents: dict[str, Callable[[int], bytes]] = {
        ".png": picture,
        ".cls": lambda i: str(i % 2).encode(),
        ".txt": lambda i: b"a caption",
        ".json": lambda i: json.dumps({"caption": f"picture {i}", "width": 8}).encode(),
    }
    with tarfile.open(path, "w") as shard:
        for i in range(count):
            for ending in endings:
                content = contents[ending](i)
                entry = tarfile.TarInfo(f"{i:04}{ending}")
                entry.size = len(content)
                shard.addfile(entry, io.BytesIO(content))


def opened(root: Path, name: str = "mine", **options: Any) -> Source:
    """The data set in a folder, as a configuration would have it opened."""
    return open_source(DataSet(name=name, path=str(root), **options), image_size=56)


def images(source: Source) -> dict[str, list[str]]:
    """Class of each image of both parts, as ``train/0.png -> cat``: file names by class."""
    found: dict[str, list[str]] = {name: [] for name in source.classes}
    for part in (source.train, source.test):
        assert part is not None
        for i, label in enumerate(part.labels.tolist()):
            found[source.classes[label]].append(part.where(i))
    return found


def said(notes: Iterable[str], *words: str) -> bool:
    """Whether one of the notes has all of the words."""
    return any(all(word in note for word in words) for note in notes)
