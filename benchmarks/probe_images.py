"""How many unlabelled images a monitor needs: the spread of each measure over draws of n images.

A small CLIP fine-tuned by a few steps is read on the images of a folder once; then n of them are drawn
again and again. ``python benchmarks/probe_images.py FOLDER``, of photographs, such as land-use-7/train.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np
import torch

from clipdrift import formulas
from clipdrift.comparison.measuring import measure
from clipdrift.model.clip import MINI_PHOTO, load

COUNTS, DRAWS, POOL = (25, 50, 100, 200, 400), 100, 1000


def tuned(base: Any) -> Any:
    """Moved by a few steps of AdamW on noise, as far as a training of moderate rate moves it."""
    model = copy.deepcopy(base.model).train()
    optimizer = torch.optim.AdamW(model.vision_model.parameters(), lr=3e-4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        images = torch.randn(32, 3, 56, 56, generator=generator)
        embedded = model.get_image_features(pixel_values=images).pooler_output
        (torch.nn.functional.normalize(embedded, dim=-1).mean(0).square().sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def main(folder: str) -> None:
    base = load(MINI_PHOTO)
    model = tuned(base)
    sides = [
        measure(one, folder, limit=POOL, flow=False, preprocess=base.preprocess).internals
        for one in (base.model, model)
    ]
    before, after = sides
    rng = np.random.default_rng(0)
    print(f"| images | {' | '.join(NAMES)} |\n|--:|" + "--:|" * len(NAMES))
    whole = _values(before, after, np.arange(before.images))
    print(f"| {before.images} | {' | '.join(f'{whole[name]:.4f}' for name in NAMES)} |")
    for count in COUNTS:
        drawn = [
            _values(before, after, rng.choice(before.images, count, replace=False)) for _ in range(DRAWS)
        ]
        cells = []
        for name in NAMES:
            values = np.array([one[name] for one in drawn])
            cells.append(f"{values.mean():.4f} ± {values.std(ddof=1):.4f}")
        print(f"| {count} | {' | '.join(cells)} |")


NAMES = ("CKA", "embedding drift", "entropy drift, %", "ERF drift, %", "head diversity drift, %")


def _values(before: Any, after: Any, chosen: np.ndarray) -> dict[str, float]:
    rows = torch.from_numpy(np.sort(chosen))
    blocks = [float(formulas.cka(x[rows], y[rows])) for x, y in zip(before.states, after.states, strict=True)]
    found = {
        "CKA": float(np.mean(blocks)),
        "embedding drift": float(formulas.embedding_drift(before.embedding[rows], after.embedding[rows])),
    }
    for name, key in zip(NAMES[2:], ("entropy", "erf95", "head_diversity"), strict=True):
        old, new = before.attention[key][chosen].mean(), after.attention[key][chosen].mean()
        found[name] = 100 * float(new - old) / float(old)
    return found


if __name__ == "__main__":
    main(sys.argv[1])
