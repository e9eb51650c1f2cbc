"""Successive halving: many settings for few epochs, the best of them for more. Loads no torch."""

from __future__ import annotations

from clipdrift.sweeping.errors import SweepError

ETA = 3
"""Of so many settings one goes on, for so many times the epochs."""
_RUNGS = 3
"""Runs of less than a ninth of the epochs tell little of a whole one, as most of theirs is warm-up."""
_ROUNDING = 1e-9


def rung_epochs(epochs: int, eta: int = ETA) -> tuple[int, ...]:
    """Epochs of each rung, rising to a whole run's: 2 and 6, or 2, 7 and 20."""
    found = [round(epochs / eta**power) for power in range(_RUNGS) if epochs >= eta**power]
    return tuple(sorted(set(found)))


def counts(first: int, rungs: int, eta: int = ETA) -> tuple[int, ...]:
    """How many settings each rung has, from those of the first."""
    found = [first]
    while len(found) < rungs:
        found.append(max(1, found[-1] // eta))
    return tuple(found)


def cost(settings: tuple[int, ...], epochs: tuple[int, ...]) -> float:
    """Work of so many settings on each rung, in whole runs."""
    return sum(n * own for n, own in zip(settings, epochs, strict=True)) / epochs[-1]


def first_rung(budget: float, epochs: tuple[int, ...], size: int, eta: int = ETA) -> int:
    """The most settings on the first rung with which the budget lasts to the end.

    Args:
        budget: in whole runs. size: how many settings there are.

    Raises:
        SweepError: the budget does not take one setting through all rungs.
    """
    fitting = [n for n in range(1, size + 1) if affords(budget, cost(counts(n, len(epochs), eta), epochs))]
    if not fitting:
        least = cost(counts(1, len(epochs), eta), epochs)
        raise SweepError(
            f"--budget {budget:g}: too little; one setting through all rungs ({', '.join(map(str, epochs))} "
            f"epochs) is the work of {least:.3g} whole runs"
        )
    return fitting[-1]


def affords(left: float, wanted: float) -> bool:
    return wanted <= left + _ROUNDING
