"""Watch a training loop of one's own, both towers, in four lines. Run: python examples/watch_loop.py"""

from __future__ import annotations

import torch
from shapes import pairs, together
from torch.utils.data import DataLoader

import clipdrift

torch.manual_seed(0)
clip = clipdrift.load("clipdrift/mini")
model = clip.model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)

monitor = clipdrift.DriftMonitor(
    clip,
    "terrain-10",
    transfer={"name": "objects-100", "per_class": 1},
    every=4,
    limit=40,
    rules=clipdrift.Rules(stop_when="retention < 30", keep_best_when="retention >= 90"),
    out="drift/loop",
)
for _ in range(3):
    for batch in DataLoader(pairs(clip.tokenizer), batch_size=4, shuffle=True, collate_fn=together):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if row := monitor.step():
            kept, images, texts = (
                row[key] for key in ("retention/objects-100", "drift/cka", "drift/text_cka")
            )
            print(
                f"step {monitor.steps}: {kept:.0f} % kept, CKA of images {images:.3f}, of texts {texts:.3f}"
            )
    if monitor.should_stop:
        break
print(f"last good state: {monitor.good}")
