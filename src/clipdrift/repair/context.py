"""Everything a repair works on: a live model, the images it is read on, the sides of the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from clipdrift.comparison import ProbeImages, Shape, Side
from clipdrift.comparison.models import OpenedModel
from clipdrift.comparison.pairs import ModelPair
from clipdrift.model.towers import tower_of
from clipdrift.model.weights import same_statistics
from clipdrift.repair import RepairError
from clipdrift.repair.endpoints import Endpoints, adapter_ends, plain_ends
from clipdrift.repair.low_rank import why_not_low_rank
from clipdrift.repair.merging import has_adapters
from clipdrift.repair.step_measurer import StepMeasurer


@dataclass(frozen=True, eq=False)
class RepairContext:
    """Everything a repair works on.

    Attributes:
        measurer: the live model and what it is read on.
        base: the backbone as it was opened.
        adapter: folder, hub id or run of the adapter whose scaled copy is to be saved.
        sides: BASE and TUNED as they stand in a result.
        of_head: what a reader should know of the head on the way to the backbone; empty: nothing.
        accuracy_of, test_of: which images accuracy and test accuracy are of; empty: there is none.
    """

    measurer: StepMeasurer
    base: OpenedModel
    adapter: str
    sides: tuple[Side, Side]
    shape: Shape
    images: ProbeImages
    accuracy_of: str
    test_of: str
    notes: tuple[str, ...]
    of_head: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """Fields of a result."""
        return {
            "base": self.sides[0],
            "tuned": self.sides[1],
            "shape": self.shape,
            "images": self.images,
            "accuracy_of": self.accuracy_of,
            "test_of": self.test_of,
            "form": self.measurer.endpoints.form,
            "notes": self.notes,
        }


AdapterUse = Literal["scaled", "merged", "low rank"]
"""What is moved of an adapted model: the adapter, its merged weights, or its two factors anew."""


def ends_of(pair: ModelPair, adapters: AdapterUse) -> tuple[Endpoints, list[str]]:
    """The live model between both sides, and what a reader should know of it.

    An adapter from files on a plain backbone stays one, unless its weights are to be ``merged``; of
    everything else merged weights are moved, in a copy where the model is not ours.

    Raises:
        RepairError: running statistics of batch normalisation that differ.
    """
    base, tuned = pair.base, pair.tuned
    if not same_statistics(base.model, tuned.model):
        raise RepairError(
            f"{tuned.name}: the running statistics of its batch normalisation are not those of {base.name}; "
            "between the two, and with blocks put back, they would have to be taken anew, which is not done"
        )
    own = tuned.kind != "in memory"
    notes = []
    if has_adapters(tuned.model) and adapters != "merged":
        scaled = None
        unfit = why_not_low_rank(tuned.model) if adapters == "low rank" else ""
        if (
            own
            and not unfit
            and tuned.clip is not None
            and base.clip is not None
            and not has_adapters(base.model)
        ):
            scaled = adapter_ends(base.model, tuned.clip)
        if scaled is not None:
            return scaled, []
        why = unfit or ("of its kind cannot be scaled" if own else "in memory are not scaled")
        notes.append(f"TUNED's adapters {why}: their merged weights are moved, and saved in full.")
    endpoints = plain_ends(base.model, tuned.model, tuned.clip, own)
    return endpoints, [*notes, *endpoints.notes]


def side_of(side: OpenedModel, pair: ModelPair, **changes: Any) -> Side:
    """One of the two as it stands in a result."""
    found = type(tower_of(side.model).model)
    said = {
        "name": side.name,
        "kind": side.kind,
        "fingerprint": side.fingerprint,
        "grafted": side.grafted,
        **changes,
    }
    return Side(
        **said,
        library=f"{found.__module__.partition('.')[0]} {found.__name__}",
        parameters=sum(weight.numel() for weight in pair.before.values()),
    )
