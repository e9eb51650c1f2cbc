"""Copy a model with its adapters merged into its weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from clipdrift.model.clip import Clip
from clipdrift.model.towers import unwrapped


def has_adapters(model: Any) -> bool:
    """Whether peft has put anything into a model."""
    return any(isinstance(part, BaseTunerLayer | ModulesToSaveWrapper) for part in model.modules())


def copied_clip(clip: Clip) -> Clip:
    """Copy a Clip with its model and its texts' encoder, which holds the model too, together."""
    model, texts = copy.deepcopy((clip.model, clip.texts))
    return replace(clip, model=model, texts=texts)


@torch.no_grad()
def plain_copy(model: Any) -> Any:
    """A copy in eval mode, out of all wrappers, with the adapters that act merged by peft and no others."""
    inner = unwrapped(model)
    for part in inner.modules():
        if isinstance(part, BaseTunerLayer) and part.merged:
            # merged weights of torch's attention cannot be copied until peft, when it is asked for the
            # layer's modules, has put them back among the parameters
            part.named_modules()
    copied = copy.deepcopy(inner)
    _strip(copied)
    vars(copied).pop("peft_config", None)  # peft leaves it on what it was put into
    return copied.eval().requires_grad_(False)


def _strip(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, BaseTunerLayer):
            setattr(module, name, _merged(child))
        elif isinstance(child, ModulesToSaveWrapper):
            setattr(module, name, _active(child))
        else:
            _strip(child)


def _merged(layer: Any) -> nn.Module:
    if layer.merged == layer.disable_adapters:  # neither merged nor off, or both
        layer.unmerge() if layer.merged else layer.merge()
    layer.named_modules()
    base: nn.Module = layer.get_base_layer()
    _strip(base)
    return base


def _active(wrapper: Any) -> nn.Module:
    active = [name for name in wrapper.active_adapters if name in wrapper.modules_to_save]
    trained = bool(active) and not wrapper.disable_adapters
    found: nn.Module = wrapper.modules_to_save[active[0]] if trained else wrapper.original_module
    return found
