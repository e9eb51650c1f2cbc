"""What frozen blocks cost: an epoch after the first, with their output kept and with it computed each time.

The shape of ViT-B/32 with random weights. ``python benchmarks/frozen.py``
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel

from clipdrift.adapt import adapt
from clipdrift.config import OptimConfig, RunConfig, parse_config
from clipdrift.data.deck import Deck
from clipdrift.data.preprocess import Preprocess
from clipdrift.model.clip import Clip
from clipdrift.model.texts import HuggingFaceTexts
from clipdrift.training.loop import train_model

IMAGES, BATCH, EPOCHS, CLASSES = 64, 32, 3, 10
CASES: dict[str, Any] = {
    "first 9 of 12 blocks frozen": {"name": "full_ft", "frozen_blocks": 9, "freeze_embeddings": True},
    "last_blocks(1)": {"name": "last_blocks", "blocks": 1},
    "linear probe": {"name": "linear_probe"},
}


def clip() -> Clip:
    """A CLIP with the image tower of ViT-B/32 and a tiny text tower that nothing here uses."""
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    torch.manual_seed(0)
    shape = {"patch_size": 32, "image_size": 224}
    model = CLIPModel(CLIPConfig(vision_config=shape, text_config=text, attn_implementation="sdpa")).eval()
    return Clip("random ViT-B/32", model, None, Preprocess(), {}, HuggingFaceTexts(model, None))


def epochs(method: Any, keep: bool) -> Iterator[float]:
    """Seconds of the processor for each epoch."""
    config = parse_config({"method": method, "optim": {"keep_frozen": keep}}, RunConfig)
    adapted = adapt(clip(), config.method, CLASSES, 0)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (IMAGES, 224, 224, 3), dtype=np.uint8)
    labels = np.arange(IMAGES, dtype=np.int64) % CLASSES
    deck = Deck(pictures, np.arange(IMAGES), labels, Preprocess(), torch.device("cpu"))
    optim = OptimConfig(epochs=EPOCHS + 1, batch_size=BATCH, keep_frozen=keep, precision="fp32")
    moments = train_model(adapted, deck, optim, seed=0)
    while True:
        start = time.process_time()
        if next(moments, None) is None:
            return
        yield time.process_time() - start


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {IMAGES} images")
    for name, method in CASES.items():
        both = list(zip(epochs(method, False), epochs(method, True), strict=True))  # in turn, epoch by epoch
        plain, kept = (statistics.median(side[1:]) for side in zip(*both, strict=True))
        print(
            f"{name}: an epoch after the first is {plain / kept:.1f}x as fast with the frozen part kept; the "
            f"first takes {both[0][1] / both[0][0]:.1f}x the time"
        )


if __name__ == "__main__":
    main()
