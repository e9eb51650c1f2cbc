"""Check that two models may be compared: same architecture, right base, an adapter that acts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from clipdrift.comparison import Shape, Side
from clipdrift.comparison.architectures import Interpolate, checked_choice, fit_sizes, same_architecture
from clipdrift.comparison.grafting import IMAGE_TOWER, graft
from clipdrift.comparison.models import ModelLike, OpenedModel, PairError, open_model, open_tuned
from clipdrift.model.clip import on_side
from clipdrift.model.half_loading import Half
from clipdrift.model.towers import Tower, tower_of, unwrapped
from clipdrift.model.weights import effective_weights, same_statistics


@dataclass(frozen=True, eq=False)
class ModelPair:
    """BASE and TUNED, checked to fit.

    Attributes:
        before, after: their image towers' weights as they act, under common names.
        notes: what a reader should know.
    """

    base: OpenedModel
    tuned: OpenedModel
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    notes: tuple[str, ...]

    @property
    def shape(self) -> Shape:
        return shape_of(tower_of(self.base.model))

    @property
    def images_alike(self) -> bool:
        """Whether TUNED is a text tower alone, so that both image towers are BASE's."""
        return IMAGE_TOWER in self.tuned.grafted

    @property
    def judged(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weights of the image towers that TUNED brought: none of a text tower alone."""
        return brought(self.tuned, self.before), brought(self.tuned, self.after)


def brought(tuned: OpenedModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the weights that are TUNED's own."""
    return {name: w for name, w in weights.items() if tuned.brought is None or name in tuned.brought}


def shape_of(tower: Tower) -> Shape:
    """A tower's sizes as they stand in a result."""
    return Shape(**asdict(tower.geometry), reader=tower.reader, absent=dict(tower.absent))


def open_pair(
    base: ModelLike, tuned: ModelLike, any_base: bool = False, interpolate: str | None = None
) -> ModelPair:
    """Open both sides and refuse what does not fit.

    Args:
        any_base: accept an adapter or a run made from another backbone than BASE.
        interpolate: whose positions are interpolated where only the image sizes differ, tuned or base.

    Raises:
        PairError: architectures differ, the adapter was made on another model or changes nothing.
        ModelError, UnsupportedModelError: one of them cannot be opened or read.
    """
    choice = checked_choice(interpolate)
    with on_side("BASE"):
        first = open_model(base)
    return pair_with(first, tuned, any_base, choice=choice)


def pair_with(
    first: OpenedModel,
    tuned: ModelLike,
    any_base: bool = False,
    side: str = "TUNED",
    choice: Interpolate | None = None,
) -> ModelPair:
    """Open TUNED for a BASE that is open already, as :func:`open_pair` does.

    Args:
        side: what TUNED is called where it cannot be opened.
        choice: whose positions are interpolated.
    """
    with on_side(side):
        opened = open_tuned(tuned, first)
    first, opened, fitted = fit_sizes(first, opened, choice)
    second = graft(opened, first) if isinstance(opened, Half) else opened
    same_architecture(first.name, second.name, tower_of(first.model), tower_of(second.model))
    before, after = effective_weights(first.model), effective_weights(second.model)
    _same_weights(first, second, before, after)
    notes = [] if any_base else right_base(first, second)
    notes += [f"{side}: {note}" for side, note in _loading_notes(first, second)]
    notes += [*second.notes, *fitted]
    alike = same_statistics(first.model, second.model)
    if not alike:
        notes.append(
            "The running statistics of batch normalisation differ. They act, as everything here is read in "
            "eval mode, but they are no weights: weight_drift does not count them."
        )
    if IMAGE_TOWER not in second.grafted and all(
        torch.equal(before[name].cpu(), after[name].cpu()) for name in before
    ):
        if second.kind == "adapter":
            raise PairError(
                f"{second.name}: the adapter changes none of the {len(before)} weights of the image tower; "
                "was it saved before it was trained, or made for the text tower?"
            )
        also = "" if second.grafted else " and the projection"
        notes.append(f"BASE and TUNED have the same weights in the image tower{also}.")
        if unwrapped(first.model) is unwrapped(second.model):
            notes.append(
                "They are one model in memory: peft and training change the very model that they are given, "
                "so BASE has to be a copy of it."
            )
    return ModelPair(first, second, before, after, tuple(notes))


def open_any_pair(
    base: ModelLike, tuned: ModelLike, any_base: bool = False
) -> tuple[OpenedModel, OpenedModel, tuple[str, ...]]:
    """Open both sides, which may be of different architectures, with what a reader should know of them.

    Half a model as TUNED is completed by BASE, so it has to be of BASE's architecture.

    Raises:
        PairError: an adapter, a run or a half that was made from another backbone than BASE.
        ModelError, UnsupportedModelError: one of them cannot be opened or read.
    """
    with on_side("BASE"):
        first = open_model(base)
        tower_of(first.model)
    with on_side("TUNED"):
        opened = open_tuned(tuned, first)
        second = graft(opened, first) if isinstance(opened, Half) else opened
        tower_of(second.model)
    notes = [] if any_base else right_base(first, second)
    notes += [f"{side}: {note}" for side, note in _loading_notes(first, second)]
    return first, second, (*notes, *second.notes)


def side_of(side: OpenedModel, weights: Mapping[str, Tensor]) -> Side:
    """What a result says of one of its models, whose image tower has these weights."""
    kind = type(tower_of(side.model).model)
    return Side(
        name=side.name,
        kind=side.kind,
        library=f"{kind.__module__.partition('.')[0]} {kind.__name__}",
        parameters=sum(weight.numel() for weight in weights.values()),
        fingerprint=side.fingerprint,
        interpolated_from=side.interpolated_from,
        grafted=side.grafted,
    )


def _loading_notes(first: OpenedModel, second: OpenedModel) -> list[tuple[str, str]]:
    """Notes on how either side's files were read, which an adapter on BASE repeats."""
    sides = {"BASE": first.clip, "TUNED": second.clip}
    return [
        (side, note)
        for side, clip in sides.items()
        for note in (() if clip is None else clip.notes)
        if side == "BASE" or first.clip is None or note not in first.clip.notes
    ]


def _same_weights(
    first: OpenedModel, second: OpenedModel, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> None:
    odd = sorted(before.keys() ^ after.keys())
    odd += [name for name in before if name in after and before[name].shape != after[name].shape]
    if odd:
        raise PairError(
            f"{first.name} and {second.name} do not have the same weights: {len(odd)} of "
            f"{len(before.keys() | after.keys())} are on one side only or of another shape, for example "
            f"{', '.join(odd[:3])}"
        )


def right_base(first: OpenedModel, second: OpenedModel) -> list[str]:
    """List what is not certain about an adapter's or a run's base; refuse what is certainly wrong."""
    if second.backbone is None:
        if second.kind != "adapter":
            return []
        return [
            f"TUNED does not say on which model it was made; on another than {first.name} it means nothing."
        ]
    made_from, made_print = second.backbone
    # an adapter acts on the very weights of BASE; a run brings its own backbone, and two may share it
    bases = [(first.name, first.fingerprint)]
    if second.kind == "run" and first.backbone is not None:
        bases.append(first.backbone)
    names = " or ".join(name for name, _ in bases)
    what = f"{second.name}: the {'run' if second.kind == 'run' else 'adapter'} was made from {made_from}"
    advice = "give that as BASE, or say --any-base to take it all the same"
    if made_print and made_print in [known for _, known in bases]:
        return []
    if made_print and all(known for _, known in bases):
        raise PairError(f"{what}, whose files are not those of {names}; {advice}")
    if any(made_from == name for name, _ in bases):
        return []
    hubs = [name for name, _ in bases if _is_hub(name)]
    if _is_hub(made_from) and hubs:
        raise PairError(f"{what}, not from {names}; {advice}")
    if any(_copied(made_from, name) for name, _ in bases):
        return []
    return [
        f"TUNED says that it was made from {made_from}, which cannot be checked against {names} here; with "
        "another base the numbers mean nothing."
    ]


def _copied(one: str, other: str) -> bool:
    """Whether one is a local copy of the other on the hub, as far as its name tells."""
    return _is_hub(one) != _is_hub(other) and Path(one).name == Path(other).name


def _is_hub(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()
