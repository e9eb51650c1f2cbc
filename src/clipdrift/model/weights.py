"""A tower's weights as they act, adapters added in, under one set of names for all libraries."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

from clipdrift.model.towers import TextTower, Tower, text_tower_of, tower_of


@torch.no_grad()
def effective_weights(model: Any) -> dict[str, Tensor]:
    """The image tower's and projection's weights as they act, under the names of transformers' CLIPModel.

    Adapters of any kind that peft can merge are added in by peft's own merge of a copy of their layer;
    those switched off are left out. Names start with ``vision_model.`` or ``visual_projection.``. Tensors
    may share memory with the model.

    Raises:
        UnsupportedModelError: a model whose image tower is not known.
    """
    return _weights_of(tower_of(model))


@torch.no_grad()
def text_weights(model: Any) -> dict[str, Tensor]:
    """The text tower's and projection's weights, as :func:`effective_weights` gives the image tower's.

    Names start with ``text_model.`` or ``text_projection.``.

    Raises:
        UnsupportedModelError: a model whose text tower is not known.
    """
    return _weights_of(text_tower_of(model))


def statistics(model: Any) -> dict[str, Tensor]:
    """Running means and variances of the image tower's batch normalisation, by name; none in a transformer.

    They act in eval mode, and are no weights.

    Raises:
        UnsupportedModelError: a model whose image tower is not known.
    """
    return {
        f"{prefix}.{name}": buffer.detach()
        for prefix, part in tower_of(model).parts()
        for name, buffer in part.named_buffers()
        if name.endswith((".running_mean", ".running_var"))
    }


def same_statistics(one: Any, other: Any) -> bool:
    """Whether two models have the same running statistics in their image towers."""
    left, right = statistics(one), statistics(other)
    return left.keys() == right.keys() and all(torch.equal(left[n].cpu(), right[n].cpu()) for n in left)


def _weights_of(tower: Tower | TextTower) -> dict[str, Tensor]:
    return {
        name: plain
        for prefix, part in tower.parts()
        for raw, weight in _acting(part, f"{prefix}.")
        for name, plain in tower.canonical(raw, weight)
    }


def _acting(module: nn.Module | nn.Parameter, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(module, nn.Parameter):
        yield prefix[:-1], module.detach()
    elif isinstance(module, BaseTunerLayer):
        yield from _acting(_base(module), prefix)
    elif isinstance(module, ModulesToSaveWrapper):
        wrapper: Any = module
        active = [name for name in wrapper.active_adapters if name in wrapper.modules_to_save]
        trained = bool(active) and not wrapper.disable_adapters
        yield from _acting(wrapper.modules_to_save[active[0]] if trained else wrapper.original_module, prefix)
    else:
        for name, parameter in module.named_parameters(prefix=prefix[:-1], recurse=False):
            yield name, parameter.detach()
        for name, child in module.named_children():
            yield from _acting(child, f"{prefix}{name}.")


def _base(layer: Any) -> nn.Module:
    """Unwrap a layer of peft's, with the adapters that act merged into its weights, and no others.

    Merged weights of torch's attention are no parameters, and cannot be copied, until peft is asked for the
    layer's modules, when it puts them back.
    """
    if layer.merged:
        layer.named_modules()
    if layer.merged == layer.disable_adapters:  # in the next forward pass peft takes out what is switched off
        layer = copy.deepcopy(layer)
        layer.unmerge() if layer.merged else layer.merge()
        layer.named_modules()
    base: nn.Module = layer.get_base_layer()
    return base
