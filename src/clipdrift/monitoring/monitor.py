"""Watch a training: measure the model when due, follow rules, keep the last good state."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from clipdrift.comparison.compare import TransferLike
from clipdrift.comparison.images import ImagesLike
from clipdrift.comparison.models import ModelLike
from clipdrift.listing import absences
from clipdrift.measures import NotFiniteError, absent_kinds
from clipdrift.model.clip import Clip
from clipdrift.monitoring import checks, log
from clipdrift.monitoring.backbone import BackboneSide
from clipdrift.monitoring.cadence import Cadence, Every
from clipdrift.monitoring.examining import Examined, Row, examine
from clipdrift.monitoring.folder import Folder
from clipdrift.monitoring.keeping import GOOD, files_beside
from clipdrift.monitoring.live import check_usable, clip_in, generators_kept, is_sharded, readable, view_of
from clipdrift.monitoring.opened import Asked, about, at_chance, open_watched
from clipdrift.monitoring.processes import Processes
from clipdrift.monitoring.rates import multiply_rates
from clipdrift.monitoring.surroundings import bound
from clipdrift.rules import Mode, Outcome, Rules, Ruling, Said, Watch
from clipdrift.runs.reporter import Reporter, Silent
from clipdrift.views import view

OnError = Literal["warn", "raise"]
_LOGGER = logging.getLogger("clipdrift.monitor")


class DriftMonitor:
    """Measures a model in training against its backbone, every so many steps, and leaves no trace in it.

        monitor = clipdrift.DriftMonitor(model, "photos/", transfer="cifar100", out="drift/")
        for batch in loader:
            ...
            optimizer.step()
            monitor.step()
            if monitor.should_stop:
                break
        monitor.report()

    Make it before the training begins: the model as it is then is the backbone, unless one is given or
    ``out`` has one of a training that goes on. Wrap, compile or adapt the model before or after, as you like.

    Attributes:
        rows: what was measured, one dictionary of numbers each; none for a measurement that failed.
        should_stop: whether a rule has asked the training to stop; the same in every process.
        steps: optimiser steps so far.
        measured: steps at the last measurement, also where that failed.
    """

    def __init__(
        self,
        model: nn.Module | Clip,
        images: ImagesLike,
        *,
        transfer: TransferLike | Sequence[TransferLike] | None = None,
        texts: Sequence[str] | None = None,
        every: Every = 200,
        rules: Rules | None = None,
        out: str | Path = "drift",
        backbone: ModelLike | None = None,
        processor: object = None,
        limit: int = 200,
        monitor: str | None = None,
        mode: Mode = "auto",
        min_delta: float = 0.0,
        patience: int | None = None,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_finite: bool = True,
        prefix: str = "",
        logger: Callable[[dict[str, float], int], object] | None = None,
        optimizer: Any = None,
        scheduler: Any = None,
        budget: float | None = 0.03,
        flow: bool = False,
        batch_size: int | None = None,
        cache: str | Path | None = None,
        skip_bad: bool = False,
        on_error: OnError = "warn",
        name: str = "drift",
        config: Mapping[str, Any] | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        """Read the backbone, and say at once what cannot work.

        Args:
            model: transformers' CLIPModel, CLIPVisionModelWithProjection, SiglipModel, an image classifier of
                theirs, OpenCLIP's, in any wrapper of peft or torch, or a module that holds one.
            images: folder, data set's name, preprocessed floats (n, 3, S, S), or PIL images; no labels.
            transfer: sets on a small part of which zero-shot retention is measured.
            texts: sentences with class names, or captions, over which zero-shot agreement is taken and on
                which the text tower is read; none: those of the first transfer set, or of the images' folder.
            every: optimiser steps between measurements, or ``dense``: after 1, 2, 4, 8 ... steps.
            rules: what to do when; none: :meth:`Rules.default`.
            out: folder for the log, the backbone's side, the last good state and the report.
            backbone: what to compare with, where the training has begun already or the model lacks a half.
            processor: the model's transformers processor, tokenizer or image processor, or the name of its
                files; none: where the model was loaded from.
            limit: images read at most.
            monitor, mode, min_delta, patience, stopping_threshold, divergence_threshold, check_finite: follow
                one number, as early stopping does; :class:`Watch`.
            prefix: before every key that ``logger`` is told.
            logger: told the numbers and the step after every measurement, such as ``wandb.log``.
            optimizer, scheduler: whose rates ``reduce_rate_when`` changes; ``later``: see :meth:`attach`.
            budget: largest share of the training's time that measuring may take, else it is done less often.
            flow: rollout and patch entropy too, which need whole attention maps.
            batch_size: images per forward pass; no number depends on it.
            cache: where decoded images are kept.
            skip_bad: leave unreadable images out.
            on_error: whether a measurement that fails is said once, or raised.
            name: tells several monitors of one training apart.
            config: settings of the training, such as its learning rate, for tables of several trainings.

        Raises:
            MonitorError, UnsupportedModelError, DataError, ConfigError, ModelError: in a line what is wrong.
        """
        self.out, self.name, self.prefix, self.logger = Path(out), name, prefix, logger
        self.on_error: OnError = on_error
        self.optimizer, self.scheduler = optimizer, scheduler
        self.config = log.checked_config(config or {})
        self.rules = rules or Rules.default()
        self.rows: list[Row] = []
        self.said: list[str] = []
        self.steps = 0
        self.measured: int | None = None
        self.should_stop = False
        checks.check_options(on_error, self.rules, optimizer, monitor)
        with generators_kept():
            self._inner = clip_in(model.model if isinstance(model, Clip) else model)
            check_usable(self._inner)
        self._processes = Processes(name)
        sharded = is_sharded(self._inner)
        self._cadence = Cadence(every, None if sharded else budget)
        watch = None
        if monitor is not None:
            watch = Watch(
                monitor, mode, min_delta, patience, stopping_threshold, divergence_threshold, check_finite
            )
        self._ruling = Ruling(self.rules, watch)
        self._pending: list[dict[str, Any]] = []
        self._folder = Folder(self.out, self._say)
        self._failed: set[str] = set()
        self._ended = time.perf_counter()
        self._side: BackboneSide | None = None
        self._projection: nn.Module | None = None
        self._clip: Clip | None = None
        self._given: Examined | None = None
        self._processor = processor if processor is not None else (model if isinstance(model, Clip) else None)
        asked = Asked(
            images=images,
            transfer=transfer,
            texts=texts,
            backbone=backbone,
            processor=self._processor,
            limit=limit,
            flow=flow,
            batch_size=batch_size,
            cache=cache,
            skip_bad=skip_bad,
            reporter=reporter or Silent(),
        )
        try:
            if self._processes.first:
                self._folder.claim()
            if self._processes.first or sharded:
                self._open(asked)
        except BaseException:
            self._folder.leave()
            raise

    def _open(self, asked: Asked) -> None:
        """Open the images and have the backbone's side: from ``out``, or read now."""
        with generators_kept(), readable(self._inner, here=self._processes.first) as plain:
            if plain is None:
                return
            opened = open_watched(self._inner, plain, asked, self.out)
            absent = {**opened.side.absent, **absent_kinds(opened.side.weights)}
        self._clip, self._projection = opened.clip, opened.projection
        self._given, self._side = opened.given, opened.side
        checks.check_rules(self._ruling, opened.side.sets, opened.side.geometry.blocks, absent)
        notes = (*opened.notes, *absences(opened.side.absent))
        for one in (*(Said("note", note) for note in notes), *at_chance(opened.side)):
            self._say(one)
        if opened.fresh:
            self._side = self._folder.store(opened.side)

    def step(self, step: int | None = None) -> Row | None:
        """Count an optimiser step, and measure if it is due; to be called after each, in every process.

        Args:
            step: number of the step, where the caller counts; none: one more than before.

        Returns:
            What was measured; None: nothing was due.
        """
        self.steps = self.steps + 1 if step is None else int(step)
        if (found := self._processes.heard()) is not None:
            self._pending.append(found)
        self._act()
        return self._measure() if self._cadence.due(self.steps) else None

    def measure(self, *, note: bool = True) -> Row | None:
        """Measure now, whatever the cadence; in a sharded training in every process.

        Args:
            note: whether it is one of the training's measurements: logged, judged, its state kept if good.

        Returns:
            One number by key, and ``said``; None in other processes than the first, and where it failed.
        """
        return self._measure(note)

    def _measure(self, note: bool = True) -> Row | None:
        began = time.perf_counter()
        between = began - self._ended if self.measured != self.steps else 0.0  # no step, no share of its time
        if is_sharded(self._inner):  # every process helps, so no clock may make their steps differ
            self._cadence.budget = None
        row = None
        try:
            with readable(self._inner, here=self._processes.first) as plain:
                if plain is not None and self._processes.first:
                    row = self._row(plain, note)
        except Exception as error:
            reason = checks.why(error)
            if self.on_error != "raise":
                self._once(f"measuring: {reason}", f"not measured ({reason}); the training goes on")
            if note:
                self._note_failed(error, reason)
            if self.on_error == "raise":
                raise
        if not note:
            return row
        self.measured, took = self.steps, time.perf_counter() - began
        if row is not None:
            row["seconds"] = round(took, 3)
            self._note(row)
        self._ended = time.perf_counter()
        if said := self._cadence.measured(self.steps, took, between):
            self._say(Said("note", said))
        return row

    def _note_failed(self, error: Exception, reason: str) -> None:
        """Leave a gap in the log that can be seen; rules judge nothing there, and patience does not count."""
        broken = isinstance(error, NotFiniteError)
        outcome = checks.judge_nan(self._ruling, self.steps) if broken else Outcome()
        if self._processes.first:
            row = log.failed_row(self.steps, reason, broken)
            row["said"] = [f"{one.kind}: {one.text}" for one in outcome.said]
            self._folder.append(row, self._about)
        self._follow(outcome)

    def _row(self, plain: nn.Module, note: bool) -> Row:
        assert self._side is not None
        assert self._given is not None
        live = view_of(plain, self._projection)
        clip = None if self._clip is None else bound(self._clip, plain)
        row: Row = {"step": self.steps, "time": round(time.time(), 1)}
        numbers, shares = examine(live, clip, self._given, self._side)
        row |= numbers
        if not note:
            return row
        if not self.rows and (text := checks.another(row["drift/weight_drift"], self.out)):
            self._say(Said("warning", text))
        outcome = self._ruling.judge(row, self.steps)
        row["said"] = [f"{one.kind}: {one.text}" for one in outcome.said]
        self._keep(plain, row, outcome)
        self._folder.show(self.steps, shares)
        self._follow(outcome)
        return row

    def _follow(self, outcome: Outcome) -> None:
        """Say what follows from a measurement, and do it."""
        for one in outcome.said:
            self._say(one)
        if outcome.stop or outcome.reduce:
            what = {"stop": outcome.stop, "reduce": outcome.reduce}
            self._pending.append(what | {"at": self._processes.decide(self.steps, what)})
            self._act()

    def _keep(self, plain: nn.Module, row: Row, outcome: Outcome) -> None:
        """Save the state, if it is good and anything says what good is."""
        row["good"] = outcome.good
        if not outcome.good or not (self.rules.keep_best_when or self._ruling.watch):
            return
        facts = {"step": self.steps, "numbers": log.numbers(row)}
        if kind := self._folder.keep(plain, facts, files_beside(self._clip, self._processor)):
            row["kept"] = kind

    def _note(self, row: Row) -> None:
        """Put a row where it is looked for: memory, disk, the caller's logger."""
        self.rows.append(row)
        self._folder.append(row, self._about)
        if self.logger is not None:
            try:
                self.logger(
                    {f"{self.prefix}{key}": value for key, value in log.numbers(row).items()}, self.steps
                )
            except Exception as error:
                if self.on_error == "raise":
                    raise
                self._once("logger", f"the logger failed ({checks.why(error)}); the training goes on")

    def _about(self) -> dict[str, Any]:
        assert self._side is not None
        assert self._given is not None
        return about(self._given, self._side, self._cadence.every, self.rules, self.config)

    def _act(self) -> None:
        """Do what has been decided and is due."""
        due = [one for one in self._pending if one["at"] <= self.steps]
        self._pending = [one for one in self._pending if one["at"] > self.steps]
        for one in due:
            self.should_stop |= bool(one.get("stop"))
            if one.get("reduce") and self.optimizer is not None:
                multiply_rates(self.optimizer, self.scheduler, self.rules.factor)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs: steps, cadence, patience, best value; plain data, for JSON too."""
        return {
            "format": checks.FORMAT,
            "steps": self.steps,
            "should_stop": self.should_stop,
            "cadence": self._cadence.state(),
            "ruling": self._ruling.state(),
            "backbone": None if self._side is None else self._side.images,
            "pending": list(self._pending),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            MonitorError: a state of something else.
        """
        checks.check_state(state, None if self._side is None else self._side.images)
        self.steps, self.measured = int(state["steps"]), None
        self._folder.begin(self.steps)
        self.should_stop = False  # whoever goes on after a stop wants to
        self._cadence.load(state["cadence"])
        self._ruling.load(state["ruling"])
        self._pending = [dict(one) for one in state["pending"]]
        if self._processes.first and (self.out / log.LOG).is_file():
            rows = log.read(self.out)[0]
            self.rows = [row for row in rows if row["step"] <= self.steps and log.FAILED not in row]

    def attach(self, model: nn.Module | None = None, optimizer: Any = None, scheduler: Any = None) -> None:
        """Name what the training has made since: what holds the model now, its optimiser and schedule.

        Raises:
            MonitorError, UnsupportedModelError: no model in it, several, or none that can be read; another
                monitor has taken ``out`` since :meth:`close`.
        """
        if self._processes.first:
            self._folder.claim()
        self._inner = self._inner if model is None else clip_in(model)
        self.optimizer = self.optimizer if optimizer is None else optimizer
        self.scheduler = self.scheduler if scheduler is None else scheduler

    def report(self) -> Path | None:
        """Write ``out/index.html``: curves, blocks over steps, what the rules said. None: nothing to show."""
        if not self._processes.first:
            return None
        if not (self.out / log.LOG).is_file():
            self._once("report", f"no page, as nothing was measured, or could be written to {self.out}")
            return None
        made: Path = view("DriftMonitor.report")(self.out)
        return made

    def close(self) -> None:
        """Let another monitor have ``out``; the end of the process does so too. Measuring takes it again."""
        self._folder.release()

    @property
    def good(self) -> Path | None:
        """Folder of the last good state; None: none was kept."""
        place = self.out / GOOD
        return place if place.is_dir() else None

    def _say(self, one: Said) -> None:
        text = f"step {self.steps}: {one.text}"
        self.said.append(f"{one.kind}: {text}")
        _LOGGER.log(logging.INFO if one.kind == "note" else logging.WARNING, "%s", text)

    def _once(self, kind: str, text: str) -> None:
        if kind not in self._failed:
            self._failed.add(kind)
            self._say(Said("warning", text))
