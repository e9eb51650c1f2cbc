"""What it takes to open a million captions: seconds, and the memory that is taken at most and kept.

A table of a million rows beside 1,000 images, or as many rows that each hold their image, each opened in a
process of its own. ``python benchmarks/captions_read.py [ROWS]``
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

IMAGES = 1000


def pairs(rows: int) -> Iterator[tuple[str, str]]:
    """File names and captions of the usual length, half a hundred letters."""
    for row in range(rows):
        yield f"images/{row % IMAGES:04}.png", f"number {row} of many captions, a dog runs over the snow"


def write_images(root: Path) -> None:
    (root / "images").mkdir()
    for i in range(IMAGES):
        Image.fromarray(np.full((4, 4, 3), i % 256, np.uint8)).save(root / f"images/{i:04}.png")


def write_lines(root: Path, rows: int) -> Path:
    write_images(root)
    with (root / "metadata.jsonl").open("w") as file:
        for name, text in pairs(rows):
            file.write(json.dumps({"file_name": name, "text": text, "width": 640, "height": 480}) + "\n")
    return root


def write_separated(root: Path, rows: int) -> Path:
    write_images(root)
    with (root / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(("filepath", "title"))
        writer.writerows(pairs(rows))
    return root / "pairs.csv"


def write_parquet(root: Path, rows: int) -> Path:
    image = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    image.save(root / "image.jpg")
    content = (root / "image.jpg").read_bytes()
    (root / "image.jpg").unlink()
    text = [text for _, text in pairs(rows)]
    pq.write_table(
        pa.table({"image": [content] * rows, "text": text}), root / "train.parquet", row_group_size=1000
    )
    return root


def measure(place: Path, cache: Path) -> tuple[float, float, float, float]:
    """Seconds to open, MiB taken at most and kept, microseconds for a caption of a batch of 250 at random."""
    import datasets.config

    from clipdrift.config import DataSet
    from clipdrift.data.pairs import open_pairs

    datasets.config.HF_DATASETS_CACHE = cache
    before, at_first = memory("RssAnon"), memory("VmHWM")
    start = time.perf_counter()
    source = open_pairs(DataSet(name="made", path=str(place)))
    seconds = time.perf_counter() - start
    taken, kept = memory("VmHWM") - at_first, memory("RssAnon") - before
    images = np.random.default_rng(0).integers(0, len(source), 5000)
    start = time.perf_counter()
    for batch in images.reshape(-1, 250):
        source.captions.texts(batch, np.zeros(len(batch), np.int64))
    each = (time.perf_counter() - start) / len(images) * 1e6
    return seconds, taken, kept, each


def memory(key: str) -> float:
    """MiB that this process has had at most (``VmHWM``), or has now without pages of files (``RssAnon``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    apart = multiprocessing.get_context("spawn")
    for name, write in (
        ("metadata.jsonl", write_lines),
        ("OpenCLIP's table", write_separated),
        ("parquet of images", write_parquet),
    ):
        with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as cache:
            made = write(Path(place), rows)
            with ProcessPoolExecutor(1, apart) as pool:
                seconds, taken, kept, each = pool.submit(measure, made, Path(cache)).result()
        print(
            f"{name}, {rows} captions: {seconds:.1f} s, {taken:.0f} MiB at most, {kept:.0f} MiB kept, "
            f"{each:.1f} us a caption, 250 at random"
        )


if __name__ == "__main__":
    main()
