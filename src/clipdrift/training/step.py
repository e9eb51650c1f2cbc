"""The gradient of one batch: at once, in parts, or in parts whose images are coupled by the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clipdrift import accelerator
from clipdrift.adapt import Adapted
from clipdrift.adapt.feed import Feed
from clipdrift.adapt.objective import Coupled
from clipdrift.adapt.penalties import Penalties
from clipdrift.adapt.reference import Reference
from clipdrift.adapt.text_penalties import TextReference
from clipdrift.config import ConfigError
from clipdrift.model.text_trace import TracedCaptions, trace_captions
from clipdrift.model.towers import text_tower_of
from clipdrift.model.towers.text import Prompt
from clipdrift.model.trace import Traced
from clipdrift.training.ledger import finite
from clipdrift.training.order import Part


@dataclass(frozen=True, eq=False)
class _Texts:
    """Captions of a part of a batch: embeddings and, where penalties ask for it, what is behind them."""

    embedding: Tensor
    seen: TracedCaptions | None = None
    prompts: Sequence[Prompt] = ()


@dataclass(frozen=True, eq=False)
class Gradients:
    """Computes the gradients of batches.

    Attributes:
        bf16: autocast the forward pass to bfloat16.
        check: gives back each loss before its gradient is taken, or refuses it.
    """

    adapted: Adapted
    feed: Feed
    penalties: Penalties | None
    reference: Reference | None
    bf16: bool
    text_reference: TextReference | None = None
    check: Callable[[Tensor], Tensor] = finite

    def of(self, parts: Sequence[Part], targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Add a batch's gradients to the parameters.

        Yields for each part (for a coupled loss once, for the whole batch) its loss and (b,) whether each
        image is right.

        Args:
            parts: the batch.
            targets: (B,) of its images.

        Raises:
            NotFiniteLossError: nan or inf, by ``check``.
        """
        objective = self.adapted.objective
        if len(parts) > 1 and isinstance(objective, Coupled):
            yield self._coupled(objective, parts, targets)
            return
        for part, target in zip(parts, targets.split([len(picked) for picked, _ in parts]), strict=True):
            texts = None
            with self._cast():
                traced = self._forward(part)
                if isinstance(objective, Coupled):
                    texts = self._texts(objective, target)
                    loss, right = objective.couple(
                        self.adapted.head, traced.embedding, texts.embedding, target
                    )
                else:
                    loss, right = objective(self.adapted.head, traced.embedding, target)
            penalty = self._penalty(traced, part, texts)
            loss = self.check(loss if penalty is None else loss + penalty)
            if not loss.requires_grad:
                raise ConfigError(
                    "objective no_task: no penalty reads a block that is trained, so nothing would move; "
                    "take other penalty.blocks or train more of the model"
                )
            (loss * (len(target) / len(targets))).backward()
            yield loss, right

    def _coupled(self, objective: Coupled, parts: Sequence[Part], targets: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient caching (Gao et al. 2021): embeddings of all parts without a gradient, the loss's gradient
        at the embeddings, then each part once more, with the very same dropout, to carry it on."""
        split = targets.split([len(picked) for picked, _ in parts])
        device = targets.device
        states, images, words = [], [], []
        for part, target in zip(parts, split, strict=True):
            states.append((torch.get_rng_state(), accelerator.random_state(device)))
            with torch.no_grad(), self._cast():
                images.append(self._forward(part).embedding)
                words.append(self._texts(objective, target).embedding)
        image, text = (torch.cat(found).detach().requires_grad_() for found in (images, words))
        with self._cast():
            loss, right = objective.couple(self.adapted.head, image, text, targets)
        loss = self.check(loss)
        loss.backward()
        total = loss.detach()
        assert image.grad is not None
        assert text.grad is not None
        sizes = [len(target) for target in split]
        for part, target, state, to_image, to_text in zip(
            parts, split, states, image.grad.split(sizes), text.grad.split(sizes), strict=True
        ):
            torch.set_rng_state(state[0])
            accelerator.set_random_state(device, state[1])
            with self._cast():
                traced = self._forward(part)
                texts = self._texts(objective, target)
            share = len(target) / len(targets)
            penalty = self._penalty(traced, part, texts)
            carried = [
                (found * found_gradient).sum()
                for found, found_gradient in ((traced.embedding, to_image), (texts.embedding, to_text))
                if found.requires_grad
            ]
            if penalty is not None:
                carried.append(share * penalty)
                total = total + share * self.check(penalty.detach())
            if carried:
                torch.stack(carried).sum().backward()
        return total, right

    def _forward(self, part: Part) -> Traced:
        wants = self.penalties.wants if self.penalties else None
        return self.feed.forward(*part, rows=wants is not None and wants.rows)

    def _texts(self, objective: Coupled, target: Tensor) -> _Texts:
        """Captions of a part, traced where a penalty looks into the text tower."""
        if not (self.penalties and self.penalties.on_texts):
            return _Texts(objective.texts(target))
        prompts = objective.prompts(target)
        tower = text_tower_of(self.adapted.clip.model)
        seen = trace_captions(tower, prompts, self.penalties.text_rows)
        return _Texts(seen.embedding, seen, prompts)

    def _penalty(self, traced: Traced, part: Part, texts: _Texts | None) -> Tensor | None:
        if not (self.penalties and self.reference):
            return None
        found = self.penalties(traced, self.feed.first_block, self.reference.of(*part))
        if texts is None or texts.seen is None:
            return found
        before = self.text_reference
        backbone = None if before is None else before.of(texts.prompts, self.penalties.text_rows)
        return found + self.penalties.of_texts(texts.seen, backbone)

    def _cast(self) -> torch.autocast:
        return torch.autocast(self.feed.deck.device.type, torch.bfloat16, enabled=self.bf16)
