"""Find the CLIP inside whatever a training holds, now and after later wrapping, and make it readable."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clipdrift.model.finite import broken_tensors
from clipdrift.model.halves import HALVES, half_of
from clipdrift.model.towers import is_known, tower_of, unwrapped
from clipdrift.monitoring.errors import MonitorError

_ONE = "give the one that is trained"


def clip_in(given: Any) -> nn.Module:
    """The one CLIP-like model in a module: itself, in wrappers, or a part of a larger one.

    Adapters and wrappers that are put around it later act on the very object that is found here, or are
    found when it is read.

    Raises:
        MonitorError, UnsupportedModelError: none, several, or one in a wrapper that cannot be read.
    """
    if not isinstance(given, nn.Module):
        raise MonitorError(f"{type(given).__name__} is no torch module; give the model that is trained")
    inner: Any = unwrapped(given)
    _refuse_flat(inner)
    if is_known(inner) or half_of(inner) is not None:
        return inner
    found = list(_outermost(inner))
    if len(found) > 1:
        names = ", ".join(name for name, _ in found[:4])
        raise MonitorError(
            f"{type(inner).__name__} holds {len(found)} models of CLIP's kind ({names}); {_ONE}"
        )
    if not found:
        tower_of(inner)  # says what is supported
    return found[0][1]


def _outermost(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    for child_name, child in module.named_children():
        where = f"{name}.{child_name}" if name else child_name
        inner: Any = unwrapped(child)
        if is_known(inner) or any(kind.__name__ in HALVES for kind in type(inner).__mro__):
            yield where, inner
        else:
            yield from _outermost(inner, where)


def _refuse_flat(model: Any) -> None:
    """Refuse wrappers in which no weight has a place of its own."""
    for module in model.modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise MonitorError(
                "FullyShardedDataParallel keeps weights in flat pieces, which cannot be read; shard the "
                "model with torch.distributed.fsdp.fully_shard (fsdp_version 2) instead"
            )
    if any(hasattr(weight, "ds_id") and not weight.numel() for weight in model.parameters()):
        raise MonitorError(
            "DeepSpeed's ZeRO stage 3 has taken the weights apart, which cannot be read; stages 1 and 2 can"
        )


def view_of(model: nn.Module, projection: nn.Module | None = None) -> nn.Module:
    """What is read of what :func:`clip_in` found: itself, or its image tower with a lent projection."""
    half = half_of(model, projection)
    return model if half is None else half


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights are divided among processes (FSDP2)."""
    return any(_sharded(weight) for weight in model.parameters())


def _sharded(tensor: object) -> bool:
    return hasattr(tensor, "full_tensor")


@contextmanager
def generators_kept() -> Iterator[None]:
    """What libraries draw from Python's, NumPy's and torch's generators inside, nobody misses afterwards."""
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        yield


@contextmanager
def readable(model: nn.Module, *, here: bool = True) -> Iterator[nn.Module | None]:
    """The model as a plain one: itself, or, where its weights are sharded, a copy with them gathered.

    Sharded weights are gathered in every process, as that is a collective; only where ``here`` are they kept.
    Compiled modules are run as they were written, and nothing is compiled anew for it. A caller's inference
    mode is left for a while, as tensors that are made in it are of no use outside.
    """
    with ExitStack() as stack:
        stack.enter_context(generators_kept())
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_as_written())
        if not is_sharded(model):
            yield model if here else None
        else:
            found = plain_copy(model, here)
            yield found


@contextmanager
def _as_written() -> Iterator[None]:
    set_stance = getattr(torch.compiler, "set_stance", None)
    if set_stance is None:  # before torch 2.6
        yield
        return
    with set_stance("force_eager"):
        yield


def plain_copy(model: nn.Module, here: bool = True) -> nn.Module | None:
    """A copy whose modules share nothing that acts with the sharded model: weights gathered, no hooks.

    Args:
        here: whether to keep it; None is returned in a process that only helps to gather.
    """
    if not here:
        for tensor in (*model.parameters(), *model.buffers()):
            _gathered(tensor)
        return None
    return _copied(model)


def _copied(module: nn.Module) -> nn.Module:
    kind = _plain_class(type(module))
    made: nn.Module = kind.__new__(kind)  # FSDP2's own class would build it anew
    state: dict[str, Any] = dict(module.__dict__)
    state["_parameters"] = {
        name: None
        if p is None
        else nn.Parameter(_gathered(p).detach().clone(), requires_grad=p.requires_grad)
        for name, p in module._parameters.items()
    }
    state["_buffers"] = {
        name: None if b is None else _gathered(b).detach().clone() for name, b in module._buffers.items()
    }
    state["_modules"] = {
        name: None if child is None else _copied(child) for name, child in module._modules.items()
    }
    for name in list(state):
        if (
            name.endswith("_hooks")
            or name.endswith("_hooks_with_kwargs")
            or name.endswith("_hooks_always_called")
        ):
            state[name] = type(state[name])()
    state["_compiled_call_impl"] = None
    made.__dict__ = state
    return made


def _gathered(tensor: Tensor) -> Tensor:
    whole: Any = tensor
    return whole.full_tensor() if _sharded(tensor) else tensor


def _plain_class(kind: type[nn.Module]) -> type[nn.Module]:
    """The class before FSDP2 put its own in front."""
    bases = kind.__bases__
    return bases[1] if len(bases) == 2 and bases[0].__name__ == "FSDPModule" else kind


def check_usable(model: nn.Module) -> None:
    """Refuse what cannot be measured at all.

    Raises:
        MonitorError: nan or inf in a weight, or weights on no device.
        UnsupportedModelError: a tower that cannot be read.
    """
    tower = tower_of(view_of(model))
    if any(weight.is_meta for weight in model.parameters()):
        raise MonitorError("the model's weights are on the meta device, so they have no values yet")
    if not is_sharded(model) and (said := broken_tensors(tower.model.named_parameters())):
        raise MonitorError(f"the model has broken weights before any training: {said}")
