"""Runs that would tell more: rates where the frontier is open, seeds where a difference is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from clipdrift.advice.asked import Asked
from clipdrift.advice.judging import Judged, seeds_for_bound, seeds_needed
from clipdrift.advice.settings import Setting
from clipdrift.texts import rate as rate_text

Kind = Literal["between", "edge", "seeds"]

FINE = 1.25
"""Rates that differ by no more than this factor have nothing worth a run between them."""
STEP = math.sqrt(10)
"""Factor to the next rate where no other rate suggests one."""
MANY = 20
"""Seeds beyond which a difference is not worth telling."""
AT_ONCE = 5
"""Seeds that are added at most."""
LEAST = 3
"""Seeds that a setting should have."""


@dataclass(frozen=True)
class Proposal:
    """Runs worth doing.

    Attributes:
        kind: a rate between two, a rate beyond those run, or more seeds.
        like: the setting whose configuration they repeat, but for rate and seed.
        rate, seeds: of the new runs, one for each seed.
        why: in words.
        beyond: whether the rate lies outside the rates that were run, where no number here holds.
    """

    kind: Kind
    like: Setting
    rate: float
    seeds: tuple[str, ...]
    why: str
    beyond: bool = False


@dataclass(frozen=True)
class Tried:
    """Rates and seeds of a place that were run, finished or not.

    Attributes:
        rates: family -> its rates, ascending. every: all rates of the place. seeds: all seeds of the table.
    """

    rates: Mapping[str, tuple[float, ...]]
    every: tuple[float, ...]
    seeds: tuple[str, ...]


def proposals(judged: Judged, asked: Asked, tried: Tried) -> list[Proposal]:
    """What to run next, the most promising first."""
    if judged.best is None:
        return list(_towards(judged, tried))
    open_rates = [*_between(judged, asked, tried), *_edges(judged.best, asked, tried)]
    return [*open_rates, *_seeds(judged, asked, tried)]


def middle(first: float, second: float) -> float:
    """Geometric middle of two rates, to three digits that count."""
    return float(f"{math.sqrt(first * second):.3g}")


def _between(judged: Judged, asked: Asked, tried: Tried) -> list[Proposal]:
    """Rates between an allowed cell and a forbidden neighbour that has more than the best allowed one."""
    best = judged.best
    assert best is not None
    number = asked.objective
    found: list[tuple[float, Proposal]] = []
    for family, rates in tried.rates.items():
        at = {s.rate: s for s in judged.settings if s.family == family}
        for low, high in itertools.pairwise(rates):
            if high / low <= FINE:
                continue
            for inside, outside in ((at.get(low), at.get(high)), (at.get(high), at.get(low))):
                if inside is None or judged.missed_by(inside):
                    continue
                there = high if inside.rate == low else low
                if outside is None:
                    worth, said = inside is best, "no run finished"
                else:
                    worth = bool(judged.missed_by(outside)) and outside.mean(number) > best.mean(number)
                    more = "accuracy" if number == "accuracy" else "kept"
                    said = f"{outside.mean(number):.1f} % {more}, not allowed"
                if worth:
                    why = (
                        f"between {rate_text(inside.rate)}, which is allowed, and {rate_text(there)} ({said})"
                    )
                    gain = math.inf if outside is None else outside.mean(number)
                    found.append(
                        (gain, Proposal("between", inside, middle(low, high), _ordered(inside.seeds), why))
                    )
    return [proposal for _, proposal in sorted(found, key=lambda pair: -pair[0])]


def _edges(best: Setting, asked: Asked, tried: Tried) -> Iterator[Proposal]:
    """A rate beyond those run, where the best one is the first or last of its kind.

    Of a kind with one rate, on the side where the objective is expected to rise: higher rates learn more,
    lower ones keep more.
    """
    rates = tried.rates[best.family]
    sides = [side for side, end in ((1, rates[-1]), (-1, rates[0])) if best.rate == end]
    if len(rates) == 1:
        sides = [1 if asked.objective == "accuracy" else -1]
    for side in sides:
        yield _beyond(best, rates, side, tried, f"the best allowed, {best.name}, lies")


def _beyond(like: Setting, rates: Sequence[float], side: int, tried: Tried, why: str) -> Proposal:
    end = rates[-1] if side > 0 else rates[0]
    if len(rates) > 1:
        factor = rates[-1] / rates[-2] if side > 0 else rates[1] / rates[0]
    else:
        further = [rate for rate in tried.every if (rate > end if side > 0 else rate < end)]
        factor = min((max(rate / end, end / rate) for rate in further), default=STEP)
    new = float(f"{end * factor**side:.3g}")
    edge = "the only rate run" if len(rates) == 1 else f"the {'highest' if side > 0 else 'lowest'} rate run"
    return Proposal("edge", like, new, _ordered(like.seeds), f"{why} at {edge} of its kind", beyond=True)


def _towards(judged: Judged, tried: Tried) -> Iterator[Proposal]:
    """Where nothing is allowed: from the nearest cell to its better neighbour, or beyond the lowest rate."""
    nearest = judged.nearest
    assert nearest is not None
    rates = tried.rates[nearest.family]
    if nearest.rate == rates[0]:
        yield _beyond(nearest, rates, -1, tried, f"the nearest, {nearest.name}, lies")
    kin = [s for s in judged.settings if s.family == nearest.family and s.rate != nearest.rate]
    beside = [
        s for s in kin if not any(min(s.rate, nearest.rate) < r < max(s.rate, nearest.rate) for r in rates)
    ]
    if beside:
        other = min(beside, key=judged.missed_by)
        if max(other.rate, nearest.rate) / min(other.rate, nearest.rate) > FINE:
            why = f"between {rate_text(nearest.rate)}, which comes nearest, and {rate_text(other.rate)}"
            yield Proposal("between", nearest, middle(nearest.rate, other.rate), _ordered(nearest.seeds), why)


def _seeds(judged: Judged, asked: Asked, tried: Tried) -> Iterator[Proposal]:
    """More seeds where the runner-up, or the constraint, cannot be told."""
    best, other = judged.best, judged.runner_up
    assert best is not None
    wanted, second, reasons = 0, 0, []
    if best.n < LEAST:
        wanted = LEAST - best.n
        reasons.append(f"{'one seed' if best.n == 1 else f'{best.n} seeds'} of {best.name}")
    if other is not None and judged.difference is not None and not judged.difference.told:
        need = seeds_needed(best, other, asked.objective)
        if other.n < LEAST or (need is not None and need <= MANY):
            most = max(LEAST, need or 0) if need is None or need <= MANY else LEAST
            second = min(AT_ONCE, max(1, most - other.n))
            wanted = max(wanted, min(AT_ONCE, max(1, most - best.n)))
            reasons.append(f"no clear difference between {best.name} and {other.name}")
    for bound in judged.bounds:
        limit = asked.keep if bound.number == "kept" else judged.top.mean("accuracy") - (asked.max_drop or 0)
        need = None if bound.sure or limit is None else seeds_for_bound(best, bound.number, limit)
        if need is not None and need <= MANY:
            wanted = max(wanted, min(AT_ONCE, max(1, need - best.n)))
            reasons.append("the 95 % interval of its mean includes the bound")
    if not wanted:
        return
    new = _unused(tried.seeds, {*best.seeds, *(other.seeds if second and other else ())})
    names = [next(new) for _ in range(max(wanted, second))]
    why = "; ".join(reasons)
    yield Proposal("seeds", best, best.rate, tuple(names[:wanted]), why)
    if second and other is not None:
        yield Proposal("seeds", other, other.rate, tuple(names[:second]), why)


def _unused(known: Sequence[str], taken: set[str]) -> Iterator[str]:
    """Seeds that the study has elsewhere, then others, counted from 1."""
    yield from (seed for seed in known if seed not in taken)
    number = 0
    while True:
        number += 1
        if str(number) not in taken and str(number) not in known:
            yield str(number)


def _ordered(seeds: Sequence[str]) -> tuple[str, ...]:
    """Each seed once, numbers by their size."""
    return tuple(sorted(set(seeds), key=lambda seed: (not seed.isdecimal(), len(seed), seed)))
