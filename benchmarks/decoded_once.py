"""What decoding once is worth: an epoch's pixels from JPEG files each time, and from the pixel cache."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipdrift.config import DataSet
from clipdrift.data.deck import Deck
from clipdrift.data.pixels import load_pixels
from clipdrift.data.preprocess import Preprocess
from clipdrift.data.sources import open_source
from clipdrift.data.worlds import WORLDS, generate

IMAGES, SIDE, REPEATS = 200, 256, 3


def write_photos(root: Path, count: int = IMAGES) -> None:
    """JPEG files of a generated world, enlarged to the size of small photographs."""
    pictures, labels = generate(WORLDS["terrain-10"], "train", per_class=count // 10)
    for split in ("train", "test"):
        for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            large = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            large.save(folder / f"{index}.jpg", quality=90)


def main() -> None:
    preprocess = Preprocess()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write_photos(root / "photos")
        images = open_source(DataSet(name="photos", path=str(root / "photos")), image_size=224).train
        assert images is not None
        decoded, cached = [], []
        for repeat in range(REPEATS):
            start = time.perf_counter()
            pixels = load_pixels(images, preprocess, root / f"cache{repeat}")
            decoded.append(time.perf_counter() - start)
            start = time.perf_counter()
            deck = Deck.of(
                load_pixels(images, preprocess, root / f"cache{repeat}"), preprocess, torch.device("cpu")
            )
            for _batch, _ in deck.batches(64):
                pass
            cached.append(time.perf_counter() - start)
        ratio = np.median(decoded) / np.median(cached)
        print(f"{len(pixels)} JPEG, side {SIDE}: decoding takes {ratio:.1f}x a pass over the cache")


if __name__ == "__main__":
    main()
