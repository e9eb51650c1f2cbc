"""A run's mixes with its backbone: which alpha to look at next, which one is best. Loads no torch.

``theta(alpha) = (1 - alpha) theta_0 + alpha theta_1``; alpha 1 is the run itself, whose record has its
numbers. What was looked at lies in ``mixes.json`` in the run's folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from clipdrift.config.base import Frozen
from clipdrift.outcomes.chance import measurable
from clipdrift.runs.files import write_text
from clipdrift.runs.frozen import Wording, read_model
from clipdrift.runs.record import Record
from clipdrift.sweeping.errors import SweepError

FILE = "mixes.json"
STEPS = 20
"""Alphas are multiples of one twentieth."""
_ROUNDING = 1e-9
_SCHEMA = 1


class Look(Frozen):
    """A mix as it was measured; percent."""

    step: int = Field(ge=1, le=STEPS, description="Alpha, in twentieths.")
    accuracy: float = Field(description="On the validation images.")
    kept: dict[str, float] = Field(description="By transfer set, of the images that choose.")

    @property
    def alpha(self) -> float:
        return self.step / STEPS

    def worst(self, sets: Iterable[str]) -> float:
        return min(self.kept[name] for name in sets)


class Mixes(Frozen):
    """All mixes of a run that were looked at."""

    schema_version: int = _SCHEMA
    looks: tuple[Look, ...] = ()


def read_mixes(folder: Path) -> tuple[Look, ...]:
    """Mixes of a run that were looked at; none where there is no file, or a damaged one."""
    if not (folder / FILE).is_file():
        return ()
    words = Wording(
        schema=_SCHEMA,
        error=SweepError,
        missing="removed while it was read",
        foreign=f"schema {{found}}, this version of clipdrift reads {_SCHEMA}",
        again="it is measured again",
    )
    try:
        return read_model(folder / FILE, Mixes, words).looks
    except SweepError:
        return ()


def write_mixes(folder: Path, looks: Sequence[Look]) -> None:
    ordered = tuple(sorted(looks, key=lambda look: look.step))
    write_text(folder / FILE, Mixes(looks=ordered).model_dump_json() + "\n")


def sets_of(record: Record, transfer: str | None = None) -> tuple[str, ...]:
    """Transfer sets of a run that count: those with classes on which the backbone is above chance.

    Args:
        transfer: the only one that counts.
    """
    found = tuple(
        spec.name
        for spec in record.config.data.transfer
        if not spec.retrieval and measurable(record.chance_p(spec.name)) and transfer in (None, spec.name)
    )
    return tuple(name for name in found if record.backbone.zero_shot.get(name))


def whole(record: Record, sets: Iterable[str]) -> Look | None:
    """The run itself; None where its training broke the model."""
    best = record.best
    if best is None or best.validation_accuracy is None:
        return None
    kept = {name: best.transfer[name].retention for name in sets if name in best.transfer}
    known = {name: value for name, value in kept.items() if value is not None}
    if not known or len(known) < len(tuple(sets)):
        return None
    return Look(step=STEPS, accuracy=best.validation_accuracy, kept=known)


def next_step(kept: Mapping[int, float], keep: float) -> int | None:
    """The alpha to look at next, to find the largest that keeps enough; None: it is found.

    By halving, as what is kept falls with alpha on nearly every path; where it does not, what is found keeps
    enough, and a larger one may do so too.

    Args:
        kept: percent, by alpha in twentieths; the run's own is among them.
    """
    enough = [step for step, value in kept.items() if value >= keep - _ROUNDING]
    low = max(enough, default=0)
    high = min((step for step in kept if step > low), default=None)
    if high is None or high - low <= 1:
        return None
    return (low + high) // 2


@dataclass(frozen=True)
class Scored:
    """What a run can be taken for.

    Attributes:
        look: the most accurate mix that keeps enough, else the one that keeps most.
        kept: the worst of the sets that count, percent.
        missed: points by which it keeps too little; 0: enough.
    """

    look: Look
    kept: float
    missed: float


def scored(looks: Sequence[Look], sets: Sequence[str], keep: float) -> Scored:
    """The most accurate of a run's mixes that keeps enough, or the one that keeps most."""
    enough = [look for look in looks if look.worst(sets) >= keep - _ROUNDING]
    if enough:
        best = max(enough, key=lambda look: (look.accuracy, look.step))
        return Scored(best, best.worst(sets), 0.0)
    nearest = max(looks, key=lambda look: (look.worst(sets), look.accuracy))
    return Scored(nearest, nearest.worst(sets), keep - nearest.worst(sets))
