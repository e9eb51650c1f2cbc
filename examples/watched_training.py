"""A training loop of one's own with a DriftMonitor in it; makes the log that docs/monitor.md shows.

python examples/watched_training.py demo && clipdrift watch demo --once
"""

from __future__ import annotations

import sys

import torch

import clipdrift
from clipdrift.config import DataSet
from clipdrift.data.sources import open_source
from clipdrift.runs.layout import cache_folder
from clipdrift.runs.reporter import Silent
from clipdrift.training.decks import DeckFactory

STEPS, BATCH, RATE = 120, 32, 2e-4


def main(out: str) -> None:
    clip = clipdrift.load("clipdrift/mini")
    model = clip.model
    spec = DataSet(name="terrain-10")
    source = open_source(spec, image_size=56, parts=("test",))
    device = torch.device("cpu")
    deck, _ = DeckFactory(clip.preprocess, cache_folder(None), device, Silent(), 0, False).part(spec, source)
    images = torch.cat([batch for batch, _ in deck.batches(256)])
    labels = torch.from_numpy(deck.labels)
    words = clip.tokenizer(
        [source.prompts[0].format(name) for name in source.classes], padding=True, return_tensors="pt"
    )

    monitor = clipdrift.DriftMonitor(
        clip,
        "terrain-10",
        transfer="objects-100",
        every=5,
        budget=None,
        out=out,
        limit=100,
        rules=clipdrift.Rules(
            warn_when=["embedding_drift >= 0.28", "retention < 80"],
            keep_best_when=["retention >= 90"],
            stop_when="retention < 20",
        ),
        config={"learning_rate": RATE, "method": "both towers", "target": "terrain-10"},
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        some = torch.randint(len(images), (BATCH,), generator=generator)
        logits = model(pixel_values=images[some], **words).logits_per_image
        loss = torch.nn.functional.cross_entropy(logits, labels[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        monitor.step()
        if monitor.should_stop:
            break
    monitor.measure()
    monitor.report()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "drift")
