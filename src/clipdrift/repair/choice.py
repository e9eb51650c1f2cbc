"""Choose a step of a path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipdrift.repair.arguments import AlphaRule, RepairError
from clipdrift.repair.steps import Step
from clipdrift.texts import percent


@dataclass(frozen=True)
class ChosenStep:
    """Chosen step and the reason.

    Attributes:
        index: of the step; None: none does.
        said: why, for a reader.
        notes: what else a reader should know.
    """

    index: int | None
    said: str
    notes: tuple[str, ...] = ()


def check_alpha_rule(rule: AlphaRule | None, sets: Sequence[str]) -> None:
    """Refuse a rule for which nothing is measured, before anything is.

    Raises:
        RepairError: retention without transfer sets, or of a set that is not among them.
    """
    if rule is not None:
        check_retention("--keep-retention", rule.keep == "retention", rule.of, sets)


def check_retention(option: str, wanted: bool, of: str | None, sets: Sequence[str]) -> None:
    """Refuse an option that asks for retention where none is measured.

    Args:
        of: the set that counts; None: all.

    Raises:
        RepairError: without transfer sets, or of a set that is not among them.
    """
    if wanted and not sets:
        raise RepairError(f"{option} needs a transfer set on which it is tested; name one: --transfer")
    if wanted and of is not None and of not in sets:
        raise RepairError(f"{option} {of}: not tested; there are {', '.join(sets)}")


def choose(steps: Sequence[Step], rule: AlphaRule) -> ChosenStep:
    """The step whose alpha was asked for, or the largest alpha that keeps what is to be kept.

    Alpha 0 is the backbone itself: it keeps everything and is never chosen for that. A path need not fall
    steadily: where a smaller alpha falls below what the chosen one keeps, a note says so.

    Args:
        steps: of a path, by rising alpha.
    """
    if rule.keep is None:
        index = next(i for i, step in enumerate(steps) if step.alpha == rule.at)
        return ChosenStep(index, f"Chosen: {rule.text}.")
    values = [step.value("cka") if rule.keep == "cka" else step.retention(rule.of) for step in steps]
    moved = [i for i, step in enumerate(steps) if step.alpha]
    kept = [i for i in moved if _keeps(values[i], rule.least)]
    if not kept:
        best = max(moved, key=lambda i: values[i] or 0.0, default=None)
        said = f"No alpha above 0 keeps {rule.text}."
        if best is not None:
            said += f" Nearest comes {steps[best].label}, with {_text(values[best], rule)}."
        return ChosenStep(None, f"{said} A finer grid near 0 may find one; nothing was saved.")
    last = kept[-1]
    notes = []
    if dips := [steps[i] for i in moved if i < last and i not in kept]:
        notes.append(
            f"The path is not monotonic: {', '.join(f'{step.alpha:g}' for step in dips)} keep less than "
            f"alpha {steps[last].alpha:g} does; what lies between grid points is not known."
        )
    return ChosenStep(
        last,
        f"Chosen: alpha {steps[last].alpha:g}, the largest of the grid that keeps {rule.text} "
        f"({_text(values[last], rule)}).",
        tuple(notes),
    )


def _keeps(value: float | None, least: float) -> bool:
    return value is not None and value >= least - 1e-9  # 100 x 9 / 10 may fall short of 90 by rounding


def _text(value: float | None, rule: AlphaRule) -> str:
    if value is None:
        return "a retention that is not measurable: the backbone is not above chance"
    return f"CKA {value:.3f}" if rule.keep == "cka" else percent(value)
