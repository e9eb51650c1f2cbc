"""Trainings of others: loops that know nothing of a monitor but its three lines."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

Watch = Callable[[Any], Any]
"""Makes a monitor of a model."""

RATE = 1e-2
BATCH = 8


def batches(steps: int, seed: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pixels (B, 3, 16, 16), whose augmentation draws from three generators, and token ids (B, 6)."""
    for step in range(steps):
        fixed = torch.Generator().manual_seed(seed * 1000 + step)
        pixels = torch.randn(BATCH, 3, 16, 16, generator=fixed)
        pixels = pixels + 0.1 * torch.randn(()) + 0.1 * float(np.random.rand()) + 0.1 * random.random()
        ids = torch.randint(5, 50, (BATCH, 6), generator=fixed)
        yield pixels, ids


def loss_of(model: Any, pixels: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """CLIP's own, of whatever tower the model has."""
    if hasattr(model, "get_text_features"):
        found: torch.Tensor = model(input_ids=ids, pixel_values=pixels, return_loss=True).loss
        return found
    out = model(pixel_values=pixels)
    loss: torch.Tensor = (out.logits if hasattr(out, "logits") else out.image_embeds).square().mean()
    return loss


def seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def train(
    model: Any,
    watch: Watch | None = None,
    *,
    steps: int = 6,
    accumulate: int = 1,
    autocast: bool = False,
    scaler: bool = False,
    loss: Callable[..., torch.Tensor] = loss_of,
    after_step: Callable[[], object] | None = None,
    rate: float = RATE,
) -> Any:
    """Train and return the monitor, if there is one. The generators are seeded before the monitor is made."""
    seeded()
    monitor = watch(model) if watch else None
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    scale = torch.amp.GradScaler("cpu", enabled=scaler)
    for count, (pixels, ids) in enumerate(batches(steps * accumulate), start=1):
        guard: Any = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
        with guard:
            found = loss(model, pixels, ids) / accumulate
        scale.scale(found).backward()
        if count % accumulate == 0:
            scale.step(optimizer)
            scale.update()
            optimizer.zero_grad()
            if after_step:
                after_step()
            if monitor is not None:
                monitor.step()
                if monitor.should_stop:
                    break
    return monitor


def digest(module: nn.Module) -> str:
    """Of all weights and of the state of three random generators."""
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        found.update(name.encode() + tensor.detach().cpu().float().numpy().tobytes())
    found.update(torch.get_rng_state().numpy().tobytes())
    found.update(repr(np.random.get_state()).encode())
    found.update(repr(random.getstate()).encode())
    return found.hexdigest()


def hooks(model: nn.Module) -> int:
    """How many hooks lie on all modules together."""
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()
    )
