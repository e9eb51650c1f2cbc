"""Judge settings by a constraint: the frontier, the best allowed one, and whether it beats the next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from clipdrift.advice.asked import Asked, Number
from clipdrift.advice.settings import Setting
from clipdrift.analysis.choosing import pareto
from clipdrift.analysis.effects import flat, paired_t, welch
from clipdrift.analysis.means import LEVEL, averaged
from clipdrift.analysis.permutation import UndeterminedError


@dataclass(frozen=True)
class Difference:
    """One setting's number minus another's.

    Attributes:
        value: points, of the means (of the pairs where it is paired).
        low, high: 95 % interval; None where there is none.
        p: two-sided; test: its name. pairs: how many seeds both have, where they were paired.
        told: whether the two can be told apart (p < 0.05); None where nothing can be tested.
        note: why there is no test.
    """

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    test: str = ""
    pairs: int | None = None
    told: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Bound:
    """How surely the best setting satisfies the constraint.

    Attributes:
        low, high: 95 % interval of the mean that is bounded.
        sure: the whole interval is on the allowed side; False: it is not; None: there is no interval.
    """

    number: Number
    low: float | None
    high: float | None
    sure: bool | None


@dataclass(frozen=True)
class Judged:
    """Settings of one kind, judged.

    Attributes:
        settings: all; frontier: those that no other beats in both numbers, by accuracy.
        top: the most accurate. allowed: those that satisfy the constraint, the best first.
        missed: points by which each breaks it, in the order of ``settings``.
        difference: best minus runner-up in the objective; None where one is allowed at most.
        bounds: how surely the best satisfies each part of the constraint.
        surest: the best of those that surely satisfy it; the best itself, another, or None.
    """

    settings: tuple[Setting, ...]
    frontier: tuple[Setting, ...]
    top: Setting
    allowed: tuple[Setting, ...]
    missed: tuple[float, ...]
    difference: Difference | None
    bounds: tuple[Bound, ...]
    surest: Setting | None

    @property
    def best(self) -> Setting | None:
        return self.allowed[0] if self.allowed else None

    @property
    def runner_up(self) -> Setting | None:
        return self.allowed[1] if len(self.allowed) > 1 else None

    @property
    def nearest(self) -> Setting | None:
        """The setting that breaks the constraint least; None where one satisfies it."""
        if self.allowed:
            return None
        return self.settings[int(np.argmin(self.missed))]

    def missed_by(self, setting: Setting) -> float:
        return self.missed[self.settings.index(setting)]


def judged(settings: Sequence[Setting], asked: Asked) -> Judged | None:
    """Judge settings by their means over seeds; None where there are none."""
    if not settings:
        return None
    gained = np.array([s.mean("accuracy") for s in settings])
    kept = np.array([s.mean("kept") for s in settings])
    on_front = pareto(gained, kept)
    frontier = sorted(
        (s for s, inside in zip(settings, on_front, strict=True) if inside), key=lambda s: s.mean("accuracy")
    )
    top = settings[int(gained.argmax())]
    missed = tuple(
        asked.missed(a, k, float(gained.max())) for a, k in zip(gained.tolist(), kept.tolist(), strict=True)
    )
    number = asked.objective
    other: Number = "kept" if number == "accuracy" else "accuracy"
    inside = [s for s, points in zip(settings, missed, strict=True) if not points]
    allowed = tuple(sorted(inside, key=lambda s: (-s.mean(number), -s.mean(other))))
    difference = difference_of(allowed[0], allowed[1], number) if len(allowed) > 1 else None
    bounds = tuple(_bounds(allowed[0], top, asked)) if allowed else ()
    surest = next((s for s in allowed if all(bound.sure for bound in _bounds(s, top, asked))), None)
    return Judged(tuple(settings), tuple(frontier), top, allowed, missed, difference, bounds, surest)


def difference_of(first: Setting, second: Setting, number: Number) -> Difference:
    """The first's number minus the second's: paired over seeds where both have the same ones, else Welch.

    The interval is Student's t of the differences, or Welch's with Satterthwaite's degrees of freedom.
    """
    a, b = (dict(zip(s.seeds, s.values(number), strict=True)) for s in (first, second))
    paired = set(a) == set(b) and len(a) == first.n == second.n and len(a) > 1
    value = first.mean(number) - second.mean(number)
    try:
        if paired:
            d = np.array([a[seed] - b[seed] for seed in a])
            test = paired_t(d)
            error, freedom = d.std(ddof=1) / math.sqrt(len(d)), float(len(d) - 1)
        else:
            x, y = (np.array(s.values(number)) for s in (first, second))
            test = welch(x, y)
            parts = [v.var(ddof=1) / len(v) for v in (x, y)]
            error = math.sqrt(sum(parts))
            freedom = sum(parts) ** 2 / sum(q**2 / (len(v) - 1) for q, v in zip(parts, (x, y), strict=True))
    except UndeterminedError as reason:
        few = min(first.n, second.n)
        why = "one seed" if few < 2 else str(reason)
        return Difference(value, note=why)
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * float(error)
    return Difference(
        value, value - half, value + half, test.p, test.test, len(a) if paired else None, test.p < 1 - LEVEL
    )


def seeds_needed(first: Setting, second: Setting, number: Number) -> int | None:
    """Seeds of each at which an interval as wide as today's spread makes it would leave 0 out.

    None where the spread is not known, the means are equal, or more than :data:`MOST_SEEDS` were needed.
    """
    gap = abs(first.mean(number) - second.mean(number))
    if gap == 0 or min(first.n, second.n) < 2:
        return None
    if first.seeds == second.seeds:
        noise, sides = np.subtract(first.values(number), second.values(number)).std(ddof=1), 1
    else:
        noise, sides = math.hypot(first.sd(number) or 0, second.sd(number) or 0), 2
    return _count(float(noise), gap, sides)


def seeds_for_bound(setting: Setting, number: Number, bound: float) -> int | None:
    """Seeds at which the interval of a mean would leave a bound out, at today's spread; None likewise."""
    spread, gap = setting.sd(number), abs(setting.mean(number) - bound)
    return None if spread is None or gap == 0 else _count(spread, gap, 1)


MOST_SEEDS = 1000


def _count(noise: float, gap: float, sides: int) -> int | None:
    sizes = range(2, MOST_SEEDS + 1)
    half = (float(stdtrit(sides * (n - 1), (1 + LEVEL) / 2)) * noise / math.sqrt(n) for n in sizes)
    return next((n for n, width in zip(sizes, half, strict=True) if width <= gap), None)


def _bounds(best: Setting, top: Setting, asked: Asked) -> Iterator[Bound]:
    if asked.keep is not None:
        fields = averaged(np.array(best.kept), "seed", "seeds")
        low, high = fields.get("low"), fields.get("high")
        constant = best.n > 1 and flat(np.array(best.kept))
        sure = True if constant else None if low is None else bool(low >= asked.keep)
        yield Bound("kept", low, high, sure)
    if asked.max_drop is not None:
        if best is top:
            yield Bound("accuracy", None, None, True)
        else:
            gap = difference_of(top, best, "accuracy")
            sure = None if gap.high is None else gap.high <= asked.max_drop
            yield Bound("accuracy", gap.low, gap.high, sure)
