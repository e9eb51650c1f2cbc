"""What the cards of the shipped models state: zero-shot accuracy, by transformers alone.

python tools/shipped_scores.py mini
python tools/shipped_scores.py mini-photo CIFAR100     # a folder with the data set's parquet files
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from rich.progress import track
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from clipdrift.data.catalog import CATALOG
from clipdrift.data.worlds import WORLDS, generate, objects
from clipdrift.model.clip import MINI, MINI_PHOTO, shipped_folder

BATCH = 250


@torch.no_grad()
def guesses(folder: Path, images: Sequence[Image.Image], names: Sequence[str], template: str) -> np.ndarray:
    """The class that each image is taken for."""
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer, processor = (
        AutoTokenizer.from_pretrained(folder),
        CLIPImageProcessorPil.from_pretrained(folder),
    )
    prompts = [template.format(name) for name in names]
    text = model.get_text_features(**tokenizer(prompts, padding=True, return_tensors="pt")).pooler_output
    text = torch.nn.functional.normalize(text, dim=-1)
    found = []
    for start in track(range(0, len(images), BATCH), "images"):
        pixels = processor(list(images[start : start + BATCH]), return_tensors="pt")["pixel_values"]
        found.append((model.get_image_features(pixel_values=pixels).pooler_output @ text.T).argmax(-1))
    print(f"parameters               {sum(p.numel() for p in model.parameters()):,}")
    return torch.cat(found).numpy()


def mini() -> Iterator[str]:
    """Coloured shapes: all test images, and those of pairs that pretraining never drew."""
    world = WORLDS["objects-100"]
    pixels, labels = generate(world, "test")
    images = [Image.fromarray(one) for one in pixels]
    right = guesses(shipped_folder(MINI), images, world.classes, world.templates[0]) == labels
    unseen = np.isin(labels, objects.UNSEEN)
    yield f"{len(labels)} test images of objects-100, prompt {world.templates[0]!r}"
    yield f"all pairs                {100 * right.mean():.1f} %"
    yield f"pairs seen in training   {100 * right[~unseen].mean():.1f} %"
    yield f"pairs never seen         {100 * right[unseen].mean():.1f} %"


def mini_photo(folder: Path) -> Iterator[str]:
    """All 10,000 test images of CIFAR-100."""
    table = pq.read_table(sorted(folder.rglob("test*.parquet"))[0]).to_pydict()
    images = [Image.open(io.BytesIO(one["bytes"])).convert("RGB") for one in table["img"]]
    row = CATALOG["cifar100"]
    right = guesses(shipped_folder(MINI_PHOTO), images, row.classes, row.prompts[0]) == table["fine_label"]
    yield f"{len(images)} test images of cifar100, prompt {row.prompts[0]!r}"
    yield f"zero-shot accuracy       {100 * right.mean():.2f} %"


def main() -> None:
    match sys.argv[1:]:
        case ["mini"]:
            lines = mini()
        case ["mini-photo", folder]:
            lines = mini_photo(Path(folder))
        case _:
            sys.exit(__doc__)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
