"""Watch a training with accelerate and gradient accumulation: optimiser steps count, in every process.

Run: accelerate launch examples/watch_accelerate.py, or python examples/watch_accelerate.py
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from shapes import pairs, together
from torch.utils.data import DataLoader

import clipdrift

accelerator = Accelerator(gradient_accumulation_steps=2)
clip = clipdrift.load("clipdrift/mini")
monitor = clipdrift.DriftMonitor(  # before prepare: the model as it is now is the backbone
    clip,
    "terrain-10",
    transfer={"name": "objects-100", "per_class": 1},
    every=2,
    limit=40,
    rules=clipdrift.Rules(stop_when="retention < 50"),
    out="drift/accelerate",
)
loader = DataLoader(pairs(clip.tokenizer), batch_size=4, shuffle=True, collate_fn=together)
optimizer = torch.optim.AdamW(clip.model.parameters(), lr=5e-4)
model, optimizer, loader = accelerator.prepare(clip.model.train(), optimizer, loader)

for _ in range(2):
    for batch in loader:
        with accelerator.accumulate(model):
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients and not monitor.should_stop and (row := monitor.step()):
            accelerator.print(f"step {monitor.steps}: {row['retention/objects-100']:.0f} % kept")
    if monitor.should_stop:
        break
