"""Text towers of transformers' CLIP and SigLIP: the tokens that the pooled one sees, and how they are run.

What is read is the one token that a text is pooled at. In CLIP that is the end token: attention is causal, so
it sees the tokens before it and itself, and whatever follows, padding above all, changes nothing. In SigLIP
it is the last of a fixed number of tokens, nearly always padding, and it sees all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from clipdrift.model.texts import plain, tokenised
from clipdrift.model.towers.base import Call, QueriesKeys
from clipdrift.model.towers.huggingface import watch_projections
from clipdrift.model.towers.layout import HUGGING_FACE_MATRICES, Places, TowerLayout


@dataclass(frozen=True)
class Prompt:
    """One text as it is run.

    Attributes:
        ids: tokens; the text is pooled at the last.
        start: whether the first of them is the start token.
        words: one past the last word; words begin after the start token, where there is one.
    """

    ids: tuple[int, ...]
    start: bool
    words: int

    @property
    def span(self) -> slice:
        """Positions of the words: neither the start token, nor the end token, nor padding."""
        return slice(int(self.start), self.words)

    @property
    def length(self) -> int:
        """How many words there are, at least 0."""
        return self.words - int(self.start)


class TextTower(ABC):
    """A view of a model's text tower; holds the live model and changes nothing in it.

    Attributes:
        model: the whole model as its library makes it.
        heads: of each block.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def heads(self) -> int:
        return int(self.model.config.text_config.num_attention_heads)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, first to last."""
        return list(self.model.text_model.encoder.layers)

    def tokens(self, output: object) -> Tensor:
        """A block's output as (B, T, D); some releases wrap it in a tuple."""
        first = output[0] if isinstance(output, tuple) else output
        assert isinstance(first, Tensor)
        return first

    @abstractmethod
    def prompts(self, tokenizer: Any, texts: Sequence[str]) -> list[Prompt]:
        """Texts as the tower takes them, up to the token that they are pooled at."""

    @abstractmethod
    def run(self, ids: Tensor, call: Call) -> Tensor:
        """Projected embeddings (B, E) of token ids (B, T) of :meth:`prompts` of one length."""

    @abstractmethod
    def parts(self) -> tuple[tuple[str, nn.Module | nn.Parameter], ...]:
        """Modules and bare parameters of the text tower and its projection, by their names in the model."""

    @abstractmethod
    def layout(self) -> TowerLayout:
        """Where methods find what they freeze and train."""

    def make_adaptable(self) -> bool:
        """Bring the model into a form in which peft can adapt it, as :meth:`Tower.make_adaptable` does."""
        return False

    def canonical(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """A weight under the name that transformers' CLIPModel gives it."""
        yield name, weight

    def watch(self, block: nn.Module, receive: QueriesKeys) -> list[Any]:
        """Have ``receive`` called in each pass with a block's queries and keys, (B, T, D) each.

        Returns:
            Handles with ``remove()``.
        """
        return watch_projections(block, True, receive)


class ClipTexts(TextTower):
    """The text tower of transformers' CLIPModel; adapters in it are seen as they act."""

    def prompts(self, tokenizer: Any, texts: Sequence[str]) -> list[Prompt]:
        found = []
        for ids in tokenised(self.model, tokenizer, texts)["input_ids"]:
            end = self._pooled_at(ids)
            start = starts(tokenizer, ids) and end > 0
            found.append(Prompt(tuple(ids[: end + 1]), start, end))
        return found

    def _pooled_at(self, ids: Sequence[int]) -> int:
        """Position at which transformers pools: the first end token, or the highest number, of which models
        whose configuration still says that the end token is 2 have it."""
        end = self.model.config.text_config.eos_token_id
        if end == 2:
            return ids.index(max(ids))
        return ids.index(end) if end in ids else 0

    def run(self, ids: Tensor, call: Call) -> Tensor:
        pooled = call(self.model.text_model, input_ids=ids).pooler_output
        embedding: Tensor = call(self.model.text_projection, pooled)
        return embedding

    def parts(self) -> tuple[tuple[str, nn.Module | nn.Parameter], ...]:
        return ("text_model", self.model.text_model), ("text_projection", self.model.text_projection)

    def layout(self) -> TowerLayout:
        return _layout(len(self.blocks), ("text_model", "text_projection"), "text_projection")


class SiglipTextTower(TextTower):
    """The text tower of transformers' SiglipModel, whose last layer, ``head``, is its projection."""

    def prompts(self, tokenizer: Any, texts: Sequence[str]) -> list[Prompt]:
        texts = [plain(text) for text in texts]
        filled = tokenised(self.model, tokenizer, texts, padding="max_length")["input_ids"]
        found = []
        for ids, bare in zip(filled, tokenised(self.model, tokenizer, texts)["input_ids"], strict=True):
            words = len(bare) - (bare[-1:] == [tokenizer.eos_token_id])
            start = starts(tokenizer, ids)
            found.append(Prompt(tuple(ids), start, max(words, int(start))))
        return found

    def run(self, ids: Tensor, call: Call) -> Tensor:
        embedding: Tensor = call(self.model.text_model, input_ids=ids).pooler_output
        return embedding

    def parts(self) -> tuple[tuple[str, nn.Module | nn.Parameter], ...]:
        return (("text_model", self.model.text_model),)

    def layout(self) -> TowerLayout:
        return _layout(len(self.blocks), ("text_model",), "text_model.head")

    def canonical(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        head = "text_model.head."
        yield name.replace(head, "text_projection.") if name.startswith(head) else name, weight


def _layout(blocks: int, whole: Places, projection: str) -> TowerLayout:
    return TowerLayout(
        whole=whole,
        stem=("text_model.embeddings",),
        blocks=tuple(f"text_model.encoder.layers.{i}" for i in range(blocks)),
        projection=(projection,),
        projected_by="text projection",
        matrices=HUGGING_FACE_MATRICES,
    )


def starts(tokenizer: Any, ids: Sequence[int]) -> bool:
    """Whether a text's tokens begin with the start token, which SigLIP's tokenizer does not put there."""
    return ids[0] in (tokenizer.bos_token_id, tokenizer.cls_token_id)
