"""From texts to embeddings by a model's own tokenizer and text tower; one class per library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class TextEncoder(Protocol):
    """Texts to projected, not normalised embeddings (n, E) on the model's device."""

    def __call__(self, texts: Sequence[str]) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class HuggingFaceTexts:
    """transformers' CLIP: padded to the longest text of a batch, which a mask hides."""

    model: Any
    tokenizer: Any

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.model.device)
        found: Tensor = self.model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return found
