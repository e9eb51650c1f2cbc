"""Advice as plain data: one entry per target, with everything that its words and tables are made from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from clipdrift.advice.asked import Asked
from clipdrift.advice.judging import Judged
from clipdrift.advice.picks import Picks
from clipdrift.advice.proposing import Proposal
from clipdrift.advice.settings import Setting
from clipdrift.advice.words import summary
from clipdrift.outcomes.places import Place

SCHEMA = 1
Lack = Literal["runs", "transfer", "measurable", "rates", "settings", "seeds", "unfinished"]


@dataclass(frozen=True)
class Missing:
    """Something that advice would need.

    Attributes:
        what: its kind. count: how many are missing at least. text: in words.
    """

    what: Lack
    count: int
    text: str


@dataclass(frozen=True)
class PlaceAdvice:
    """Advice for one target (and backbone, where there are several).

    Attributes:
        sets: the transfer sets that count; of several the worst of each run.
        gained: the column of accuracy.
        cells: cells judged; None where nothing can be.
        epochs: the same after each epoch, by validation accuracy; mixes: on the way back to the backbone.
        by_validation: the cell that validation accuracy would have picked; None where it is not known.
        picks: of the signals that need no transfer labels.
        missing: what would be needed. proposals: what to run next.
    """

    place: Place
    sets: tuple[str, ...]
    gained: str
    cells: Judged | None = None
    epochs: Judged | None = None
    mixes: Judged | None = None
    by_validation: Setting | None = None
    picks: Picks | None = None
    missing: tuple[Missing, ...] = ()
    proposals: tuple[Proposal, ...] = ()

    @property
    def answered(self) -> bool:
        """Whether some setting satisfies the constraint."""
        return self.cells is not None and self.cells.best is not None


@dataclass(frozen=True)
class Advice:
    """What a study advises.

    Attributes:
        name: of the study. asked: the constraint. places: one entry per target.
        notes: how the runs were read, one line each.
    """

    name: str
    asked: Asked
    places: tuple[PlaceAdvice, ...]
    notes: tuple[str, ...] = ()

    @property
    def answered(self) -> bool:
        """Whether every target has a setting that satisfies the constraint."""
        return all(place.answered for place in self.places)

    @property
    def proposals(self) -> tuple[Proposal, ...]:
        return tuple(proposal for place in self.places for proposal in place.proposals)

    def summary(self) -> list[str]:
        """Lines for a reader, the answer first."""
        return summary(self)

    def to_dict(self) -> dict[str, Any]:
        """All numbers as JSON takes them; what is not known is None."""
        bounds = {name: getattr(self.asked, name) for name in ("keep", "max_drop", "transfer")}
        return {
            "schema_version": SCHEMA, "name": self.name, "asked": bounds, "answered": self.answered,
            "places": [_place(place) for place in self.places], "notes": list(self.notes),
        }  # fmt: skip


def _place(found: PlaceAdvice) -> dict[str, Any]:
    return {
        "place": str(found.place), "target": found.place.target, "backbone": found.place.backbone,
        "transfer": list(found.sets), "accuracy_is": found.gained, "answered": found.answered,
        "cells": _judged(found.cells), "epochs": _judged(found.epochs), "mixes": _judged(found.mixes),
        "by_validation": found.by_validation and found.by_validation.name,
        "signals": _picks(found.picks),
        "missing": [vars(lack) for lack in found.missing],
        "next": [_proposal(proposal) for proposal in found.proposals],
    }  # fmt: skip


def setting_dict(setting: Setting) -> dict[str, Any]:
    """A setting's numbers."""
    values = {name: getattr(setting, name) for name in ("name", "cell", "method", "variant", "rate")}
    return values | {
        "epoch": setting.epoch, "alpha": setting.alpha, "n": setting.n,
        "seeds": list(setting.seeds), "runs": list(setting.runs),
        "accuracy": setting.mean("accuracy"), "accuracy_sd": setting.sd("accuracy"),
        "kept": setting.mean("kept"), "kept_sd": setting.sd("kept"),
    }  # fmt: skip


def _judged(found: Judged | None) -> dict[str, Any] | None:
    if found is None:
        return None
    settings = [
        setting_dict(s) | {"allowed": not missed, "missed": missed, "frontier": s in found.frontier}
        for s, missed in zip(found.settings, found.missed, strict=True)
    ]
    named = {name: getattr(found, name) for name in ("best", "surest", "runner_up", "nearest", "top")}
    return {name: setting and setting.name for name, setting in named.items()} | {
        "difference": found.difference and vars(found.difference),
        "bounds": [vars(bound) for bound in found.bounds],
        "frontier": [setting.name for setting in found.frontier],
        "settings": settings,
    }


def _picks(found: Picks | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return vars(found) | {
        "picks": [vars(pick) | {"setting": pick.setting and pick.setting.name} for pick in found.picks]
    }


def _proposal(found: Proposal) -> dict[str, Any]:
    assert math.isfinite(found.rate)
    return vars(found) | {"like": found.like.name, "seeds": list(found.seeds)}
