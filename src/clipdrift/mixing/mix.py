"""Mix several runs of one backbone, and measure every mix beside its runs and the backbone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor

from clipdrift.comparison.models import ModelLike
from clipdrift.mixing.choice import (
    MixRule,
    Standing,
    choose,
    greedy_order,
    kept,
    kept_at,
    parse_mix_rule,
    stays,
)
from clipdrift.mixing.looks import Looks
from clipdrift.mixing.opening import MixContext, checked_runs, open_mix
from clipdrift.mixing.result import (
    FILE,
    TITLES,
    GreedyTry,
    MixAt,
    Mixed,
    MixedRun,
    MixKind,
    StockRatio,
    TaskCosine,
)
from clipdrift.repair import RepairError, Step, check_retention
from clipdrift.repair.options import OF_PAIRS, Options, asked_sets, refuse_unknown
from clipdrift.repair.saving import place_for, save_model
from clipdrift.repair.step_measurer import StepComparer
from clipdrift.runs.record import environment

Weights = Mapping[str, Tensor]
Head = Mapping[str, Tensor] | None

BACKBONE = "backbone"


def mix(
    *runs: ModelLike,
    take: str | None = None,
    keep: float | None = None,
    keep_on: str | None = None,
    out: str | Path | None = None,
    force: bool = False,
    **options: Unpack[Options],
) -> Mixed:
    """Mix the weights of runs on one backbone: uniform soup, greedy soup, Model Stock.

    The *uniform soup* is the mean of all runs. The *greedy soup* begins with the run of the highest
    validation accuracy and tries the others in that order; each stays if validation accuracy does not fall
    (Wortsman et al. 2022, "Model soups", arXiv 2203.05482). *Model Stock* goes from the backbone towards the
    mean of all runs, in each tensor as far as the angle between their task vectors says (Jang et al. 2024,
    arXiv 2403.19522). Adapters are merged into the weights first, heads are averaged too.

    All are measured beside the runs and the backbone: accuracy on validation images, drift, zero-shot
    retention. Validation (and, with ``keep``, transfer) images choose; test images are read once, of what is
    chosen.

    Args:
        runs: folders of at least two finished runs.
        take: choose this mix: ``uniform``, ``greedy`` or ``stock``; None: the most accurate.
        keep: choose among mixes that keep so many percent of the zero-shot accuracy, on every transfer set;
            the greedy soup then takes in only what keeps that.
        keep_on: the only transfer set that counts.
        out: gets ``mixed.json``, ``.csv``, ``.png`` and ``model/``. An interrupted mix goes on from here.
        force: replace a result that is there.
        options: see :class:`clipdrift.repair.options.Options`.

    Raises:
        RepairError: runs that cannot be mixed, contradicting or impossible wishes, a result that is there.
        PairError, ModelError, DataError, ConfigError, MeasureError: in one line what is wrong.
    """
    since = time.perf_counter()
    rule = parse_mix_rule(take, keep, keep_on)
    refuse_unknown(options)
    for name in OF_PAIRS:
        if options.get(name) not in (None, False):
            raise RepairError(
                f"--{name.replace('_', '-')} is not for runs: they are read on their own images"
            )
    opened = checked_runs(runs)
    own = opened[0].record.config.data.transfer
    sets = [spec.name for spec in asked_sets(options, own) if not spec.retrieval]
    check_retention("--keep-on" if keep_on and sets else "--keep", keep is not None, keep_on, sets)
    place = None if out is None else _place(Path(out), force)
    work = _Mixing(open_mix(opened, options), rule, None if out is None else Path(out))
    found = work.measured()
    if place is not None and found.chosen is not None:
        found = work.saved(found, place, force)
    found = found.model_copy(update={"timings": {"measured": round(time.perf_counter() - since, 3)}})
    if out is not None:
        work.measurer.reporter.stage(f"writing {out}")
        found.save(out)
        work.looks.remove()
    return found


def _place(out: Path, force: bool) -> Path:
    """Folder of the model. Raises RepairError where a result is there already."""
    if (out / FILE).exists() and not force:
        raise RepairError(
            f"{out / FILE}: is there already; choose another --out, or say --force to replace it"
        )
    return place_for(out, force)


class _Mixing:
    """One mix at work: puts weights into the live model and looks at them."""

    def __init__(self, mixed: MixContext, rule: MixRule, out: Path | None) -> None:
        self.mixed, self.rule = mixed, rule
        self.measurer = mixed.context.measurer
        self.weights = mixed.weights
        self.everyone = tuple(range(len(mixed.runs)))
        self.observer = StepComparer.of(self.measurer)
        self.looks = Looks(out, self._depends_on())
        if self.looks.taken:
            self.measurer.reporter.note(f"{self.looks.taken} looks of an interrupted mix are taken up.")
        self._stock, self._ratios = self.weights.stock()

    def measured(self) -> Mixed:
        """Measure everything, and choose."""
        context = self.mixed.context
        backbone = self.looks.step(BACKBONE, self._backbone)
        runs = [self._run(at) for at in self.everyone]
        mixes: dict[MixKind, MixAt] = {"uniform": self._soup("uniform", self.everyone)}
        inside, tries = self._greedy([run.step for run in runs])
        known: dict[tuple[int, ...], Step] = {
            (at,): run.step for at, run in zip(self.everyone, runs, strict=True)
        }
        known[self.everyone] = mixes["uniform"].step
        mixes["greedy"] = self._soup("greedy", inside, known.get(inside))
        mixes["stock"] = MixAt(
            runs=self._numbers(self.everyone),
            step=self._look(TITLES["stock"], self._stock, self.weights.head(self.everyone)),
        )
        chosen, reason = choose(mixes, self.rule)
        cosines = self.weights.cosines(context.shape.blocks)
        return Mixed(
            base=context.sides[0],
            shape=context.shape,
            images=context.images,
            accuracy_of=context.accuracy_of,
            test_of=context.test_of,
            transfer=self.observer.tested,
            backbone=backbone,
            runs=tuple(runs),
            mixes=mixes,
            greedy=tuple(tries),
            ratios=tuple(
                StockRatio(name=name, cosine=cosine, ratio=ratio)
                for name, (cosine, ratio) in self._ratios.items()
            ),
            cosines=tuple(
                TaskCosine(one=one + 1, other=other + 1, value=value, blocks=blocks)
                for one, other, value, blocks in cosines
            ),
            keep=self.rule.keep,
            keep_on=self.rule.keep_on,
            chosen=chosen,
            reason=reason,
            notes=(*self.mixed.notes, *self._stock_notes()),
            environment=environment(str(self.measurer.device)),
        )

    def saved(self, found: Mixed, place: Path, force: bool) -> Mixed:
        """Save the chosen mix, tested on test images first."""
        assert found.chosen is not None
        kind, at = found.chosen, found.mixes[found.chosen]
        self.measurer.reporter.stage(f"testing {TITLES[kind]}")
        self._put(kind, at)
        tested = at.model_copy(update={"step": self.observer.tested_at(at.step)})
        names = [found.runs[number - 1].side.name for number in at.runs]
        save_model(self.mixed.context, place, {"repair": "mix", "mix": kind, "tuned": names}, force)
        mixes = {**found.mixes, kind: tested}
        return found.model_copy(update={"mixes": mixes, "saved": str(place)})

    def _put(self, kind: MixKind, at: MixAt) -> None:
        inside = [number - 1 for number in at.runs]
        weights = self._stock if kind == "stock" else self.weights.mean(inside)
        self.mixed.put(weights, self.weights.head(inside))

    def _backbone(self) -> Step:
        """The backbone, which has no head of its own."""
        headless = self.measurer if self.measurer.refresh else replace(self.measurer, head=None)
        self.mixed.put(self.weights.start, None)
        return replace(self.observer, measurer=headless).look(BACKBONE)

    def _run(self, at: int) -> MixedRun:
        run, side = self.mixed.runs[at], self.mixed.sides[at]
        config, best = run.record.config, run.record.best
        step = self._look(f"{at + 1} {run.text}", self.weights.mean([at]), self.weights.head([at]))
        tested = None if best is None else best.test_accuracy
        return MixedRun(
            number=at + 1,
            side=side,
            key=run.record.key,
            method=config.method.name,
            learning_rate=config.optim.learning_rate,
            seed=config.seed,
            form="adapter" if run.form == "adapter" else "model",
            step=step.model_copy(update={"test_accuracy": tested}),
        )

    def _soup(self, kind: MixKind, chosen: Sequence[int], known: Step | None = None) -> MixAt:
        """A soup as it is measured, or as its very weights were measured under another name."""
        if known is not None:
            step = known.model_copy(update={"label": TITLES[kind], "test_accuracy": None})
        else:
            step = self._look(TITLES[kind], self.weights.mean(chosen), self.weights.head(chosen))
        return MixAt(runs=self._numbers(chosen), step=step)

    def _look(self, label: str, weights: Weights, head: Head) -> Step:
        def look() -> Step:
            self.mixed.put(weights, head)
            return self.observer.look(label)

        return self.looks.step(label, look)

    def _greedy(self, steps: Sequence[Step]) -> tuple[tuple[int, ...], list[GreedyTry]]:
        """Positions of the runs that the greedy soup takes, and every try."""
        standings = [Standing(_accuracy(step), kept_at(step, self.rule)) for step in steps]
        order = greedy_order(standings, self.rule)
        inside, now = [order[0]], standings[order[0]]
        tries = [self._tried(order[0], now, True)]
        for at in order[1:]:
            after = self._attempt(sorted([*inside, at]))
            stay = stays(now, after, self.rule)
            tries.append(self._tried(at, after, stay))
            if stay:
                inside, now = [*inside, at], after
        return tuple(sorted(inside)), tries

    def _tried(self, at: int, standing: Standing, stay: bool) -> GreedyTry:
        counted = None if self.rule.keep is None else standing.kept
        return GreedyTry(run=at + 1, accuracy=standing.accuracy, kept=counted, stays=stay)

    def _attempt(self, chosen: Sequence[int]) -> Standing:
        label = "+".join(map(str, self._numbers(chosen)))

        def look() -> tuple[float, dict[str, float | None]]:
            self.measurer.reporter.stage(f"trying the soup of runs {label}")
            self.mixed.put(self.weights.mean(chosen), self.weights.head(chosen))
            accuracy = self.measurer.accuracy(self.measurer.labelled)
            assert accuracy is not None  # a run has a head, or captions
            return accuracy, self.observer.retention() if self.rule.keep is not None else {}

        accuracy, retention = self.looks.attempt(label, look)
        return Standing(accuracy, kept(retention, self.rule) if retention else None)

    def _stock_notes(self) -> list[str]:
        still = sum(ratio == 0 for _, ratio in self._ratios.values())
        if not still:
            return []
        return [
            f"Model Stock keeps the backbone's values in {still} of {len(self._ratios)} tensors, where the "
            "runs point apart or one of them did not move."
        ]

    def _numbers(self, chosen: Sequence[int]) -> tuple[int, ...]:
        return tuple(at + 1 for at in chosen)

    def _depends_on(self) -> Any:
        """What looks follow from: the very weights, the sets, what is measured."""
        context = self.mixed.context
        return {
            "base": context.sides[0].fingerprint,
            "runs": [
                (run.record.key, side.fingerprint)
                for run, side in zip(self.mixed.runs, self.mixed.sides, strict=True)
            ],
            "sets": {name: test.model_dump() for name, test in self.observer.tested.items()},
            "flow": self.measurer.flow,
            "keep": (self.rule.keep, self.rule.keep_on),
            "device": str(self.measurer.device),
            "software": environment("")["packages"],
            "commit": environment("")["commit"],
        }


def _accuracy(step: Step) -> float:
    assert step.accuracy is not None  # a run has a head, or captions
    return step.accuracy
