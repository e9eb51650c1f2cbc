"""Trainings of several processes, each of which calls :func:`main`."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import trainings
from torch.nn.parallel import DistributedDataParallel
from transformers import CLIPModel

from clipdrift.monitoring.monitor import DriftMonitor
from clipdrift.rules import Rules


def main(rank: int, world: int, place: Path, kinds: list[str]) -> None:
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=world)
    for kind in kinds:
        (place / f"{kind}-{rank}.json").write_text(json.dumps(_train(kind, rank, place)))
        dist.barrier()
    dist.destroy_process_group()


def _train(kind: str, rank: int, place: Path) -> dict[str, Any]:
    model: Any = CLIPModel.from_pretrained(place / "model").train()
    pixels = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rules = Rules(stop_when="weight_drift > 0.02", keep_best_when="weight_drift < 0.01")
    monitor = DriftMonitor(
        model, pixels, every=1, rules=rules, out=place / kind, budget=None, on_error="raise", name=kind
    )
    if kind.startswith("ddp"):
        wrapped: Any = DistributedDataParallel(model)
    else:
        from torch.distributed.fsdp import fully_shard

        for block in (*model.vision_model.encoder.layers, *model.text_model.encoder.layers):
            fully_shard(block)
        wrapped = fully_shard(model, ignored_params={model.logit_scale})  # it cannot divide a scalar
    steps = 12 if "uneven" not in kind else 4 + 2 * rank
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=2e-3)
    done = 0
    for images, ids in trainings.batches(steps, seed=rank):
        if "uneven" in kind:  # each for itself, as after a join: no gradient is exchanged
            with wrapped.no_sync():
                trainings.loss_of(model, images, ids).backward()
        else:
            wrapped(input_ids=ids, pixel_values=images, return_loss=True).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        done += 1
        monitor.step()
        if monitor.should_stop and "uneven" not in kind:
            break
    return {
        "steps": done,
        "stopped": monitor.should_stop,
        "rows": len(monitor.rows),
        "drift": [row["drift/weight_drift"] for row in monitor.rows],
    }
