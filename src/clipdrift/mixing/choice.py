"""Which runs go into the greedy soup, and which mix is taken. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from clipdrift.mixing.result import TITLES, MixAt, MixKind
from clipdrift.repair import RepairError, Step
from clipdrift.texts import percent

KINDS: tuple[MixKind, ...] = get_args(MixKind)
_ROUNDING = 1e-9
"""100 x 9 / 10 may fall short of 90 by rounding."""


@dataclass(frozen=True)
class MixRule:
    """What may be chosen.

    Attributes:
        take: this mix and no other; None: the most accurate on validation images.
        keep: least retention in percent; None: any.
        keep_on: the transfer set that counts; None: the worst of all.
    """

    take: MixKind | None = None
    keep: float | None = None
    keep_on: str | None = None

    def enough(self, kept: float | None) -> bool:
        return self.keep is None or (kept is not None and kept >= self.keep - _ROUNDING)

    @property
    def text(self) -> str:
        where = f" on {self.keep_on}" if self.keep_on else " on every transfer set"
        return f"keeps {self.keep:g} % of the zero-shot accuracy{where}"


def parse_mix_rule(take: str | None = None, keep: float | None = None, keep_on: str | None = None) -> MixRule:
    """Check what was asked for.

    Raises:
        RepairError: an unknown mix, a percentage that is none, a set without a percentage.
    """
    if take is not None and take not in KINDS:
        raise RepairError(f"--take {take}: legal are {', '.join(KINDS)}; none: the most accurate of them")
    if keep is not None and not (keep > 0 and math.isfinite(keep)):
        raise RepairError(f"--keep {keep:g}: write a percentage above 0, as in 90")
    if keep_on is not None and keep is None:
        raise RepairError("--keep-on names the set that --keep counts on; give --keep too, as in --keep 90")
    return MixRule(next((kind for kind in KINDS if kind == take), None), keep, keep_on)


def kept(retention: Mapping[str, float | None], rule: MixRule) -> float | None:
    """The retention that counts: on one set, or the least of all where it is measurable; None: none is."""
    rows = retention if rule.keep_on is None else {rule.keep_on: retention[rule.keep_on]}
    found = [value for value in rows.values() if value is not None]
    return min(found) if found else None


def kept_at(step: Step, rule: MixRule) -> float | None:
    """:func:`kept` of a model that was measured."""
    return kept({name: row.retention for name, row in step.transfer.items()}, rule)


@dataclass(frozen=True)
class Standing:
    """A soup as it stands: validation accuracy and the retention that counts, in percent."""

    accuracy: float
    kept: float | None


def greedy_order(standings: Sequence[Standing], rule: MixRule) -> list[int]:
    """Positions of the runs as the greedy soup tries them.

    By validation accuracy, the highest first (Wortsman et al. 2022). Under a constraint runs that keep enough
    come before those that do not, and of those that which keeps most comes first.
    """

    def rank(at: int) -> tuple[bool, float, float]:
        one = standings[at]
        enough = rule.enough(one.kept)
        nearest = 0.0 if enough else -(one.kept or 0.0)
        return not enough, nearest, -one.accuracy

    return sorted(range(len(standings)), key=rank)


def stays(before: Standing, after: Standing, rule: MixRule) -> bool:
    """Whether a run stays in the soup: its accuracy does not fall, and enough is kept.

    As long as the soup without it keeps too little, it stays if more is kept with it.
    """
    if rule.enough(after.kept):
        return not rule.enough(before.kept) or after.accuracy >= before.accuracy - _ROUNDING
    return not rule.enough(before.kept) and (after.kept or 0.0) > (before.kept or 0.0)


def choose(mixes: Mapping[MixKind, MixAt], rule: MixRule) -> tuple[MixKind | None, str]:
    """The mix to be saved, and why, for a reader; None: none keeps enough.

    The most accurate on validation images; of equals that which keeps more.
    """
    legal = [kind for kind in mixes if rule.take in (None, kind)]
    enough = [kind for kind in legal if rule.enough(kept_at(mixes[kind].step, rule))]
    if not enough:
        best = max(legal, key=lambda kind: kept_at(mixes[kind].step, rule) or 0.0)
        value = kept_at(mixes[best].step, rule)
        nearest = "nothing that is measurable" if value is None else percent(value)
        return None, (
            f"No mix {rule.text}. Nearest comes {_named(best)}, with {nearest}; `clipdrift interpolate` can "
            "take it nearer to the backbone. Nothing was saved."
        )

    def rank(kind: MixKind) -> tuple[float, float]:
        step = mixes[kind].step
        return step.accuracy or 0.0, kept_at(step, rule) or 0.0

    best = max(enough, key=rank)
    if rule.take:
        also = "" if rule.keep is None else f"; it {rule.text}"
        return best, f"Chosen: {_named(best)}, as asked for{also}."
    equals = sum(rank(kind)[0] == rank(best)[0] for kind in enough)
    why = (
        "the most accurate on validation images" if equals == 1 else "as accurate on validation images as any"
    )
    that = "" if rule.keep is None else f" of those of which each {rule.text}"
    most = "" if equals == 1 else "; of equals it keeps most"
    return best, f"Chosen: {_named(best)}, {why}{that}{most}."


def _named(kind: MixKind) -> str:
    return TITLES[kind] if kind == "stock" else f"the {TITLES[kind]}"
