"""Advice in sentences, each made from numbers that it cites. It computes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipdrift.advice.asked import Asked
from clipdrift.advice.judging import Judged
from clipdrift.advice.proposing import Proposal
from clipdrift.advice.settings import Setting
from clipdrift.texts import one_decimal, p_value
from clipdrift.texts import rate as rate_text

if TYPE_CHECKING:
    from clipdrift.advice.picks import Picks
    from clipdrift.advice.result import Advice, PlaceAdvice


@dataclass(frozen=True)
class Cited:
    """A number in a sentence: a column of a setting's row, and its text."""

    setting: Setting
    column: str
    text: str


Part = str | Cited


@dataclass(frozen=True)
class Line:
    """A sentence; ``told`` is False where the tests do not tell, None where nothing was tested."""

    parts: tuple[Part, ...]
    told: bool | None = None

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)


def summary(advice: Advice) -> list[str]:
    """Lines for a reader, target by target, the answer first."""
    return [line.text for place in advice.places for line in lines(place, advice.asked)]


def lines(place: PlaceAdvice, asked: Asked) -> list[Line]:
    """The sentences of one target."""
    return [*answers(place, asked), *_lacks(place), *_next(place)]


def answers(place: PlaceAdvice, asked: Asked) -> list[Line]:
    """What to take and how sure that is, without what is missing and what to run next."""
    return list(_answers(place, asked))


def constraint(asked: Asked, sets: Sequence[str]) -> str:
    """``to keep at least 90 % of zero-shot accuracy on cifar100``."""
    of = sets[0] if len(sets) == 1 else f"the worst of {', '.join(sets)}"
    parts = [] if asked.keep is None else [f"to keep at least {asked.keep:g} % of zero-shot accuracy on {of}"]
    if asked.max_drop is not None:
        parts.append(
            f"to lose at most {_points(asked.max_drop)} of accuracy against the most accurate setting"
        )
    return " and ".join(parts)


def _answers(place: PlaceAdvice, asked: Asked) -> Iterator[Line]:
    cells = place.cells
    if cells is None:
        yield Line((f"{place.place}: nothing can be advised.",))
        return
    wish = constraint(asked, place.sets)
    if cells.best is None:
        nearest = cells.nearest
        assert nearest is not None
        missed = Cited(nearest, "missed", one_decimal(cells.missed_by(nearest)))
        yield Line((f"{place.place}: no setting that was run does ({wish}).",), False)
        yield Line(
            ("Nearest comes ", *_numbers(nearest, place), "; it misses by ", missed, " points."), False
        )
    else:
        yield Line((f"{place.place}: {wish}, take {cells.best.name}.",))
        yield Line((*_numbers(cells.best, place), "."))
        yield from _cost(cells, cells.best)
        yield from _runner_up(cells, asked)
        yield from _bounds(cells, cells.best, asked)
        yield from _surest(cells, place)
    if place.by_validation is not None and place.by_validation is not cells.best:
        yield Line((f"Validation accuracy would have picked {place.by_validation.name}.",), False)
    yield from _along(place)
    if place.picks is not None:
        yield from _signals(place.picks, cells)


def _numbers(setting: Setting, place: PlaceAdvice) -> Iterator[Part]:
    """``lora at 1e-3: 77.8 % accuracy (± 0.8), keeps 91.3 % (± 1.2), n = 3``."""
    what = "validation accuracy" if place.gained == "validation_accuracy" else "accuracy"
    yield f"{setting.name}: "
    yield Cited(setting, "accuracy", one_decimal(setting.mean("accuracy")))
    yield f" % {what}"
    yield from _spread(setting, "accuracy")
    yield ", keeps "
    yield Cited(setting, "kept", one_decimal(setting.mean("kept")))
    yield " %"
    yield from _spread(setting, "kept")
    yield f", n = {setting.n}"


def _spread(setting: Setting, number: str) -> Iterator[Part]:
    sd = setting.sd("accuracy" if number == "accuracy" else "kept")
    if sd is not None:
        yield from (" (± ", Cited(setting, f"{number}_sd", one_decimal(sd)), ")")


def _cost(cells: Judged, best: Setting) -> Iterator[Line]:
    top = cells.top
    if top is best:
        yield Line(("No setting is more accurate.",))
        return
    yield Line(
        (
            f"The most accurate is {top.name}: ", Cited(top, "accuracy", one_decimal(top.mean("accuracy"))),
            " %, and it keeps ", Cited(top, "kept", one_decimal(top.mean("kept"))), " %.",
        )
    )  # fmt: skip


