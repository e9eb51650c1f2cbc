"""Measures of whole attention maps: rollout and patch-to-patch entropy, streamed block by block.

A block's maps are built for a few images at a time and dropped; between blocks only the rolled-out
(1+P) x (1+P) matrix of each image of the batch is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipdrift import formulas
from clipdrift.measures.errors import defined
from clipdrift.model.trace import attention_maps

FLOW = ("rollout_entropy", "rollout_erf95", "rollout_gini", "patch_entropy")

_CHUNK = 2**22
"""Entries of attention maps that are built at once (16 MiB in float32)."""


class Flow:
    """Collects one batch's maps as the forward pass goes by; give :meth:`see` to the trace as ``on_maps``."""

    def __init__(self, class_token: bool) -> None:
        self._token = class_token
        self._rolled: Tensor | None = None
        self._entropy: list[Tensor] = []

    def see(self, block: int, queries: Tensor, keys: Tensor, heads: int) -> None:
        """Take in one block: queries and keys (B, T, D).

        Raises:
            MeasureError: nan or inf in a map, or a patch that attends to no patch.
        """
        count, tokens = len(queries), queries.shape[1]
        step = max(1, _CHUNK // (heads * tokens * tokens))
        rolled, entropies = [], []
        for start in range(0, count, step):
            piece = slice(start, start + step)
            maps = attention_maps(queries[piece], keys[piece], heads)
            with defined(f"patch_entropy of block {block}"):
                entropies.append(formulas.patch_entropy(maps, class_token=self._token).mean(-1))
            before = None if self._rolled is None else self._rolled[piece]
            rolled.append(formulas.rollout_step(before, maps))
            del maps  # before those of the next piece are built
        self._rolled = torch.cat(rolled)
        self._entropy.append(torch.cat(entropies))

    def values(self, reader: Tensor | None = None) -> dict[str, Tensor]:
        """Per image: rollout's three measures (B, 1), patch entropy of every block (B, L); float64.

        Args:
            reader: (B, P) attention of the pooling head, mean over heads, where that takes the place of
                the class token: the rollout is then what it sees through the blocks.
        """
        assert self._rolled is not None
        rolled = self._rolled.double()
        row = rolled[:, 0, 1:] if reader is None else (reader.double()[:, None] @ rolled)[:, 0]
        return {
            "rollout_entropy": formulas.bits(formulas.entropy(row))[:, None],
            "rollout_erf95": formulas.effective_receptive_field(row)[:, None],
            "rollout_gini": formulas.gini(row)[:, None],
            "patch_entropy": torch.stack(self._entropy, dim=1).double(),
        }
