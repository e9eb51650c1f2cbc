"""A live model that can be set anywhere between a backbone and its adapted version."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from clipdrift.model.clip import Clip
from clipdrift.model.towers import tower_of, unwrapped
from clipdrift.model.weights import effective_weights, text_weights
from clipdrift.repair.arguments import blocks_text
from clipdrift.repair.merging import has_adapters, plain_copy
from clipdrift.repair.scaling import scaled

Form = Literal["model", "adapter"]

HEAD = "head"
"""Place of a classifier that is moved along; no part of the model."""

PARTS = ("stem", "final", "projection", "text", HEAD)
"""Outside of the blocks: embeddings, final layer norm (or pooling head), projection, text tower, classifier
(by the name ``head``)."""

_BLOCK = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.")


@dataclass(frozen=True, eq=False)
class MovingTensor:
    """One tensor on its way.

    Attributes:
        tensor: of the live model, written in place; may be a view of a parameter.
        start: the backbone's value.
        end: the tuned model's.
        place: block (from 1) or one of ``PARTS``.
    """

    tensor: Tensor
    start: Tensor
    end: Tensor
    place: int | str


@dataclass(frozen=True, eq=False)
class Endpoints:
    """A live model, and the two values of every tensor of it that differs.

    Attributes:
        model: the live model; nobody else holds it.
        clip: the same with texts and preprocessing, where they are known.
        moves: by name.
        form: what it is saved as.
        notes: what a reader should know.
    """

    model: Any
    clip: Clip | None
    moves: Mapping[str, MovingTensor]
    form: Form
    notes: tuple[str, ...] = ()

    @property
    def moves_texts(self) -> bool:
        return any(move.place == "text" for move in self.moves.values())

    def places(self) -> set[int | str]:
        """Places where the two models differ."""
        return {move.place for move in self.moves.values()}

    @torch.no_grad()
    def put(self, alpha: float = 1.0, at: Mapping[int | str, float] | None = None) -> None:
        """Write ``theta(alpha) = (1 - alpha) theta_0 + alpha theta_1`` into the live model.

        0 and 1 give the ends themselves, bit for bit; between them the sum is taken in float64.

        Args:
            alpha: of everything that ``at`` does not name; 0 the backbone, 1 the tuned model.
            at: other alphas by block (from 1) or part.
        """
        at = at or {}
        for move in self.moves.values():
            here = at.get(move.place, alpha)
            if here in (0, 1):
                move.tensor.copy_(move.end if here else move.start)
            else:
                start, end = move.start.double(), move.end.double()
                move.tensor.copy_(start + here * (end - start))

    def blocks(self) -> int:
        return len(tower_of(self.model).blocks)

    def with_head(self, start: Mapping[str, Tensor], head: Mapping[str, Tensor]) -> Endpoints:
        """The same with a classifier that moves along.

        Args:
            start: its tensors at the backbone, by name.
            head: its live tensors, which now have the tuned values.
        """
        own = {f"{HEAD}.{name}": (tensor.detach(), start[name], HEAD) for name, tensor in head.items()}
        return replace(self, moves={**self.moves, **_differing(own)})


def plain_ends(base: Any, tuned: Any, clip: Clip | None, own: bool) -> Endpoints:
    """Between the merged weights of two models of one architecture, in the layout of the tuned one.

    What lies outside of the image tower, such as the text tower, moves where both name it alike.

    Args:
        base, tuned: the models; both are left as they are unless ``own``.
        clip: of the tuned model.
        own: the tuned model belongs to us and may be moved itself.
    """
    live = unwrapped(tuned) if own and not has_adapters(tuned) else plain_copy(tuned)
    now, before = movable(live), effective_weights(base)
    moves = {name: (tensor, before[name], place) for name, (tensor, place) in now.items() if name in before}
    outside = {name: tensor for name, (tensor, _) in now.items() if name not in before}
    plain = plain_copy(base) if outside and has_adapters(base) else unwrapped(base)
    known = {name: p.detach() for name, p in plain.named_parameters()}
    notes = []
    if all(name in known and known[name].shape == p.shape for name, p in outside.items()):
        moves |= {name: (p, known[name], "text") for name, p in outside.items()}
    else:
        notes.append("The text towers are of different kinds: TUNED's stays as it is at every step.")
    if clip is not None and clip.model is not live:
        encoder: Any = clip.texts
        clip = replace(clip, model=live, texts=replace(encoder, model=live))
    return Endpoints(live, clip, _differing(moves), "model", tuple(notes))


def movable(live: Any) -> dict[str, tuple[Tensor, int | str]]:
    """Every weight of a plain model by its common name, with its place; writing the tensor moves the model.

    What lies outside of the image tower has its own names and the place ``text``.
    """
    # effective weights of a plain model are its parameters or views of them
    found = {name: (weight, _canonical_place(name)) for name, weight in effective_weights(live).items()}
    inside = {id(p) for _, part in tower_of(live).parts() for p in part.parameters()}
    outside = {name: p.detach() for name, p in live.named_parameters() if id(p) not in inside}
    return found | {name: (weight, "text") for name, weight in outside.items()}


def _differing(moves: Mapping[str, tuple[Tensor, Tensor, int | str]]) -> dict[str, MovingTensor]:
    """Select tensors whose start is not where they are now, with copies of both values."""
    found = {}
    for name, (tensor, before, place) in moves.items():
        start = before.detach().to(tensor.device, tensor.dtype, copy=True)
        if not torch.equal(start, tensor):
            found[name] = MovingTensor(tensor, start, tensor.clone(), place)
    return found


def _canonical_place(name: str) -> int | str:
    if found := _BLOCK.match(name):
        return int(found[1]) + 1
    if name.startswith("visual_projection."):
        return "projection"
    stem = ("vision_model.embeddings.", "vision_model.pre_layrnorm.")
    return "stem" if name.startswith(stem) else "final"


def adapter_ends(base: Any, clip: Clip) -> Endpoints | None:
    """Between a backbone and a LoRA adapter on it, by scaling the adapter; None where that cannot be done.

    Of LoRA and its relatives, ``B`` goes from 0 to its value, which scales ``B A``; of DoRA the magnitudes
    go from the lengths of the backbone's weight vectors to theirs; modules trained in full and biases go
    from the backbone's values to theirs. It cannot be done for other adapters of peft, for several at once,
    for merged ones, and for those that stand on changed weights (PiSSA). Whether alpha 0 is the backbone is
    checked.

    Args:
        base: the backbone, a plain model.
        clip: the live, adapted model, which is ours.
    """
    found = scaled(base, clip.model)
    if found is None:
        return None
    endpoints = Endpoints(clip.model, clip, _differing(found), "adapter")
    endpoints.put(0)
    right = _alike(effective_weights(base), effective_weights(clip.model))
    if endpoints.moves_texts:
        right = right and _alike(text_weights(base), text_weights(clip.model))
    endpoints.put(1)
    return endpoints if right else None


def _alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Equal to float32's rounding, which DoRA's division by a length leaves."""
    return all(
        torch.allclose(one[name].float().cpu(), other[name].float().cpu(), rtol=1e-5, atol=1e-7)
        for name in one
    )


def named(places: Iterable[int | str]) -> str:
    """Places for a reader, blocks first."""
    several = list(places)
    blocks = sorted(place for place in several if not isinstance(place, str))
    parts = [place for place in PARTS if place in several]
    said = [f"block{'s' * (len(blocks) > 1)} {blocks_text(blocks)}"] if blocks else []
    return ", ".join([*said, *parts])