def _runner_up(cells: Judged, asked: Asked) -> Iterator[Line]:
    other, difference = cells.runner_up, cells.difference
    if other is None or difference is None:
        yield Line(("It is the only setting that is allowed.",))
        return
    before, less = (
        ("", " points less accurate") if asked.objective == "accuracy" else ("which keeps ", " points less")
    )
    gap = Cited(other, "difference", one_decimal(difference.value))
    if difference.told is None or difference.low is None or difference.high is None or difference.p is None:
        why = f": whether it is worse cannot be told ({difference.note})."
        yield Line((f"The runner-up is {other.name}, {before}", gap, f"{less}{why}"), False)
        return
    pairing = "" if difference.pairs is None else f" over {difference.pairs} seeds"
    verdict = "" if difference.told else ": no clear difference"
    yield Line(
        (
            f"The runner-up is {other.name}, {before}", gap, f"{less}{verdict} (95 % interval ",
            Cited(other, "low", one_decimal(difference.low)), " to ",
            Cited(other, "high", one_decimal(difference.high)), ", p = ",
            Cited(other, "p", p_value(difference.p)), f", {difference.test}{pairing}).",
        ),
        difference.told,
    )  # fmt: skip


def _bounds(cells: Judged, best: Setting, asked: Asked) -> Iterator[Line]:
    for bound in cells.bounds:
        if bound.sure:
            continue
        what = (
            f"keeps {asked.keep:g} %" if bound.number == "kept" else f"stays within {asked.max_drop:g} points"
        )
        if bound.low is None or bound.high is None:
            yield Line((f"That it {what} is not certain: one seed.",), False)
            continue
        side = "of what it keeps" if bound.number == "kept" else "of what it lacks in accuracy"
        low, high = (
            Cited(best, f"{bound.number}_{end}", one_decimal(value))
            for end, value in (("low", bound.low), ("high", bound.high))
        )
        yield Line(
            (f"That it {what} is not certain: the 95 % interval {side} is ", low, " to ", high, "."), False
        )


def _surest(cells: Judged, place: PlaceAdvice) -> Iterator[Line]:
    """Where the best may break the constraint: the best of those that surely do not."""
    if cells.surest is cells.best:
        return
    if cells.surest is None:
        yield Line(("No setting surely does, by its 95 % interval.",), False)
        return
    yield Line(("The best that surely does is ", *_numbers(cells.surest, place), "."))


def _along(place: PlaceAdvice) -> Iterator[Line]:
    """The best epoch and the best mix."""
    for found, along, head, what in (
        (place.epochs, "epochs", "Of all epochs", "validation accuracy"),
        (place.mixes, "mixes", "Mixed with the backbone", "accuracy"),
    ):
        if found is None:
            continue
        if found.best is None:
            yield Line((f"{head}, none of {len(found.settings)} {along} is allowed.",), False)
            continue
        accuracy = one_decimal(found.best.mean("accuracy"))
        kept = one_decimal(found.best.mean("kept"))
        yield Line(
            (
                f"{head}, the best allowed is {found.best.name}: ", Cited(found.best, "accuracy", accuracy),
                f" % {what}, keeps ", Cited(found.best, "kept", kept), f" %, n = {found.best.n}.",
            )
        )  # fmt: skip


def _signals(picks: Picks, cells: Judged) -> Iterator[Line]:
    named = [pick for pick in picks.picks if pick.setting is not None]
    judge = picks.judge.replace("_", " ")
    near = f"within {_points(picks.margin)} of the best {judge}"
    if not named:
        yield Line((f"One cell lies {near}, so signals without transfer labels have nothing to choose.",))
        return
    right = [pick for pick in named if not pick.missed]
    said = f"Without transfer labels one would choose among the {picks.candidates} cells {near}, of which "
    said += f"{picks.allowed or 'none'} {'is' if picks.allowed == 1 else 'are'} allowed: "
    verb = "picks" if len(right) == 1 else "pick"
    said += f"{len(right) or 'none'} of {len(named)} signals {verb} an allowed one"
    same = [pick for pick in right if pick.setting is cells.best]
    if same:
        said += f", and {len(same)} the best"
    yield Line((f"{said}.",))


def _lacks(place: PlaceAdvice) -> Iterator[Line]:
    for lack in place.missing:
        yield Line((f"Missing: {lack.text}.",), False)


def _next(place: PlaceAdvice) -> Iterator[Line]:
    for proposal in place.proposals:
        yield Line((f"Next: {proposed(proposal)}.",))


def proposed(proposal: Proposal) -> str:
    """``lora at 4.47e-4, seeds 7 and 11: between 2e-4, which is allowed, and 1e-3 (...)``."""
    seeds = f"seed{'s' * (len(proposal.seeds) > 1)} {', '.join(proposal.seeds)}"
    what = (
        proposal.like.name
        if proposal.kind == "seeds"
        else f"{proposal.like.variant} at {rate_text(proposal.rate)}"
    )
    said = f"{what}, {seeds}: {proposal.why}"
    if proposal.beyond:
        said += "; this is outside the rates that were run, and no number here says what it gives"
    return said


def _points(points: float) -> str:
    return f"{points:g} point{'s' * (points != 1)}"


__all__ = ["Cited", "Line", "Part", "answers", "constraint", "lines", "proposed", "summary"]
