"""Which step of a path to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipdrift.repair.arguments import RepairError, Wish
from clipdrift.repair.steps import Step


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        index: of the step; None: none does.
        said: why, for a reader.
        notes: what else a reader should know.
    """

    index: int | None
    said: str
    notes: tuple[str, ...] = ()


def check_wish(wish: Wish | None, sets: Sequence[str]) -> None:
    """Refuse a wish for which nothing is measured, before anything is.

    Raises:
        RepairError: retention without transfer sets, or of a set that is not among them.
    """
    if wish is None or wish.keep != "retention":
        return
    if not sets:
        raise RepairError("--keep-retention needs a transfer set on which it is tested; name one: --transfer")
    if wish.of is not None and wish.of not in sets:
        raise RepairError(f"--keep-retention {wish.of}: not tested; there are {', '.join(sets)}")


def choose(steps: Sequence[Step], wish: Wish) -> Choice:
    """The step whose alpha was asked for, or the largest alpha that keeps what is to be kept.

    Alpha 0 is the backbone itself: it keeps everything and is never chosen for that. A path need not fall
    steadily: where a smaller alpha falls below what the chosen one keeps, a note says so.

    Args:
        steps: of a path, by rising alpha.
    """
    if wish.keep is None:
        index = next(i for i, step in enumerate(steps) if step.alpha == wish.at)
        return Choice(index, f"Chosen: {wish.text}.")
    values = [step.value("cka") if wish.keep == "cka" else step.retention(wish.of) for step in steps]
    moved = [i for i, step in enumerate(steps) if step.alpha]
    kept = [i for i in moved if _keeps(values[i], wish.least)]
    if not kept:
        best = max(moved, key=lambda i: values[i] or 0.0, default=None)
        said = f"No alpha above 0 keeps {wish.text}."
        if best is not None:
            said += f" Nearest comes {steps[best].label}, with {_text(values[best], wish)}."
        return Choice(None, f"{said} A finer grid near 0 may find one; nothing was saved.")
    last = kept[-1]
    notes = []
    if dips := [steps[i] for i in moved if i < last and i not in kept]:
        notes.append(
            f"The path is not monotonic: {', '.join(f'{step.alpha:g}' for step in dips)} keep less than "
            f"alpha {steps[last].alpha:g} does; what lies between grid points is not known."
        )
    return Choice(
        last,
        f"Chosen: alpha {steps[last].alpha:g}, the largest of the grid that keeps {wish.text} "
        f"({_text(values[last], wish)}).",
        tuple(notes),
    )


def _keeps(value: float | None, least: float) -> bool:
    return value is not None and value >= least - 1e-9  # 100 x 9 / 10 may fall short of 90 by rounding


def _text(value: float | None, wish: Wish) -> str:
    if value is None:
        return "nothing to keep"
    return f"CKA {value:.3f}" if wish.keep == "cka" else f"{value:.1f} %"
