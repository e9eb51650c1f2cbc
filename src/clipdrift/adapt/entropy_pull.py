"""A penalty that moves attention: the entropy of each block is pulled towards a share of the backbone's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clipdrift import formulas
from clipdrift.adapt.attention_blocks import AttentionBlocks
from clipdrift.adapt.reference import BackboneBatch, Wants
from clipdrift.config import EntropyPull, Penalty
from clipdrift.model.trace import Traced


@dataclass(frozen=True)
class PullTerm:
    """Squared distance of each image's entropy, mean over heads, from its aim, summed over blocks.

    Attributes:
        blocks: the blocks that have attention.
        frozen: so many are not trained; their distance would be a constant of the loss.
    """

    options: EntropyPull
    blocks: AttentionBlocks
    frozen: int
    wants = Wants(rows=True)

    def __call__(self, seen: Traced, first_block: int, backbone: BackboneBatch) -> Tensor:
        chosen = self.options.blocks or range(1, self.blocks.count + 1)
        active = [block for block in chosen if block > self.frozen]
        first = self.blocks.first(first_block)
        if not active or seen.patch_rows is None:
            return seen.embedding.new_zeros(())
        assert backbone.rows is not None
        now = formulas.entropy(seen.patch_rows[[block - first for block in active]]).mean(-1)  # (l, B)
        with torch.no_grad():
            before = formulas.entropy(backbone.rows[[block - 1 for block in active]]).mean(-1)
        most = math.log(backbone.rows.shape[-1])
        aim = (self.options.ratio * before).clamp_max(most)
        return ((now - aim) / most).square().mean(1).sum()


def capped_aims(options: Iterable[Penalty], entropies: Sequence[float], patches: int) -> list[str]:
    """Say in which blocks an aim lies beyond uniform attention, which then is the aim.

    Args:
        entropies: (L) the backbone's mean entropy in each block, in nats.
        patches: so many that attention is over.
    """
    most = math.log(patches)
    said = []
    for one in options:
        if not isinstance(one, EntropyPull):
            continue
        chosen = one.blocks or range(1, len(entropies) + 1)
        beyond = [block for block in chosen if one.ratio * entropies[block - 1] > most]
        if beyond:
            blocks = ", ".join(map(str, beyond))
            within = min(most / entropies[block - 1] for block in beyond)
            said.append(
                f"penalty entropy_pull: {one.ratio:g} times the backbone's entropy is more than uniform "
                f"attention has (ln {patches} = {most:.3f} nats) in block {blocks}; uniform attention is the "
                f"aim there (a ratio up to {math.floor(1000 * within) / 1000:g} is reachable in all)"
            )
    return said
