"""A run's own rules, judged at each look at the model; what they have counted is part of its course."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clipdrift.config import RunConfig
from clipdrift.measures import absent_kinds
from clipdrift.model.towers import tower_of
from clipdrift.model.weights import effective_weights
from clipdrift.rules import Rule, Rules, Ruling
from clipdrift.rules.run_rules import rules_of_run
from clipdrift.runs.record import Point, Remark
from clipdrift.runs.reporter import Reporter
from clipdrift.training.course import Course
from clipdrift.training.rows import row_of


@dataclass(frozen=True, eq=False)
class Judge:
    """Follows the rules of one run from where its course stands."""

    rules: Rules
    ruling: Ruling
    course: Course
    reporter: Reporter

    @classmethod
    def of(cls, config: RunConfig, model: Any, course: Course, reporter: Reporter) -> Judge:
        """Raises ConfigError for a rule on a block or a measure that the model does not have."""
        tower = tower_of(model)
        absent = {**tower.absent, **absent_kinds(effective_weights(model))}
        rules = rules_of_run(config, tower.geometry.blocks, absent)
        ruling = Ruling(rules, None, stopping="the training stops")
        if course.ruling is not None:
            ruling.load(course.ruling)
        return cls(rules, ruling, course, reporter)

    @property
    def demands(self) -> tuple[Rule, ...]:
        """What a chosen epoch has to meet."""
        return self.rules.demands

    def judge(self, point: Point) -> bool:
        """Follow the rules at a look: say what they say, lower the rates. Whether the training is to stop."""
        outcome = self.ruling.judge(row_of(point), point.step, whole=point.ends_epoch)
        self.course.ruling = self.ruling.state()
        for said in outcome.said:
            remark = remark_at(point, said.kind, said.text)
            self.course.remarks.append(remark)
            tell = self.reporter.note if said.kind == "note" else self.reporter.warn
            tell(f"step {point.step}: {said.text}")
        if outcome.reduce:
            self.course.progress.factor *= self.rules.factor
        return outcome.stop


def remark_at(point: Point, kind: str, text: str) -> Remark:
    return Remark.model_validate({"kind": kind, "epoch": point.epoch, "step": point.step, "text": text})
