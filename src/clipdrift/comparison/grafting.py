"""Complete half a model by what it lacks: its weights are written into a copy of BASE.

So it is read, tested, repaired and saved as any whole model is. What it did not bring is BASE's, which is
said, and is left out where weights are compared.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

from clipdrift.comparison.architectures import same_architecture
from clipdrift.comparison.models import OpenedModel, PairError, copied_clip, fingerprint_of
from clipdrift.config import ModelConfig
from clipdrift.model.clip import Clip, check_tokenizer
from clipdrift.model.families import FAMILIES
from clipdrift.model.half_loading import Half
from clipdrift.model.halves import ImageHalf
from clipdrift.model.towers import text_tower_of, tower_of, unwrapped
from clipdrift.model.weights import effective_weights, text_weights

IMAGE_TOWER, TEXT_TOWER, LOGIT_SCALE = "image tower", "text tower", "logit scale"
VISUAL_PROJECTION, TEXT_PROJECTION = "visual projection", "text projection"
"""Parts of a whole model that a half may lack."""

_TEXT_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
)


def graft(half: Half, base: OpenedModel) -> OpenedModel:
    """A copy of BASE with the half's weights in place of its own.

    Args:
        half: an image tower, a text tower or an image classifier.
        base: a whole model without adapters; it is left as it is.

    Raises:
        PairError: another architecture, another joint space, or a BASE that cannot be copied.
        UnsupportedModelError: a BASE whose tower is not read.
        ModelError: a tokenizer that does not belong to the text tower.
    """
    if any(isinstance(part, BaseTunerLayer | ModulesToSaveWrapper) for part in base.model.modules()):
        raise PairError(
            f"{half.name}: {half.article} is completed by BASE, and {base.name} has adapters in it; merge "
            "those and save the result"
        )
    clip = None if base.clip is None else copied_clip(base.clip)
    model = copy.deepcopy(unwrapped(base.model)) if clip is None else unwrapped(clip.model)
    model.float()  # a BASE in memory may be in half precision, to which TUNED's weights must not be rounded
    images = effective_weights(model)
    projects = [name for name in images if _leads(name)]  # SigLIP has none
    if isinstance(half.view, ImageHalf):
        _check_image(half, base)
        brought, into = effective_weights(half.view), images
        lacking = [VISUAL_PROJECTION] * bool(projects and not any(map(_leads, brought)))
        lacking += [TEXT_TOWER, LOGIT_SCALE] * hasattr(model, "logit_scale")  # a BASE in memory may lack both
    else:
        _check_text(half, base)
        brought, into = text_weights(half.view), text_weights(model)
        lacking = [IMAGE_TOWER, *[VISUAL_PROJECTION] * bool(projects)]
        lacking += [TEXT_PROJECTION] * (not any(map(_leads, brought)))
        lacking.append(LOGIT_SCALE)
        _pool_alike(half, model)
    _write(half, base, brought, into)
    if clip is not None:
        clip = _dressed(clip, half, base)
    return OpenedModel(
        name=half.name,
        kind="in memory" if half.in_memory else half.kind,
        model=model,
        clip=clip,
        fingerprint=None if half.in_memory else fingerprint_of(half.name),
        interpolated_from=half.interpolated_from,
        grafted=tuple(lacking),
        brought=frozenset(brought),
        head=half.classifier,
        notes=(*half.notes, *_notes(half, lacking)),
    )


def _leads(name: str) -> bool:
    """Whether a weight leads into the joint space."""
    return name.startswith(("visual_projection.", "text_projection."))


def _check_image(half: Half, base: OpenedModel) -> None:
    view: Any = half.view
    one, other = tower_of(base.model), tower_of(view)
    ignore = [] if isinstance(view.visual_projection, nn.Linear) else ["embedding_width"]
    same_architecture(base.name, half.name, one, other, ignore)
    left, right = (_epsilons(tower.parts()) for tower in (one, other))
    if left != right:
        raise PairError(
            f"{base.name} and {half.name} are of different architectures: epsilon of their layer norms "
            f"{_listed(left)} against {_listed(right)}"
        )


def _epsilons(parts: tuple[tuple[str, nn.Module], ...]) -> list[str]:
    found = {m.eps for _, part in parts for m in part.modules() if isinstance(m, nn.LayerNorm)}
    return [f"{eps:g}" for eps in sorted(found)]


def _check_text(half: Half, base: OpenedModel) -> None:
    own = text_tower_of(base.model).model
    if not hasattr(own, "config"):
        library = type(own).__module__.partition(".")[0]
        raise PairError(
            f"{half.name}: a text tower of transformers, and the text tower of {library} in {base.name} has "
            "other weights; give BASE as transformers' CLIPModel"
        )
    one, other = own.config.text_config, text_tower_of(half.view).model.config.text_config
    odd = [
        f"{name.replace('_', ' ')} {getattr(one, name)} against {getattr(other, name)}"
        for name in _TEXT_SIZES
        if getattr(one, name) != getattr(other, name)
    ]
    if odd:
        raise PairError(
            f"the text towers of {base.name} and {half.name} are of different architectures: {', '.join(odd)}"
        )


def _pool_alike(half: Half, model: Any) -> None:
    """Texts are pooled at the token that the half's configuration names."""
    end = half.view.config.text_config.eos_token_id
    model.config.text_config.eos_token_id = end
    if hasattr(model.text_model, "eos_token_id"):  # CLIP's keeps a copy
        model.text_model.eos_token_id = end


