"""Summary of a mix in words. It computes nothing."""

from __future__ import annotations

from clipdrift.mixing.result import TITLES, Mixed, TaskCosine
from clipdrift.outcomes.chance import NOT_MEASURABLE
from clipdrift.repair import Step
from clipdrift.texts import decimal, percent


def words(found: Mixed) -> list[str]:
    """Lines for a reader, the most important first."""
    lines = [found.reason]
    best = max(found.runs, key=lambda run: run.step.accuracy or 0.0)
    if found.chosen is not None:
        chosen = found.mixes[found.chosen]
        lines.append(f"{_capital(_facts(found, chosen.step))}.")
        if len(chosen.runs) == 1:
            lines.append(
                f"It is {found.runs[chosen.runs[0] - 1].label} alone: no other run stayed beside it."
            )
        else:
            lines.append(f"The most accurate run alone, {best.label}: {_facts(found, best.step)}.")
    lines.append(_greedy(found))
    lines += [_pairs(found)]
    if found.chosen is not None:
        tested = found.mixes[found.chosen].step.test_accuracy
        if tested is not None:
            alone = best.step.test_accuracy
            beside = "" if alone is None else f" {best.label} alone has {alone:.1f} %, by its record."
            lines.append(
                f"Test accuracy of what was saved: {tested:.1f} %, on {found.test_of}, read once; it took no "
                f"part in any choice.{beside}"
            )
    return lines


def _facts(found: Mixed, step: Step) -> str:
    facts = [] if step.accuracy is None else [f"accuracy {step.accuracy:.1f} % on validation images"]
    facts += [
        f"retention on {name} {NOT_MEASURABLE if row.retention is None else percent(row.retention)}"
        for name, row in step.transfer.items()
    ]
    return ", ".join([*facts, f"CKA {step.value('cka'):.3f}"])


def _greedy(found: Mixed) -> str:
    inside = found.mixes["greedy"].runs
    names = ", ".join(found.runs[number - 1].label for number in inside)
    left = [row for row in found.greedy if not row.stays]
    said = f"The {TITLES['greedy']} holds {len(inside)} of {len(found.runs)} runs: {names}"
    if not left:
        return f"{said}."
    why = "accuracy fell" if found.keep is None else "accuracy fell or too little was kept"
    tried = ", ".join(
        f"{row.run} ({percent(row.accuracy)}{'' if row.kept is None else f', {percent(row.kept)} kept'})"
        for row in left
    )
    return f"{said}. Left out, as {why} with it: {tried}."


def _pairs(found: Mixed) -> str:
    known = [pair for pair in found.cosines if pair.value is not None]
    if not known:
        return "No two runs moved the image tower, so there is no angle between them."
    least, most = (key(known, key=lambda pair: pair.value or 0.0) for key in (min, max))
    if len(known) == 1:
        return (
            f"Cosine between the runs' task vectors: {_cosine(least)} (1: the same way, 0: at right angles)."
        )
    return (
        f"Cosines between task vectors (1: the same way, 0: at right angles): {_cosine(least)} (runs "
        f"{least.one} and {least.other}) to {_cosine(most)} (runs {most.one} and {most.other})."
    )


def _cosine(pair: TaskCosine) -> str:
    return decimal(pair.value or 0.0)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
