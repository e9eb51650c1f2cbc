"""What reading an image tower needs to know of it, whatever library its class comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from clipdrift.errors import ClipdriftError
from clipdrift.listing import why_absent
from clipdrift.model.towers.layout import TowerLayout
from clipdrift.shapes import Images

Reader = Literal["class token", "pooling head", "none"]
"""Whose attention over patches is read; none in a tower where nothing looks over all patches."""

QueriesKeys = Callable[[Tensor, Tensor], None]
"""Receives queries (B, Q, D) and keys (B, T, D) of one attention, all heads side by side, unscaled."""

Call = Callable[..., Any]
"""``call(module, *args, **kwargs)``: how a module is run; lets the caller run it in another precision."""


class UnsupportedModelError(ClipdriftError):
    """A model whose attention cannot be read; the message names its class and the reason."""


@dataclass(frozen=True)
class Geometry:
    """Sizes of an image tower.

    ``grid`` is rows and columns of patches, ``width`` that of a state after the last block, ``heads`` those
    whose attention is read: 0 where there is none.
    """

    blocks: int
    heads: int
    width: int
    embedding_width: int
    image_size: int
    grid: tuple[int, int]

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]


class Tower(ABC):
    """A view of a model's image tower; holds the live model and changes nothing in it.

    Attributes:
        model: the whole model as its library makes it.
        geometry: its sizes.
        reader: whose attention over patches is read: the class token's in every block, the pooling head's,
            once, or nobody's.
        first_patch: 1 where a class token precedes the patches, else 0.
        absent: measures, or families of them, that such a tower has not, each with the reason.
    """

    reader: Reader = "class token"
    first_patch: int = 1
    absent: Mapping[str, str] = MappingProxyType({})

    def __init__(self, model: Any, geometry: Geometry) -> None:
        self.model = model
        self.geometry = geometry

    def lacks(self, measure: str) -> str | None:
        """Why there is no such measure of this tower; None where there is."""
        return why_absent(self.absent, measure)

    @property
    def row_patch(self) -> int:
        """Where patches begin in a row of attention: behind the token that also attends to itself."""
        return self.first_patch

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, or the stages, first to last."""

    @property
    def activation(self) -> str:
        """Name of the MLPs' activation: the same weights under another one are another model."""
        return str(self.model.vision_model.config.hidden_act)

    @abstractmethod
    def run(self, images: Images, call: Call) -> tuple[Tensor, Tensor]:
        """Pooled state (B, D) and projected embedding (B, E) of normalised images."""

    def images_per_pass(self, asked: int | None) -> int:
        """Number of images per pass: as asked, or as :func:`per_pass` has it."""
        tokens = self.geometry.patches + self.first_patch
        return per_pass(tokens, next(self.model.parameters()).device) if asked is None else asked

    def layout(self) -> TowerLayout:
        """Where methods find what they freeze and train.

        Raises:
            UnsupportedModelError: a tower that can be read, not trained.
        """
        kind = type(self.model)
        raise UnsupportedModelError(
            f"the image tower of {kind.__module__}.{kind.__name__} can be measured and compared, not trained"
        )

    def make_adaptable(self) -> bool:
        """Bring the model into a form in which peft can adapt it, in place; what it computes stays the same.

        Returns:
            Whether anything had to be done; towers whose matrices are layers of their own are so already.
        """
        return False

    def carried(self, output: object) -> Tensor:
        """What a block hands to the next one, images first; it goes into :meth:`run_from`."""
        return self.tokens(output)

    def needed(self, carried: Tensor) -> Tensor:
        """Of what the last block has left, what is read behind it: the class token's state, (B, 1, D)."""
        return carried[:, :1]

    def run_from(self, carried: Tensor, start: int, call: Call) -> tuple[Tensor, Tensor]:
        """As :meth:`run`, from what ``start`` blocks have left (:meth:`carried`); after the last block what
        is :meth:`needed` will do. Only towers that can be trained have it."""
        raise NotImplementedError(f"{type(self).__name__} can be read, not trained")

    @abstractmethod
    def parts(self) -> tuple[tuple[str, nn.Module], ...]:
        """The modules of the image tower and its projection, by their names in the whole model."""

    def tokens(self, output: object) -> Tensor:
        """A block's output as (B, T, D); some releases wrap it in a tuple. T and D may differ by block."""
        first = output[0] if isinstance(output, tuple) else output
        assert isinstance(first, Tensor)
        return first

    def state(self, tokens: Tensor) -> Tensor:
        """Return (B, D), what stands for the image after a block: the class token."""
        return tokens[:, 0]

    def watch(self, block: nn.Module, whole: bool, receive: QueriesKeys) -> list[Any]:
        """Have ``receive`` called in each forward pass with a block's queries and keys.

        Args:
            whole: the queries of all tokens; otherwise of the class token alone, (B, 1, D).

        Returns:
            Handles with ``remove()``.

        Raises:
            UnsupportedModelError: a tower whose blocks have no attention that is read.
        """
        raise UnsupportedModelError(f"{type(self).__name__}: {self.absent['flow']}")

    def watch_reader(self, receive: QueriesKeys) -> list[Any]:
        """Watch the pooling head, as :meth:`watch` does blocks. Towers with a class token have none."""
        raise NotImplementedError(f"{type(self).__name__} is read through its class token")

    def canonical(self, name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
        """A weight under the name that transformers' CLIPModel gives it, in its layout; may be several."""
        yield name, weight


class FeatureMaps(Tower):
    """A tower of stages, whose states are means over a feature map that shrinks from stage to stage."""

    first_patch = 0

    def images_per_pass(self, asked: int | None) -> int:
        """As in the base, by the size of an early stage's map, which takes the most memory."""
        tokens = (self.geometry.image_size // 8) ** 2
        return per_pass(tokens, next(self.model.parameters()).device) if asked is None else asked

    def tokens(self, output: object) -> Tensor:
        """A feature map (B, D, rows, columns) as (B, T, D)."""
        assert isinstance(output, Tensor)
        return output.flatten(2).transpose(1, 2)

    def state(self, tokens: Tensor) -> Tensor:
        """(B, D) mean over the map."""
        return tokens.mean(1)

    def carried(self, output: object) -> Tensor:
        """The feature map as it is."""
        assert isinstance(output, Tensor)
        return output

    def needed(self, carried: Tensor) -> Tensor:
        """All of the map, which is pooled."""
        return carried


def square(images: Images, side: int) -> None:
    """Refuse images of another size than the model's, which a library may take without a word.

    Raises:
        ValueError: that they are.
    """
    if images.shape[-2:] != (side, side):
        height, width = images.shape[-2:]
        raise ValueError(f"image size ({height}*{width}) does not match the model's ({side}*{side})")


def per_pass(tokens: int, device: torch.device) -> int:
    """How many images or texts of so many tokens make up some 4,096 tokens, or 32,768 on a GPU; at least 1.

    Larger passes are hardly faster and hold more activations: that many of ViT-L's take 0.3 GiB.
    """
    return max(1, (4096 if device.type == "cpu" else 32768) // tokens)


def queries_and_keys(
    attention: Any, query: Tensor, key: Tensor, *_: object, **__: object
) -> tuple[Tensor, Tensor]:
    """Queries and keys of torch's attention, from inputs (B, Q, D) and (B, T, D), where no hook reaches."""
    q, k, _v = attention.in_proj_weight.chunk(3)
    if attention.in_proj_bias is None:
        return linear(query, q), linear(key, k)
    q_bias, k_bias, _v_bias = attention.in_proj_bias.chunk(3)
    return linear(query, q, q_bias), linear(key, k, k_bias)
