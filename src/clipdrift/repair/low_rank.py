"""Bring matrices of an adapted model back to the rank of their LoRA adapter."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

from clipdrift.model.towers import tower_of, unwrapped


def why_not_low_rank(model: Any) -> str:
    """Why the updates of the image tower's blocks are not all plain LoRA; empty: they are.

    DoRA scales the rows of ``W_0 + s B A``, so the rank of its update is that of the matrix.
    """
    for block in tower_of(model).blocks:
        for part in block.modules():
            if isinstance(part, ModulesToSaveWrapper):
                return "train matrices of blocks in full"
            if isinstance(part, BaseTunerLayer) and not _plain_linear(part):
                return "do not add a matrix of low rank to one matrix (plain LoRA on linear layers does)"
    if not all(name.startswith("vision_model.encoder.layers.") for name in _adapted(model)):
        return "stand in layers of other names than transformers'"
    return ""


def _plain_linear(part: Any) -> bool:
    plain = isinstance(part, Linear) and isinstance(part.get_base_layer(), nn.Linear)
    return plain and not part.fan_in_fan_out and not any(part.lora_variant.values())


def _adapted(model: Any) -> list[str]:
    """Names of the blocks' adapted layers."""
    blocks = {id(part) for block in tower_of(model).blocks for part in block.modules()}
    named = unwrapped(model).named_modules()
    return [name for name, part in named if isinstance(part, BaseTunerLayer) and id(part) in blocks]


class LowRankUpdate:
    """The LoRA layer of one matrix, whose update ``s B A`` is written anew.

    Attributes:
        rank: of the adapter here.
    """

    def __init__(self, model: Any, matrix: str) -> None:
        """Find the layer.

        Args:
            model: for which :func:`why_not_low_rank` has no reason.
            matrix: name of the matrix as :func:`clipdrift.model.weights.effective_weights` gives it.
        """
        self._path = matrix.removesuffix(".weight")
        self._layer: Any = unwrapped(model).get_submodule(self._path)
        self._adapter: str = self._layer.active_adapters[0]
        self.rank: int = self._layer.r[self._adapter]

    @torch.no_grad()
    def write(self, matrix: Tensor) -> float:
        """Make the layer act as near to a matrix as its rank allows, in the Frobenius norm.

        By the first singular values of the update ``matrix - W_0`` (Eckart and Young 1936), their roots in
        either factor, as peft's own conversions have them.

        Args:
            matrix: (m, n), what the layer's weight should be; in float64.

        Returns:
            What is lost of the update, relative to it: ``||update - s B A|| / ||update||``, 0 to 1, with the
            factors as they are kept. 0 where there is nothing to update.
        """
        layer, name = self._layer, self._adapter
        down, up, scale = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
        update = matrix.double() - layer.get_base_layer().weight.double()
        left, strength, right = torch.linalg.svd(update / scale, full_matrices=False)
        kept = min(self.rank, len(strength))
        root = strength[:kept].sqrt()
        down.zero_()
        up.zero_()
        up[:, :kept] = left[:, :kept] * root
        down[:kept] = root[:, None] * right[:kept]
        whole = update.norm()
        return float((update - scale * (up.double() @ down.double())).norm() / whole) if whole else 0.0

    def tensors(self) -> dict[str, Tensor]:
        """Both factors under the names of the live model's parameters."""
        return {
            f"{self._path}.{factor}.{self._adapter}.weight": getattr(self._layer, factor)[
                self._adapter
            ].weight
            for factor in ("lora_A", "lora_B")
        }
