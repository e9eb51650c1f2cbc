"""A sweep in sentences, the answer first. It computes nothing. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator

from clipdrift.sweeping.result import Final, Sweep, Trial
from clipdrift.texts import percent


def words(found: Sweep) -> list[str]:
    """Lines for a reader."""
    return list(_lines(found))


def _lines(found: Sweep) -> Iterator[str]:
    keep = found.asked.keep
    of = found.sets[0] if len(found.sets) == 1 else f"the worst of {', '.join(found.sets)}"
    wish = f"{found.target}: to keep at least {keep:g} % of zero-shot accuracy on {of}"
    if found.chosen is not None:
        yield f"{wish}, take {found.chosen.label}."
        yield f"- {_chosen_on(found.chosen)}"
    elif found.nearest is not None:
        yield f"{wish}: no setting that was tried does."
        yield (
            f"- Nearest comes {found.nearest.label}, which misses it by {found.nearest.missed:.1f} points. "
            f"{_chosen_on(found.nearest)}"
        )
    else:
        yield f"{wish}: nothing can be said, as every run was pruned, diverged or failed."
    if found.final is not None:
        yield from _final(found.final, keep)
    elif found.nearest is not None:
        yield "- Nothing was saved; --nearest saves it all the same."
    yield _done(found)
    for status in ("pruned", "diverged", "failed"):
        for trial in found.trials:
            if trial.status == status:
                yield f"- {status}: {trial.name}, {_epochs(trial.epochs)}: {trial.why}"
    yield from (f"- {note}" for note in found.notes)


def _chosen_on(trial: Trial) -> str:
    said = (
        f"On the images that chose: {percent(trial.accuracy)} accuracy (validation), "
        f"{percent(trial.kept)} kept"
    )
    if trial.alpha not in (None, 1):
        said += f"; unmixed, {percent(trial.whole_accuracy)} and {percent(trial.whole_kept)}"
    return f"{said}."


def _final(final: Final, keep: float) -> Iterator[str]:
    if final.test_accuracy is not None:
        yield f"- What was saved: {percent(final.test_accuracy)} of {final.test_of}."
    for name, kept in final.kept.items():
        which = "that took no part in choosing" if kept.untouched else "the very ones that chose"
        between = ""
        if kept.low is not None and kept.high is not None:
            between = f" ({kept.low:.1f} to {kept.high:.1f})"
        below = f"; that is below {keep:g} %" if kept.value < keep else ""
        yield (f"- It keeps {percent(kept.value)}{between} on {name}, {kept.images} images, {which}{below}.")


def _done(found: Sweep) -> str:
    rungs = [
        f"{sum(trial.rung == rung for trial in found.trials)} for {_epochs(epochs)}"
        for rung, epochs in enumerate(found.asked.epochs, start=1)
    ]
    return (
        f"- {found.size} settings, {len({trial.name for trial in found.trials})} tried: {', '.join(rungs)}; "
        f"the work of {found.work:.3g} whole runs of {found.asked.budget:g}."
    )


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"
