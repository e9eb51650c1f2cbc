"""Learn from images with captions: CLIP's or SigLIP's loss on either tower or both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from clipdrift import formulas
from clipdrift.adapt.adapted import Adapted
from clipdrift.adapt.feed import IN_MEMORY, room
from clipdrift.adapt.methods import check_method, prepared
from clipdrift.config import ContrastiveObjective, Method
from clipdrift.data.caption_store import CaptionSource
from clipdrift.model.clip import Clip, logit_bias_of
from clipdrift.model.towers import text_tower_of
from clipdrift.model.towers.text import Prompt

MOST_SCALE = 100.0
"""Cosines are never multiplied by more (Radford et al. 2021), but in a SigLIP that begins beyond it."""

_DRAW = 2
"""Purpose of the random numbers that choose captions."""
_TEXTS = 256
"""Captions that go through a frozen text tower together, whatever the batch."""


class PairHead(nn.Module):
    """What the loss has beside the model: the sigmoid loss's bias, where the model has no place for it."""

    def __init__(self, bias: float | None = None) -> None:
        super().__init__()
        self.bias = None if bias is None else nn.Parameter(torch.tensor(bias))


@dataclass(eq=False)
class PairLoss:
    """The contrastive loss of a batch of images, each with one of its captions.

    The target of an image is the number of its caption among all captions of the training images.

    Attributes:
        captions: of the training images, in the order of the deck.
        groups: (n,) equal for identical images.
    """

    clip: Clip
    captions: CaptionSource
    groups: NDArray[np.int64]
    options: ContrastiveObjective
    mean_over_images = False

    def __post_init__(self) -> None:
        self._first = np.concatenate([[0], np.cumsum(self.captions.counts)])
        self._kept: Any = None
        begins = float(self.clip.model.logit_scale.detach())
        bound = math.log(MOST_SCALE)
        self._most = bound if logit_bias_of(self.clip.model) is None else max(bound, begins)

    def targets(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """(n,) the caption of each image in an epoch, which depends on nothing before it."""
        drawn = np.random.default_rng([seed, epoch, _DRAW]).random(len(self.captions))
        return self._first[:-1] + (drawn * self.captions.counts).astype(np.int64)

    def _images(self, target: Tensor) -> NDArray[np.int64]:
        found: NDArray[np.int64] = np.searchsorted(self._first, target.cpu().numpy(), side="right") - 1
        return found

    def _words(self, target: Tensor) -> list[str]:
        images = self._images(target)
        return self.captions.texts(images, target.cpu().numpy() - self._first[images])

    def keep_texts(
        self, progress: Callable[[int, int], None] | None = None, in_memory: int = IN_MEMORY
    ) -> None:
        """Compute all captions' embeddings once, as they never change where the text tower is frozen."""
        count = int(self._first[-1])
        store: Any = None
        for start in range(0, count, _TEXTS):
            numbers = torch.arange(start, min(start + _TEXTS, count))
            found = self.clip.texts(self._words(numbers)).float().cpu().numpy()
            if store is None:
                store = room((count, found.shape[1]), in_memory)
            store[start : start + len(found)] = found
            if progress:
                progress(start + len(found), count)
        self._kept = store

    def texts(self, target: Tensor) -> Tensor:
        """(B, E) embeddings of captions by their numbers (B,)."""
        if self._kept is not None:
            return torch.from_numpy(self._kept[target.cpu().numpy()]).to(target.device)
        encoder: Any = self.clip.texts
        words = self._words(target)
        found: Tensor = encoder.embed(words) if self.options.towers != "image" else encoder(words)
        return found

    def prompts(self, target: Tensor) -> list[Prompt]:
        """Captions by their numbers (B,), as the text tower takes them."""
        return text_tower_of(self.clip.model).prompts(self.clip.tokenizer, self._words(target))

    def positive(self, target: Tensor) -> Tensor:
        """:func:`pairs_among` captions by their numbers (B,)."""
        return pairs_among(self._words(target), self.groups[self._images(target)]).to(target.device)

    def __call__(self, head: PairHead, embedding: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return self.couple(head, embedding, self.texts(target), target)

    def couple(
        self, head: PairHead, embedding: Tensor, texts: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As a call, with embeddings (B, E) of the captions."""
        self.refresh(head)
        positive = self.positive(target)
        with torch.autocast(embedding.device.type, enabled=False):
            cosine = normalize(embedding.float(), dim=-1) @ normalize(texts.float(), dim=-1).T
            scores = self.clip.model.logit_scale.exp().float() * cosine
            if self.options.loss == "softmax":
                loss = formulas.contrastive_loss(scores, positive, self.options.label_smoothing)
            else:
                bias = logit_bias_of(self.clip.model) if head.bias is None else head.bias
                assert bias is not None  # adapt_pairs has seen to it
                loss = formulas.sigmoid_loss(scores + bias.float(), positive)
        best = cosine.detach().argmax(1)
        return loss, positive[torch.arange(len(best), device=best.device), best]

    @torch.no_grad()
    def refresh(self, head: PairHead) -> None:
        """Keep a trained scale within its bound, as it is the next step that could see it beyond."""
        if self.clip.model.logit_scale.requires_grad:
            self.clip.model.logit_scale.clamp_(max=self._most)


def pairs_among(words: Sequence[str], groups: NDArray[np.int64]) -> Tensor:
    """(B, B) which captions hold for which images: those of identical images, and equal captions.

    Args:
        words: B captions.
        groups: (B,) of their images, equal for identical ones.
    """
    seen: dict[str, int] = {}
    same = np.array([seen.setdefault(word, len(seen)) for word in words])
    return torch.from_numpy((groups[:, None] == groups[None]) | (same[:, None] == same[None]))


def adapt_pairs(
    clip: Clip,
    method: Method,
    objective: ContrastiveObjective,
    captions: CaptionSource,
    groups: NDArray[np.int64],
    seed: int,
    bias: float | None = None,
) -> Adapted:
    """Prepare ``clip`` for training on captions by a method; changes the model in place.

    Args:
        clip: the backbone. Measure it before: afterwards this object is the adapted model.
        captions: of the training images, in the order of the deck.
        groups: (n,) equal for identical images.
        seed: of adapters.
        bias: with which the sigmoid loss begins, for a model that has none of its own.

    Raises:
        ModelError, ConfigError: as :func:`clipdrift.adapt.methods.adapt`.
        ValueError: a sigmoid loss without a bias, or a bias that has no use.
    """
    own = logit_bias_of(clip.model)
    if (objective.loss == "sigmoid" and own is None) != (bias is not None):
        raise ValueError("the sigmoid loss of a model without a bias, and it alone, is given one")
    towers = objective.trained_towers(method)
    check_method(clip, method, towers)
    plan = prepared(clip, method, seed, towers=towers)
    scale = objective.trains_scale(method)
    clip.model.logit_scale.requires_grad_(scale)
    if own is not None:
        own.requires_grad_(scale and objective.loss == "sigmoid")
    loss = PairLoss(clip, captions, groups, objective)
    head = PairHead(bias).to(clip.device)
    return Adapted(clip, head, plan.artefact, plan.peft, loss, dict(plan.rates), towers=towers)
