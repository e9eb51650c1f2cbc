"""Make images with captions from folders of labelled images: the target of the study `captions`.

    python tools/caption_set.py DATA OUT

DATA holds land-use-7 and pets-37 (docs/evidence.md says where they are from). OUT gets train/ and test/, each
with its images and a metadata.jsonl of three captions an image: a template, the class, how bright the image
is and which colour it has most of, as far as its pixels say so. The same folders give the same files.
"""

from __future__ import annotations

import json
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

PER_CLASS = {"train": {"land-use-7": 100, "pets-37": 5}, "test": {"land-use-7": 30, "pets-37": 3}}
"""Images of each class, the first by name."""
CATS = {
    "abyssinian", "bengal", "birman", "bombay", "british shorthair", "egyptian mau", "maine coon", "persian",
    "ragdoll", "russian blue", "siamese", "sphynx",
}  # fmt: skip
AERIAL = (
    "an aerial photo of {}{}",
    "a satellite image showing {}{}",
    "{} seen from above{}",
    "{} from the air{}",
)
PETS = ("a photo of a {}{}", "a picture of one {}{}", "this is a {}{}", "a close look at a {}{}")
CAPTIONS = 3


def attributes(image: Image.Image) -> list[str]:
    """What is plainly so of an image's pixels."""
    pixels = np.asarray(image.convert("HSV").resize((32, 32)), np.float64)
    hue, colourful, bright = pixels[..., 0] * 360 / 255, pixels[..., 1] > 50, pixels[..., 2].mean()
    found = ["a dark one"] if bright < 85 else ["a bright one"] if bright > 150 else []
    if colourful.mean() < 0.3:
        return [*found, "mostly grey"]
    bounds = {"brown": (10, 50), "yellow": (50, 70), "green": (70, 170), "blue": (170, 260)}
    shares = {name: (colourful & (low <= hue) & (hue < high)).mean() for name, (low, high) in bounds.items()}
    name, share = max(shares.items(), key=lambda item: item[1])
    return [*found, f"mostly {name}"] if share > 0.4 else found


def captions(kind: str, label: str, image: Image.Image, name: str) -> Iterator[str]:
    """Three captions of an image, all true of it, drawn by its name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    said = attributes(image)
    templates = AERIAL if kind == "land-use-7" else PETS
    what = label if kind == "land-use-7" else f"{label}, a {'cat' if label in CATS else 'dog'}"
    for template in rng.permutation(templates)[:CAPTIONS]:
        some = [text for text in said if rng.random() < 0.7]
        yield str(template).format(what, "".join(f", {text}" for text in some))


def main(data: Path, out: Path) -> None:
    for split, counts in PER_CLASS.items():
        place = out / split
        place.mkdir(parents=True, exist_ok=True)
        rows = []
        for kind, most in counts.items():
            for folder in sorted(path for path in (data / kind / split).iterdir() if path.is_dir()):
                for file in sorted(folder.iterdir())[:most]:
                    name = f"{kind}_{folder.name}_{file.name}".replace(" ", "_")
                    shutil.copyfile(file, place / name)
                    with Image.open(file) as image:
                        texts = list(captions(kind, folder.name, image, name))
                    rows += [{"file_name": name, "text": text} for text in texts]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (place / "metadata.jsonl").write_text(text, encoding="utf-8")
        different = len({row["text"] for row in rows})
        print(f"{place}: {len(rows) // CAPTIONS} images, {len(rows)} captions, {different} different ones")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
