"""Our losses and their gradients against OpenCLIP's own, on the same batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from clipdrift import formulas

SCALE, BIAS = 14.3, -3.0


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embeddings of 9 images and of 9 texts, and the scale, all with gradients."""
    generator = torch.Generator().manual_seed(1)
    images, texts = (torch.randn(9, 16, generator=generator).requires_grad_() for _ in range(2))
    return images, texts, torch.tensor(SCALE, requires_grad=True)


def of(loss: Any, *at: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (loss.detach(), *torch.autograd.grad(loss, at, retain_graph=True))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_losses_and_gradients_are_open_clips(kind: str) -> None:
    losses = pytest.importorskip("open_clip.loss")
    each = torch.eye(9, dtype=torch.bool)
    images, texts, scale = batch()
    left, right = normalize(images, dim=-1), normalize(texts, dim=-1)
    similarity = scale * left @ right.T
    if kind == "softmax":
        ours = of(formulas.contrastive_loss(similarity, each), images, texts, scale)
        theirs = of(losses.ClipLoss()(left, right, scale), images, texts, scale)
    else:
        ours = of(formulas.sigmoid_loss(similarity + BIAS, each), images, texts, scale)
        theirs = of(losses.SigLipLoss()(left, right, scale, torch.tensor(BIAS)), images, texts, scale)
    for mine, known in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, known, rtol=1e-5, atol=1e-7)
