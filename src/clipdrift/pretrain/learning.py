"""What pretraining learns by: the contrastive loss, the optimisers, the rate, patches left out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPModel

from clipdrift.config import ConfigError, PretrainConfig

_HAS_MUON = "Muon" in dir(torch.optim)


def contrastive_loss(image: Tensor, text: Tensor, log_scale: Tensor, positives: Tensor) -> Tensor:
    """Symmetric cross-entropy against all positives of each row alike.

    Args:
        image: (B, E) image embeddings. text: (B, E) text embeddings.
        log_scale: scalar, natural logarithm of the inverse temperature.
        positives: (B, B) bool, caption j holds for image i; at least one in each row and column.
    """
    logits = log_scale.exp() * normalize(image.float(), dim=-1) @ normalize(text.float(), dim=-1).T
    wanted = positives.to(logits.dtype)
    by_image = cross_entropy(logits, wanted / wanted.sum(1, keepdim=True))
    by_text = cross_entropy(logits.T, wanted.T / wanted.T.sum(1, keepdim=True))
    return 0.5 * (by_image + by_text)


def optimizers_of(model: CLIPModel, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the rest; no decay of vectors and position embeddings."""
    muon, decayed, plain = [], [], []
    for name, parameter in model.named_parameters():
        if config.optimizer == "muon" and parameter.ndim == 2 and "encoder.layers" in name:
            muon.append(parameter)
        elif parameter.ndim >= 2 and "position" not in name:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    rate = config.learning_rate
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-6)]
    if muon:
        if not _HAS_MUON:
            raise ConfigError(f"optimizer = 'muon': torch {torch.__version__} has none; use 'adamw'")
        decay = config.weight_decay
        found.append(torch.optim.Muon(muon, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return found


def rate_at(step: int, steps: int, config: PretrainConfig) -> float:
    warm = max(1, int(config.warmup * steps))
    rise = min(1.0, (step + 1) / warm)
    fall = 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / max(1, steps - warm)))
    return config.learning_rate * rise * fall


@contextmanager
def patches_dropped(model: CLIPModel, share: float, rng: np.random.Generator) -> Iterator[None]:
    """Within it, the image tower sees a random part of each image's patches, with their positions.

    Args:
        model: Its image tower's embeddings are changed on their way to the blocks.
        share: Of the patches, left out; at least one patch is seen. 0 changes nothing.
        rng: Chooses the patches, for each image apart.
    """
    if share == 0:
        yield
        return

    def keep(_module: nn.Module, _given: tuple[Tensor, ...], tokens: Tensor) -> Tensor:
        images, count, width = tokens.shape
        kept = max(1, round((count - 1) * (1 - share)))
        chosen = 1 + np.sort(rng.random((images, count - 1)).argsort(1)[:, :kept], axis=1)
        places = np.concatenate([np.zeros((images, 1), np.int64), chosen], axis=1)
        index = torch.from_numpy(places).to(tokens.device)
        return tokens.gather(1, index[:, :, None].expand(-1, -1, width))

    hook = model.vision_model.embeddings.register_forward_hook(keep)
    try:
        yield
    finally:
        hook.remove()
