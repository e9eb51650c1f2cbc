"""Do a sweep, or go on with it: proposals, rungs, the choice, and what it ends with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipdrift.config import RunConfig
from clipdrift.runs.layout import cache_folder
from clipdrift.runs.store import Store
from clipdrift.study.engines.here import run_here
from clipdrift.study.engines.jobs import Engine, StudyJob, StudyOptions
from clipdrift.study.folder import Manifest, PlannedRun, write_study_manifest
from clipdrift.sweeping.errors import SweepError
from clipdrift.sweeping.finishing import finish
from clipdrift.sweeping.halving import ETA, affords, counts
from clipdrift.sweeping.mixing import mixer_of
from clipdrift.sweeping.planning import ConfigLike, Plan, plan_of
from clipdrift.sweeping.proposing import Proposer
from clipdrift.sweeping.result import Sweep, Trial
from clipdrift.sweeping.space import METHODS, RATES, Choice, MethodLike
from clipdrift.sweeping.trials import ranked, trial_of
from clipdrift.sweeping.watching import SilentSweepWatcher, SweepWatcher
from clipdrift.training.preparation import Resolver
from clipdrift.training.trackers import known

NAME = "sweep"
QUESTIONS = ("rate", "methods", "predictors", "choosing")
BATCH = 4


def sweep(
    config: ConfigLike,
    out: str | Path,
    *,
    keep: float = 90.0,
    budget: float = 12.0,
    methods: Sequence[MethodLike] = METHODS,
    rates: str | float | Iterable[float] = RATES,
    ranks: Sequence[int] = (),
    keep_on: str | None = None,
    mix: bool = True,
    prune: bool = True,
    choosing: int | None = None,
    nearest: bool = False,
    eta: int = ETA,
    batch: int = BATCH,
    seed: int = 0,
    cache: str | Path | None = None,
    device: str = "auto",
    retry_failed: bool = False,
    auto_batch: bool = False,
    track: Sequence[str] = (),
    deterministic: bool = False,
    engine: Engine = run_here,
    watcher: SweepWatcher | None = None,
    command: str = "",
) -> Sweep:
    """Find the most accurate fine-tuning that keeps enough zero-shot ability, with a budget of runs.

    Optuna proposes methods, ranks and rates; each is trained for few epochs, the best third of them for
    three times as many, up to the epochs of ``config``. A run that keeps too little is mixed with its
    backbone until it keeps enough. The most accurate on validation images is saved, and
    tested on images that took no part.

    Runs lie in ``out`` as those of any study do: the same call finds them done and proposes the same again.

    Args:
        config: what all runs have in common: a RunConfig, its content, or a TOML file. Its method and rate do
            not count; its epochs are those of a whole run.
        out: the sweep's folder; a study's folder for `report`, `advise`, `status`.
        keep: least retention in percent.
        budget: work of all runs, in whole runs: a run of a third of the epochs is a third.
        methods: names, or tables of options, as ``{"name": "lora", "targets": ["q", "k"]}``.
        rates: ``lowest:highest`` (1, 2 and 5 of each power of ten) or a list.
        ranks: tried with each method that has a rank.
        keep_on: the transfer set whose retention counts; None: the worst of all.
        mix: look at mixes with the backbone.
        prune: stop a run whose embedding drift says that it will be lost, where there is evidence for that.
        choosing: images of each class of a transfer set that choose; None: its own ``per_class``, else
            20 or half of the class.
        nearest: where nothing keeps enough, save what comes nearest.
        eta: of so many settings one goes on, for so many times the epochs.
        batch: settings proposed at a time; with Ray, as many as run at a time.
        seed: of the proposals; that of the runs is the configuration's.
        cache, device, retry_failed, auto_batch, track, deterministic, engine: as in
            :func:`clipdrift.run_study`.
        watcher: told how it goes. command: what the card says made it.

    Returns:
        Every run and what became of it, the choice, and what it is worth; also in ``out/sweep.json``.

    Raises:
        SweepError, ConfigError, DataError, ModelError, StudyError: in one line what is wrong.
        Interrupted: the same call goes on from there.
    """
    watcher = watcher or SilentSweepWatcher()
    watcher.finishing().stage("looking at model and data")
    plan = plan_of(
        config, keep=keep, budget=budget, methods=methods, rates=rates, ranks=ranks, keep_on=keep_on, eta=eta,
        batch=batch, seed=seed, mix=mix, prune=prune, choosing=choosing,
    )  # fmt: skip
    how = StudyOptions(
        out=Path(out),
        cache=cache_folder(None if cache is None else Path(cache)),
        device=device,
        keep_weights=True,
        auto_batch=auto_batch,
        retry_failed=retry_failed,
        track=known(track),
        deterministic=deterministic,
        then=mixer_of(plan.asked),
    )
    trials = explore(plan, how, engine, watcher, command)
    return finish(plan, trials, how, watcher.finishing(), nearest, command)


def explore(
    plan: Plan, how: StudyOptions, engine: Engine, watcher: SweepWatcher, command: str = ""
) -> tuple[Trial, ...]:
    """Do the runs of a plan, rung by rung, or find them done; nothing is chosen yet."""
    work = _Work(plan, how, engine, watcher, command)
    watcher.expects(sum(counts(plan.planned, len(plan.epochs), plan.asked.eta)))
    _first_rung(work)
    for rung in range(2, len(plan.epochs) + 1):
        _promote(work, rung)
    return tuple(work.trials.values())


@dataclass
class _Work:
    """A sweep under way; ``trials`` by position of the run among all."""

    plan: Plan
    how: StudyOptions
    engine: Engine
    watcher: SweepWatcher
    command: str
    trials: dict[str, Trial] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    planned: list[PlannedRun] = field(default_factory=list)
    resolver: Resolver = field(default_factory=Resolver)

    @property
    def left(self) -> float:
        return self.plan.asked.budget - sum(trial.work for trial in self.trials.values())

    def of_rung(self, rung: int) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.rung == rung]

    def do(self, choices: Sequence[Choice], rung: int) -> list[Trial]:
        """Do the runs of some settings on a rung, or find them done."""
        plan, epochs = self.plan, self.plan.epochs[rung - 1]
        configs = [self.resolver(plan.space.config(choice, epochs)) for choice in choices]
        jobs = tuple(map(self._job, configs, choices))
        self.planned += [PlannedRun(key=job.key, label=job.label, cell=job.cell) for job in jobs]
        title = f"Sweep: at least {plan.asked.keep:g} % kept, the work of {plan.asked.budget:g} whole runs"
        manifest = Manifest(
            name=NAME, title=title, questions=QUESTIONS, runs=tuple(self.planned), command=self.command
        )
        write_study_manifest(self.how.out, manifest)
        outcomes = self.engine(jobs, self.how, self.watcher)
        found = []
        for choice, config, outcome in zip(choices, configs, outcomes, strict=True):
            if outcome.ending == "elsewhere":
                raise SweepError(
                    f"{self.how.out / config.key}: another process is at work on this run; say it again when "
                    "that is done"
                )
            failure = (outcome.reason or "no reason is known") if outcome.ending == "failed" else None
            folder = Store(self.how.out).folder(config.key)
            trial = trial_of(folder, failure, plan.space, choice, rung, config, plan.asked)
            self.trials[trial.key], self.choices[trial.key] = trial, choice
            found.append(trial)
        return found

    def _job(self, config: RunConfig, choice: Choice) -> StudyJob:
        epochs = config.optim.epochs
        label = f"{self.plan.space.name(choice)}, {epochs} epoch{'s' if epochs > 1 else ''}"
        return StudyJob(config, label, f"rung.{self.plan.epochs.index(epochs) + 1}")


def _first_rung(work: _Work) -> None:
    """Propose settings in batches, each batch after what came of the last."""
    plan = work.plan
    proposer = Proposer(plan.space, plan.asked.seed, plan.planned)
    while (done := len(work.of_rung(1))) < plan.planned:
        asked = proposer.ask(min(plan.asked.batch, plan.planned - done))
        if not asked:
            return
        for choice, trial in zip(asked, work.do(asked, 1), strict=True):
            proposer.tell(choice, trial.accuracy, trial.missed or 0.0)


def _promote(work: _Work, rung: int) -> None:
    """Take the best settings of a rung to the next; to the last, as many as the budget has room for."""
    plan = work.plan
    before = work.of_rung(rung - 1)
    each = plan.epochs[rung - 1] / plan.epochs[-1]
    waiting = ranked(before)
    count = counts(len(before), 2, plan.asked.eta)[1]
    while waiting:
        while count and not affords(work.left, count * each):
            count -= 1
        if not count:
            return
        going, waiting = waiting[:count], waiting[count:]
        for trial in going:
            work.trials[trial.key] = trial.model_copy(update={"promoted": True})
        work.do([work.choices[trial.key] for trial in going], rung)
        if rung < len(plan.epochs):
            return
        count = len(waiting)  # what was saved by runs that ended early
