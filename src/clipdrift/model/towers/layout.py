"""Where the parts of a tower lie in a model, by what methods freeze and train."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

Places = tuple[str, ...]
"""Names of modules or of parameters in the whole model."""

HUGGING_FACE_MATRICES: Mapping[str, str] = {
    "q": r"self_attn\.q_proj",
    "k": r"self_attn\.k_proj",
    "v": r"self_attn\.v_proj",
    "out": r"self_attn\.out_proj",
    "mlp": r"mlp\.fc[12]",
}
"""Of a block of transformers' CLIP and SigLIP."""


@dataclass(frozen=True)
class TowerLayout:
    """One tower. Adapters that peft lays around a module keep its name as the beginning of theirs.

    Attributes:
        whole: everything of the tower, its projection included.
        stem: what comes before the blocks.
        blocks: each block, first to last; stages, in a tower that has those.
        projection: what leads from the blocks' end into the space that both towers share.
        projected_by: what that is called.
        matrices: matrices of a block that adapters can be put on, by their name in ``method.targets``: a
            regular expression for what follows the block's name.
        norms: classes of normalisation layers; their subclasses count too.
        projection_modules: modules that hold the projection after :meth:`Tower.make_adaptable`, where these
            are others than ``projection``, as of one that is a bare parameter.
    """

    whole: Places
    stem: Places
    blocks: Places
    projection: Places
    projected_by: str
    matrices: Mapping[str, str]
    norms: tuple[type[nn.Module], ...] = (nn.LayerNorm,)
    projection_modules: Places = ()

    def matrices_of(self, targets: tuple[str, ...], first: int) -> list[str]:
        """Regular expressions of the matrices of some kinds in the blocks from ``first`` (from 0) on."""
        wanted = "|".join(self.matrices[target] for target in targets)
        return [rf"{re.escape(block)}\.({wanted})" for block in self.blocks[first:]]


def within(name: str, places: Places) -> bool:
    """Whether a module or a parameter is one of ``places`` or lies in one."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def parameters_in(model: nn.Module, places: Places) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of a model that lie in ``places``, by name."""
    for name, parameter in model.named_parameters():
        if within(name, places):
            yield name, parameter