@torch.no_grad()
def _write(half: Half, base: OpenedModel, brought: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    """Write the half's weights over those of the copy, whose tensors are views of its parameters."""
    odd = sorted(brought.keys() - into.keys())
    odd += sorted(name for name in into.keys() - brought.keys() if not _leads(name))
    odd += [name for name in brought if name in into and brought[name].shape != into[name].shape]
    if odd:
        raise PairError(
            f"{base.name} and {half.name} do not have the same weights: {len(odd)} are on one side only or "
            f"of another shape, for example {', '.join(odd[:3])}"
        )
    for name, weight in brought.items():
        into[name].copy_(weight)


def _dressed(clip: Clip, half: Half, base: OpenedModel) -> Clip:
    """The Clip around the copy, with the half's own tokenizer or preprocessing where it has one."""
    changes: dict[str, Any] = {"name": half.name, "notes": ()}
    if half.preprocess is not None:
        changes |= {"preprocess": half.preprocess, "preprocessor": half.preprocessor}
    if half.kind == "text tower":
        family, text = FAMILIES[half.view.kind], half.view.config.text_config
        check_tokenizer(half.tokenizer or clip.tokenizer, ModelConfig(name=half.name), family, text)
        if half.tokenizer is not None:
            encoder: Any = clip.texts
            changes |= {"tokenizer": half.tokenizer, "texts": replace(encoder, tokenizer=half.tokenizer)}
    return replace(clip, **changes)


def _notes(half: Half, lacking: Collection[str]) -> list[str]:
    notes = [f"TUNED is {half.article} ({half.title}): {_listed(lacking)} are BASE's."]
    if half.kind == "text tower" and half.tokenizer is None:
        notes.append("TUNED has no tokenizer of its own among its files here; BASE's is used.")
    if half.kind != "text tower" and half.preprocess is None and not half.in_memory:
        notes.append("TUNED has no preprocessing of its own among its files here; BASE's is used.")
    if half.kind == "image classifier":
        reader = "pooling head" if half.view.kind == "siglip" else "class token"
        notes.append(
            "TUNED's head classifies by the mean of the patches; attention, embeddings and zero-shot are "
            f"read through the {reader}, which that head does not use."
        )
    return notes


def _listed(parts: Collection[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
