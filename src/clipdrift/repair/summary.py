"""Summary of a repair in words. It computes nothing."""

from __future__ import annotations

from clipdrift.outcomes.chance import NOT_MEASURABLE
from clipdrift.repair.result import Repaired
from clipdrift.repair.steps import Step
from clipdrift.texts import percent, share


def words(found: Repaired) -> list[str]:
    """Lines for a reader, the most important first."""
    first, last = found.steps[0], found.steps[-1]
    lines = [_SAID[found.kind](found)]
    if len(found.steps) > 1:
        lines.append(f"{_from_to(found, first, last)}.")
    if found.steps[-1].truncated:
        lines.append(_lost(found.steps[-1]))
    best = _best(found)
    if best is not None:
        lines.append(best)
    if found.reason:
        lines.append(found.reason)
    step = found.chosen_step
    if step is not None and found.kind == "interpolate":
        lines.append(f"{_capital(step.label)}: {', '.join(_facts(found, step))}.")
    if step is not None and step.test_accuracy is not None:
        lines.append(
            f"Test accuracy of what was saved: {step.test_accuracy:.1f} %, on {found.test_of}, read once; it "
            "took no part in any choice."
        )
    return lines


def _path(found: Repaired) -> str:
    alphas = [step.alpha or 0.0 for step in found.steps]
    return (
        f"{len(alphas)} points from alpha {min(alphas):g} to {max(alphas):g} between {found.base.name} (0) "
        f"and {found.tuned.name} (1)."
    )


def _rewound(found: Repaired) -> str:
    return f"{found.tuned.name} with blocks of {found.base.name} put back."


def _softened(found: Repaired) -> str:
    before = sum(found.steps[0].intruders.values())
    after = sum(found.steps[-1].intruders.values())
    if not before:
        return f"{found.tuned.name} has no intruder dimensions: there is nothing to scale down."
    return f"{found.tuned.name}: {before} intruder dimensions before, {after} after."


def _lost(step: Step) -> str:
    rows = step.truncated
    worst = max(rows, key=lambda row: row.lost)
    ranks = sorted({row.rank for row in rows})
    matrices = "matrix" if len(rows) == 1 else "matrices"
    return (
        f"Brought back to rank {' or '.join(map(str, ranks))}, {step.label} loses "
        f"{share(100 * step.mean_lost)} of the update of {len(rows)} softened {matrices} (Frobenius norm, "
        f"mean), at most {share(100 * worst.lost)} ({worst.kind} of block {worst.block}). The numbers are "
        "those of the adapter; --full keeps all of it."
    )


_SAID = {"interpolate": _path, "rewind": _rewound, "soften": _softened}


def _from_to(found: Repaired, first: Step, last: Step) -> str:
    before, after = _facts(found, first), _facts(found, last)
    return f"{_capital(first.label)}: {', '.join(before)}; {last.label}: {', '.join(after)}"


def _facts(found: Repaired, step: Step) -> list[str]:
    """Accuracy, retention and CKA, as far as they were measured."""
    facts = [] if step.accuracy is None else [f"accuracy {step.accuracy:.1f} %"]
    facts += [
        f"retention on {name} {NOT_MEASURABLE if row.retention is None else percent(row.retention)}"
        for name, row in step.transfer.items()
    ]
    return [*facts, f"CKA {step.value('cka'):.3f}"]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _best(found: Repaired) -> str | None:
    """Say where accuracy is highest, if that is on the way."""
    if found.kind != "interpolate" or any(step.accuracy is None for step in found.steps):
        return None
    best = max(found.steps, key=lambda step: (step.accuracy or 0.0, -(step.alpha or 0.0)))
    if best.alpha in (0.0, found.steps[-1].alpha):
        return None
    facts = ", ".join(_facts(found, best))
    return f"Accuracy ({found.accuracy_of}) is highest at alpha {best.alpha:g}: {facts}."
