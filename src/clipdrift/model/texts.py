"""From texts to embeddings by a model's own tokenizer and text tower; one class per library."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@runtime_checkable
class TextEncoder(Protocol):
    """Texts to projected, not normalised embeddings (n, E) on the model's device."""

    def __call__(self, texts: Sequence[str]) -> Tensor: ...


@runtime_checkable
class TrainableTexts(TextEncoder, Protocol):
    """What training on texts needs of an encoder beside their embeddings."""

    @property
    def longest(self) -> int:
        """Tokens that the text tower takes; what comes after them is cut off."""
        ...

    def embed(self, texts: Sequence[str]) -> Tensor:
        """As a call, with gradient."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text before it is cut, with those that mark its beginning and end."""
        ...


@dataclass(frozen=True, eq=False)
class HuggingFaceTexts:
    """transformers' CLIP text encoder: padded to the longest text of a batch, which a mask hides."""

    model: Any
    tokenizer: Any

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        return self.embed(texts)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """As a call, with gradient."""
        tokens = tokenised(self.model, self.tokenizer, texts, padding=True, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        found: Tensor = self.model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return found

    @property
    def longest(self) -> int:
        return int(self.model.config.text_config.max_position_embeddings)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return counted(self.tokenizer, texts)


@dataclass(frozen=True, eq=False)
class SiglipTexts:
    """transformers' SigLIP text encoder: every text is filled up to the full length it was trained with.

    There is no mask: the padding is read too, and the state at the last place is the text's.

    Texts are freed of capitals and punctuation. SigLIP's own tokenizer does so itself; the one of SigLIP 2
    does not, though that model was trained and tested on such texts and loses much of its zero-shot accuracy
    on others (big_vision issue 187, NVlabs/RADIO pull request 142).
    """

    model: Any
    tokenizer: Any

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        return self.embed(texts)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """As a call, with gradient."""
        texts = [plain(text) for text in texts]
        tokens = tokenised(self.model, self.tokenizer, texts, padding="max_length", return_tensors="pt")
        tokens = tokens.to(self.model.device)
        found: Tensor = self.model.get_text_features(input_ids=tokens["input_ids"]).pooler_output
        return found

    @property
    def longest(self) -> int:
        return int(self.model.config.text_config.max_position_embeddings)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return counted(self.tokenizer, [plain(text) for text in texts])


def tokenised(model: Any, tokenizer: Any, texts: Sequence[str], **how: Any) -> Any:
    """What a tokenizer of transformers makes of texts, cut to as many tokens as the text tower takes.

    Args:
        how: ``padding`` and ``return_tensors``, as the tokenizer takes them.
    """
    longest = model.config.text_config.max_position_embeddings
    return tokenizer(list(texts), truncation=True, max_length=longest, **how)


def counted(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Number of tokens that a tokenizer of transformers makes of each text when it may not cut it."""
    return [len(ids) for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]


def plain(text: str) -> str:
    """Lower the case and drop ASCII punctuation, as transformers' SiglipTokenizer does."""
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())
