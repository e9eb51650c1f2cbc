"""End of a sweep: choose, save, test on images that took no part, write the card, ask for advice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from clipdrift.advice import advise
from clipdrift.decision import CardFacts
from clipdrift.decision.carding import card
from clipdrift.errors import ClipdriftError
from clipdrift.repair.interpolating import interpolate
from clipdrift.reporting.card import write_card
from clipdrift.runs.files import replace_folder, write_text
from clipdrift.runs.layout import WEIGHTS
from clipdrift.runs.reporter import Reporter
from clipdrift.runs.store import Store
from clipdrift.study.engines.jobs import StudyOptions
from clipdrift.study.tables import PATH
from clipdrift.sweeping.mixes import sets_of
from clipdrift.sweeping.mixing import HEAD
from clipdrift.sweeping.planning import Plan
from clipdrift.sweeping.result import FILE, Final, Kept, Sweep, Trial
from clipdrift.sweeping.trials import ranked

CHOSEN = "chosen"
"""Folder, in the sweep's, of what was chosen: its model, its card, how it was mixed."""


def finish(
    plan: Plan,
    trials: Sequence[Trial],
    how: StudyOptions,
    reporter: Reporter,
    nearest: bool,
    command: str,
) -> Sweep:
    """Choose among all runs of all rungs, save that, and write ``sweep.json``.

    Args:
        nearest: save what comes nearest where nothing keeps enough.
    """
    best = next(iter(ranked(trials)), None)
    allowed = best is not None and not best.missed
    final = None
    if best is not None and (allowed or nearest):
        final = _before(how.out, best) or _final(plan, best, how, reporter, command)
    elif (how.out / CHOSEN).exists():
        shutil.rmtree(how.out / CHOSEN)  # of an earlier sweep in this folder, which asked for less
    found = Sweep(
        target=plan.base.data.target.name,
        sets=_sets(plan, trials, how.out),
        asked=plan.asked,
        size=plan.space.size,
        planned=plan.planned,
        trials=tuple(trials),
        chosen=best if allowed else None,
        nearest=None if allowed else best,
        final=final,
        advice=_advice(plan, how.out),
        notes=plan.notes,
        folder=str(how.out),
    )
    write_text(how.out / FILE, json.dumps(found.to_dict(), indent=1, ensure_ascii=False) + "\n")
    return found


def _sets(plan: Plan, trials: Sequence[Trial], out: Path) -> tuple[str, ...]:
    """Sets that counted, by the first run that has a record."""
    for trial in trials:
        if trial.status != "failed":
            return sets_of(Store(out).folder(trial.key).record(), plan.asked.keep_on)
    return tuple(spec.name for spec in plan.rest if plan.asked.keep_on in (None, spec.name))


def _advice(plan: Plan, out: Path) -> tuple[str, ...]:
    try:
        return tuple(advise(out, keep=plan.asked.keep, transfer=plan.asked.keep_on).summary())
    except ClipdriftError as error:  # no run has ended well; the sweep itself says which and why
        return (str(error),)


def _before(out: Path, best: Trial) -> Final | None:
    """What was saved before, where the same was chosen then."""
    try:
        data = json.loads((out / FILE).read_text(encoding="utf-8"))
        then = Sweep.model_validate({k: v for k, v in data.items() if k not in ("work", "answered")})
    except (OSError, ValueError):
        return None
    same = then.chosen or then.nearest
    there = (out / CHOSEN / WEIGHTS).is_dir() and (out / CHOSEN / "README.md").is_file()
    return (
        then.final
        if there and same is not None and (same.key, same.alpha) == (best.key, best.alpha)
        else None
    )


def _final(plan: Plan, best: Trial, how: StudyOptions, reporter: Reporter, command: str) -> Final:
    run, place = Store(how.out).folder(best.key), how.out / CHOSEN
    record = run.record()
    shutil.rmtree(place, ignore_errors=True)
    if record.artefacts.get("kind") == HEAD:  # nothing lies between it and its backbone
        made = place.with_name(f".{CHOSEN}.tmp")
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(run.path / WEIGHTS, made)
        place.mkdir(parents=True)
        replace_folder(place / WEIGHTS, made)
        accuracy = None if record.best is None else record.best.test_accuracy
        count = record.target.images["test"].count if "test" in record.target.images else 0
        tested = f"{count} test images of {plan.base.data.target.name}"
    else:
        assert best.alpha is not None
        mixed = interpolate(
            run.path, alphas=sorted({best.alpha, 1.0}), save_at=best.alpha, out=place, cache=how.cache,
            device=how.device, reporter=reporter,
        )  # fmt: skip
        mixed.save(run.path / PATH)  # where advice and reports look for it
        assert mixed.chosen_step is not None
        accuracy, tested = mixed.chosen_step.test_accuracy, mixed.test_of
    facts = card(
        record.config.model.path or record.config.model.name,
        run.path if record.artefacts.get("kind") == HEAD else place / WEIGHTS,
        plan.base.data.target,
        transfer=plan.rest,
        seed=plan.base.data.seed,
        any_base=True,
        cache=how.cache,
        device=how.device,
        skip_bad=plan.base.data.skip_bad_images,
        reporter=reporter,
    )
    write_card(facts, place / "README.md", command or f"clipdrift sweep ... --out {how.out}")
    return Final(
        test_accuracy=accuracy,
        test_of=tested,
        kept=_kept(plan, facts),
        model=str(place / WEIGHTS),
        card=str(place / "README.md"),
    )


def _kept(plan: Plan, facts: CardFacts) -> dict[str, Kept]:
    found = {}
    for spec in plan.rest:
        estimate = facts.estimates.get(f"retention/{spec.name}")
        if estimate is not None:
            found[spec.name] = Kept(
                value=estimate.value,
                low=estimate.low,
                high=estimate.high,
                images=facts.comparison.transfer[spec.name].images,
                untouched=spec.skip_per_class is not None,
            )
    return found
