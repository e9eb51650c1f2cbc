"""What a monitor costs: time of its measurements beside a training's, ViT-B/32 with random weights.

A plain loop of image-caption pairs, both towers trained, with and without a monitor on 200 unlabelled images.
``python benchmarks/monitor.py``
"""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel

from clipdrift.monitoring.monitor import DriftMonitor

BATCH, STEPS, EVERY, IMAGES, MEASURED = 32, 2, 200, 200, 3


def main() -> None:
    torch.manual_seed(0)
    model: Any = CLIPModel(CLIPConfig(vision_config={"patch_size": 32}, attn_implementation="sdpa")).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    pixels, ids = torch.randn(BATCH, 3, 224, 224), torch.randint(1, 49406, (BATCH, 20))
    ids[:, -1] = 49407
    images = torch.randn(IMAGES, 3, 224, 224)
    steps, measured = [], []
    with tempfile.TemporaryDirectory() as out:
        monitor = DriftMonitor(model, images, every=EVERY, out=out, budget=None, on_error="raise")
        for _ in range(MEASURED):  # in turn, so that both see the same machine
            for _ in range(STEPS):
                start = time.process_time()
                model(input_ids=ids, pixel_values=pixels, return_loss=True).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                steps.append(time.process_time() - start)
            start = time.process_time()
            monitor.measure()
            measured.append(time.process_time() - start)
    step, look = statistics.median(steps), statistics.median(measured)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batches of {BATCH}")
    print(
        f"a measurement on {IMAGES} images takes the time of {look / step:.1f} training steps: every {EVERY} "
        f"steps, {100 * look / (EVERY * step + look):.1f} % of the training's time (of the processor)"
    )


if __name__ == "__main__":
    main()
