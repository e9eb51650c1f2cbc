"""Heads on the projected embedding: linear, or begun as the texts of the classes; saved and loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from clipdrift.model.clip import BrokenWeightsError, Clip, ModelError
from clipdrift.model.finite import broken_tensors
from clipdrift.model.towers import unwrapped
from clipdrift.model.zero_shot import class_features
from clipdrift.runs.layout import HEAD, WEIGHTS

_ZERO_SHOT = "zero_shot"
_LINEAR_NAMES = {"weight", "bias"}
_ZERO_SHOT_NAMES = {f"{_ZERO_SHOT}.{name}" for name in _LINEAR_NAMES}


class ZeroShotHead(nn.Module):
    """A linear map of the normalised embedding, begun as the texts of the classes (Wortsman et al. 2022).

    Its tensors are called ``zero_shot.weight`` (C, E) and ``zero_shot.bias`` (C), so that no reader takes
    them for a linear head's, which acts on embeddings as they are.

    Attributes:
        classes, prompts: of the texts that it began as; empty where they are not known.
    """

    def __init__(
        self, width: int, classes: int, names: Sequence[str] = (), prompts: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.zero_shot = nn.Linear(width, classes)
        self.classes, self.prompts = tuple(names), tuple(prompts)

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, C) logits, float32, of projected embeddings (B, E) of any length."""
        with torch.autocast(embedding.device.type, enabled=False):  # bfloat16 is coarse at the logits' scale
            logits: Tensor = self.zero_shot(normalize(embedding.float(), dim=-1))
        return logits

    @property
    def out_features(self) -> int:
        return self.zero_shot.out_features


Head = nn.Linear | ZeroShotHead


def linear_head(clip: Clip, classes: int, seed: int) -> nn.Linear:
    """A linear head on the projected embedding, drawn from its own generator."""
    head = nn.Linear(clip.embedding_width, classes)
    generator = torch.Generator().manual_seed(seed)
    bound = clip.embedding_width**-0.5
    with torch.no_grad():
        head.weight.uniform_(-bound, bound, generator=generator)
        head.bias.zero_()
    return head.to(clip.device)


@torch.no_grad()
def zero_shot_head(clip: Clip, classes: Sequence[str], prompts: Sequence[str]) -> ZeroShotHead:
    """A head whose logits are the model's own zero-shot logits, on the model's device.

    Weights are the classes' unit text features times ``exp(logit_scale)``; the bias is that of the model's
    logits, which SigLIP has, and 0 for CLIP.

    Args:
        clip: as it is now.
        classes: readable names.
        prompts: templates with one ``{}``; of several the usual ensemble is taken.

    Raises:
        ModelError: a model without a logit scale.
    """
    model: Any = unwrapped(clip.model)
    own = dict(model.named_parameters())
    if "logit_scale" not in own:
        raise ModelError(f"{clip.name}: no logit scale, so it has no zero-shot logits for a head to begin as")
    features = class_features(clip, classes, prompts)
    head = ZeroShotHead(features.shape[1], len(classes), classes, prompts).to(features.device)
    head.zero_shot.weight.copy_(features * own["logit_scale"].float().exp())
    bias = own["logit_bias"].float() if "logit_bias" in own else features.new_zeros(1)
    head.zero_shot.bias.copy_(bias.expand(len(classes)))
    return head


def save_head(head: nn.Module, folder: Path) -> None:
    """Write a head's tensors as ``head.safetensors``; none, where it has no tensors.

    The names of a zero-shot head's tensors say what it is; its classes and prompts stand beside them.
    """
    state = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in head.state_dict().items()}
    if state:
        save_file(state, folder / HEAD, metadata=about_head(head))


def about_head(head: nn.Module) -> dict[str, str] | None:
    """Metadata of a head's file: a zero-shot head's kind, classes and prompts; None of any other."""
    if not isinstance(head, ZeroShotHead):
        return None
    listed = {"classes": json.dumps(head.classes), "prompts": json.dumps(head.prompts)}
    return {"format": "pt", "head": _ZERO_SHOT, **listed}


def head_folder(place: Path) -> Path | None:
    """The folder of a classifier: ``place`` itself or a run's folder of weights; None where there is none.

    What a loss on captions has beside the model, SigLIP's bias, is kept in a file of that name and is none.
    """
    for folder in (place, place / WEIGHTS):
        if (folder / HEAD).is_file() and _names(folder / HEAD) != {"bias"}:
            return folder
    return None


def _names(file: Path) -> set[str]:
    """Names of a file's tensors; none of one that cannot be read, as :func:`load_head` says why."""
    try:
        with safe_open(file, "pt") as opened:
            return set(opened.keys())
    except (OSError, ValueError, SafetensorError):
        return set()


def load_head(folder: Path) -> Head:
    """The head saved in ``folder``, in eval mode and float32; it takes the projected, unnormalised embedding.

    Which kind it is stands in the names of its tensors, so a head of an older run is linear. A zero-shot head
    normalises the embedding itself.

    Raises:
        ModelError: unreadable, or tensors of no head that is known here.
    """
    file = folder / HEAD
    try:
        with safe_open(file, "pt") as opened:
            state: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            about: Mapping[str, str] = opened.metadata() or {}
        zero_shot = _is_zero_shot(state, about)
        weight = state[f"{_ZERO_SHOT}.weight" if zero_shot else "weight"]
        classes, width = weight.shape
        names, prompts = (json.loads(about.get(part, "[]")) for part in ("classes", "prompts"))
        if len(names) not in (0, classes):
            raise ValueError(f"{classes} classes in it, {len(names)} named")
        head: Head = ZeroShotHead(width, classes, names, prompts) if zero_shot else nn.Linear(width, classes)
        if said := broken_tensors(state.items()):
            raise BrokenWeightsError(f"{file}: {said}")
        head.load_state_dict(state, strict=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{file}: the head cannot be read ({error})") from None
    return head.eval().to(torch.float32)


def _is_zero_shot(state: Mapping[str, Tensor], about: Mapping[str, str]) -> bool:
    """Which of the two heads a file holds.

    Raises:
        ValueError: neither, or another than the file says.
    """
    known = {frozenset(_LINEAR_NAMES): False, frozenset(_ZERO_SHOT_NAMES): True}
    found = known.get(frozenset(state))
    if found is None:
        raise ValueError(f"its tensors are {', '.join(sorted(state)) or 'none'}")
    if about.get("head", _ZERO_SHOT if found else "linear") != (_ZERO_SHOT if found else "linear"):
        raise ValueError(f"it says head = {about['head']!r} and holds {', '.join(sorted(state))}")
    return found
