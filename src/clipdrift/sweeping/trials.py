"""Turn what a run left into a trial: its status, its best mix, what it cost. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence

from clipdrift.config import RunConfig
from clipdrift.rules.grammar import parse_rule
from clipdrift.rules.ruling import DRIFT_BELOW
from clipdrift.runs.record import Record
from clipdrift.runs.store import RunFolder
from clipdrift.sweeping.errors import SweepError
from clipdrift.sweeping.mixes import Scored, read_mixes, scored, sets_of, whole
from clipdrift.sweeping.result import Asked, Status, Trial
from clipdrift.sweeping.space import Choice, Space


def trial_of(
    folder: RunFolder, failure: str | None, space: Space, choice: Choice, rung: int, config: RunConfig,
    asked: Asked,
) -> Trial:  # fmt: skip
    """What became of a run.

    Args:
        failure: why it failed, where it did.
        config: of the run.
    """
    epochs = config.optim.epochs
    share = epochs / asked.epochs[-1]
    arm = space.arms[choice.arm]

    def made(status: Status, why: str = "", work: float = share, best: Scored | None = None) -> Trial:
        own = None if best is None else whole(record, sets)
        return Trial(
            key=config.key,
            name=space.name(choice),
            method=arm.name,
            rate=space.rates[choice.rate],
            rung=rung,
            epochs=epochs,
            status=status,
            why=why,
            work=round(work, 6),
            accuracy=None if best is None else best.look.accuracy,
            kept=None if best is None else best.kept,
            missed=None if best is None else best.missed,
            alpha=None if best is None else best.look.alpha,
            whole_accuracy=None if own is None else own.accuracy,
            whole_kept=None if own is None else own.worst(sets),
        )

    if failure is not None:
        return made("failed", failure)
    record = folder.record()
    work = share * _done(record) / epochs
    if record.status == "diverged":
        return made("diverged", record.reason or "training broke the model", work)
    sets = sets_of(record, asked.keep_on)
    if not sets:  # the same of all runs, which have one backbone and one choice of images
        raise SweepError(
            f"{' and '.join(asked.choosing)}: the backbone is not above chance on the images that choose, so "
            "what is kept is not measurable; take another transfer set, or more of its images"
        )
    own = whole(record, sets)
    if own is None:
        return made("failed", "its record has no accuracy or no retention", work)
    looks = (*(read_mixes(folder.path) if asked.mix else ()), own)
    if asked.prune is not None and record.stopped is not None:
        at = record.stopped
        why = f"after epoch {at.epoch}: {at.text}; beyond it, runs ended below {_lost(asked.prune):g} %"
        return made("pruned", why, work, scored((own,), sets, asked.keep))
    return made("done", "", work, scored(looks, sets, asked.keep))


def _lost(rule: str) -> float:
    """Retention below which runs ended that crossed a rule (docs/early-warning.md)."""
    crossed = parse_rule(rule).threshold
    return next(level for level, drift in DRIFT_BELOW.items() if drift == crossed)


def _done(record: Record) -> int:
    """Epochs that a run trained, one that was broken off included."""
    return max((point.epoch for point in record.history), default=0) or record.config.optim.epochs


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Runs that may go on or be chosen, the best first: those that keep enough by accuracy, then the others
    by what they lack."""
    able = [trial for trial in trials if trial.status == "done" and trial.accuracy is not None]
    return sorted(able, key=lambda trial: (trial.missed, -(trial.accuracy or 0), -(trial.kept or 0)))
