"""Make the second target of the study `heads`: CIFAR-100's classes that a small CLIP knows, in grey.

    python tools/grey_set.py DATA OUT

DATA holds cifar100 (docs/evidence.md says where it is from). OUT gets grey-50/{train,test}/CLASS/*.png, every
second class without its colours, and colour-50/test/CLASS/*.png, the other classes as they are. The same
files give the same images.
"""

from __future__ import annotations

import io
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from clipdrift.data.catalog import CATALOG

PER_CLASS = {("grey-50", "train"): 23, ("grey-50", "test"): 20, ("colour-50", "test"): 30}
"""Images of each class, the first of the file."""


def images(file: Path, most: int, even: bool) -> list[tuple[str, int, bytes]]:
    """Class, number within it and image of the first ``most`` of each class of even or odd label."""
    classes = CATALOG["cifar100"].classes
    assert classes is not None
    table = pq.read_table(file, columns=["img", "fine_label"]).to_pydict()
    seen: Counter[int] = Counter()
    found = []
    for image, label in zip(table["img"], table["fine_label"], strict=True):
        if (label % 2 == 0) is even and seen[label] < most:
            found.append((classes[label], seen[label], image["bytes"]))
            seen[label] += 1
    return found


def main(data: Path, out: Path) -> None:
    for (kind, split), most in PER_CLASS.items():
        grey = kind == "grey-50"
        (file,) = (data / "cifar100").glob(f"**/{split}-*.parquet")
        chosen = images(file, most, even=grey)
        for name, number, content in chosen:
            place = out / kind / split / name / f"{number:03}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(io.BytesIO(content)) as image:
                (image.convert("L") if grey else image).convert("RGB").save(place)
        print(f"{out / kind / split}: {len(chosen)} images of {len({name for name, _, _ in chosen})} classes")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
