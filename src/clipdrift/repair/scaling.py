"""Find the tensors that move when an adapter is scaled, and where they start."""

from __future__ import annotations

import copy
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from clipdrift.model.towers import text_tower_of, tower_of, unwrapped
from clipdrift.model.towers.split_attention import SplitAttention

Way = tuple[Tensor, Tensor, int | str]
"""The live tensor, its value in the backbone, and its place."""

_STILL = (".lora_A.", ".lora_embedding_A.")
_FROM_ZERO = (".lora_B.", ".lora_embedding_B.")
_MAGNITUDE = ".lora_magnitude_vector."
_SAVED = ".modules_to_save."


def scaled(base: Any, model: Any) -> dict[str, Way] | None:
    """Every parameter of a LoRA-adapted model with its value at scale 0; None: not adapted by one LoRA.

    Args:
        base: the backbone, plain.
        model: the adapted model.
    """
    layers = [part for part in model.modules() if isinstance(part, BaseTunerLayer)]
    if not layers or not all(_one_lora(layer) for layer in layers):
        return None
    own = dict(model.named_parameters())
    known = dict(_in_form_of(model, base).named_parameters())
    place = _Places(model)
    found: dict[str, Way] = {}
    for name, parameter in own.items():
        if any(part in name for part in _STILL):
            continue
        start = _start(name, parameter, own, known, model)
        if start is None:
            return None
        found[name] = (parameter.detach(), start, place(name, parameter))
    return found


def _in_form_of(model: Any, base: Any) -> Any:
    """The backbone, with its attention split where the adapted model's is."""
    plain = unwrapped(base)
    if not any(isinstance(part, SplitAttention) for part in model.modules()):
        return plain
    plain = copy.deepcopy(plain)
    for view in (tower_of, text_tower_of):
        if any(isinstance(part, SplitAttention) for block in view(model).blocks for part in block.modules()):
            view(plain).make_adaptable()
    return plain


def _one_lora(layer: Any) -> bool:
    plain = isinstance(layer, LoraLayer) and not layer.merged and not layer.disable_adapters
    return plain and len(layer.r) == 1 and list(layer.active_adapters) == list(layer.r)


def _start(
    name: str, parameter: Tensor, own: dict[str, Any], known: dict[str, Any], model: Any
) -> Tensor | None:
    if any(part in name for part in _FROM_ZERO):
        return torch.zeros_like(parameter)
    if _MAGNITUDE in name:
        return _lengths(model, name)
    if _SAVED in name:
        wrapper, _, rest = name.partition(_SAVED)
        found = own.get(f"{wrapper}.original_module.{rest.partition('.')[2]}")
    else:
        found = known.get(name.replace(".base_layer.", ".").replace(".original_module.", "."))
        if found is not None and not name.endswith(".bias") and not _equal(found, parameter):
            return None  # an adapter's file has a place for biases of the backbone, for other weights none
    return None if found is None or found.shape != parameter.shape else found.detach()


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.to(other.device, other.dtype), other)


def _lengths(model: Any, name: str) -> Tensor | None:
    """Lengths of the weight vectors that DoRA's magnitudes replace, as peft takes them where B is 0."""
    path, _, rest = name.partition(_MAGNITUDE)
    layer = model.get_submodule(path)
    weight = layer.get_base_layer().weight.detach()
    vector = layer.lora_magnitude_vector[rest.partition(".")[0]]
    lengths = vector.get_weight_norm(weight, torch.zeros_like(weight), 1.0)
    return lengths if lengths.shape == vector.weight.shape else None


class _Places:
    """Place of a parameter in an adapted model."""

    def __init__(self, model: Any) -> None:
        tower = tower_of(model)
        self._blocks = {
            id(parameter): number
            for number, block in enumerate(tower.blocks, start=1)
            for parameter in block.parameters()
        }
        self._tower = {id(parameter) for _, part in tower.parts() for parameter in part.parameters()}

    def __call__(self, name: str, parameter: Tensor) -> int | str:
        if id(parameter) in self._blocks:
            return self._blocks[id(parameter)]
        if id(parameter) not in self._tower:
            return "text"
        if "projection" in name or ".proj." in f".{name}.":
            return "projection"
        stem = (".embeddings.", ".pre_layrnorm.", ".conv1.", ".ln_pre.")
        return "stem" if any(part in f".{name}" for part in stem) else "final"
