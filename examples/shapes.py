"""Pictures with captions for the examples beside this file: generated, so that nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

COLOURS = {"red": (1.5, -1.0, -1.0), "green": (-1.0, 1.5, -1.0), "blue": (-1.0, -1.0, 1.5)}
SIZES = {"small": 12, "large": 36}


def pairs(tokenizer: Any, count: int = 16, size: int = 56) -> list[dict[str, Tensor]]:
    """A coloured square on grey noise, and the words for it, as a CLIPModel takes them."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for number in range(count):
        colour, extent = list(COLOURS)[number % 3], list(SIZES)[number % 2]
        image = torch.randn(3, size, size, generator=draw) * 0.3
        top, left = (int(torch.randint(size - SIZES[extent], (), generator=draw)) for _ in range(2))
        image[:, top : top + SIZES[extent], left : left + SIZES[extent]] = torch.tensor(COLOURS[colour])[
            :, None, None
        ]
        words = tokenizer(
            f"one {extent} {colour} square", padding="max_length", max_length=16, return_tensors="pt"
        )
        found.append(
            {"pixel_values": image} | {key: words[key][0] for key in ("input_ids", "attention_mask")}
        )
    return found


def together(rows: list[dict[str, Tensor]]) -> dict[str, Any]:
    """A batch; the model computes CLIP's own loss, contrastive over the batch."""
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]} | {"return_loss": True}
