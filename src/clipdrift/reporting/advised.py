"""Advice for the page of a study: its sentences, and the table whose numbers they cite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from clipdrift.advice import Advice
from clipdrift.advice.result import PlaceAdvice
from clipdrift.advice.settings import Setting
from clipdrift.advice.words import Cited, Line, lines
from clipdrift.pages.cells import PageCell
from clipdrift.reporting.printed import KEY, Column, Printed, count, one_decimal, word
from clipdrift.reporting.sentences import Sentence, SentencePart

_COLUMNS = (
    KEY, "place", "setting", "n", "accuracy", "accuracy_sd", "kept", "kept_sd", "allowed", "role", "missed",
    "difference", "low", "high", "p", "accuracy_low", "accuracy_high", "kept_low", "kept_high",
)  # fmt: skip


def advice_table(advice: Advice) -> Printed | None:
    """One row per cell, and one for the best epoch and the best mix; None where nothing is advised."""
    rows = [row for place in advice.places for row in _rows(place)]
    if not rows:
        return None
    columns = (
        Column("place", "target", word, left=True), Column("setting", "setting", word, left=True),
        Column("n", "n", count), Column("accuracy", "accuracy, %", one_decimal, spread="accuracy_sd"),
        Column("kept", "kept, %", one_decimal, spread="kept_sd"),
        Column("allowed", "allowed", word, left=True), Column("role", "role", word, left=True),
    )  # fmt: skip
    note = "Means over seeds ± standard deviation (n − 1). Kept: the lowest of the transfer sets, run by run."
    return Printed("advice", "Settings", note, pd.DataFrame(rows, columns=list(_COLUMNS)), columns)


def advice_sentences(advice: Advice, table: Printed | None) -> list[Sentence]:
    """The advice in words, target by target; every mean and test names its row of the table."""
    return [
        Sentence(tuple(_part(part, place, table) for part in line.parts), line.told, str(place.place))
        for place in advice.places
        for line in _headed(place, advice)
    ]


def _headed(place: PlaceAdvice, advice: Advice) -> list[Line]:
    """The lines of a place without its name in front, which is their heading."""
    first, *rest = lines(place, advice.asked)
    start, *others = first.parts
    assert isinstance(start, str)
    said = start.removeprefix(f"{place.place}: ")
    return [Line((said[:1].upper() + said[1:], *others), first.told), *rest]


def _rows(place: PlaceAdvice) -> Iterator[dict[str, Any]]:
    cells = place.cells
    if cells is None:
        return
    for setting, missed in zip(cells.settings, cells.missed, strict=True):
        roles = {"best": cells.best, "surely allowed": cells.surest, "runner-up": cells.runner_up}
        roles |= {"nearest": cells.nearest, "most accurate": cells.top}
        named = [name for name, one in roles.items() if one is setting]
        named += ["frontier"] if setting in cells.frontier else []
        row = _row(place, setting) | {"role": ", ".join(named), "missed": missed}
        row["allowed"] = "no" if missed else "yes"
        if setting is cells.runner_up and cells.difference is not None:
            found = cells.difference
            row |= {"difference": found.value, "low": found.low, "high": found.high, "p": found.p}
        if setting is cells.best:
            for bound in cells.bounds:
                row |= {f"{bound.number}_low": bound.low, f"{bound.number}_high": bound.high}
        yield row
    for along, found_along in (("epoch", place.epochs), ("mix", place.mixes)):
        if found_along is not None and found_along.best is not None:
            yield _row(place, found_along.best) | {"role": f"best {along}", "allowed": "yes", "missed": 0.0}


def _row(place: PlaceAdvice, setting: Setting) -> dict[str, Any]:
    return {
        KEY: _key(place, setting), "place": str(place.place), "setting": setting.name, "n": setting.n,
        "accuracy": setting.mean("accuracy"), "accuracy_sd": setting.sd("accuracy"),
        "kept": setting.mean("kept"), "kept_sd": setting.sd("kept"),
    }  # fmt: skip


def _key(place: PlaceAdvice, setting: Setting) -> str:
    return f"{place.place}; {setting.name}"


def _part(part: str | Cited, place: PlaceAdvice, table: Printed | None) -> SentencePart:
    if isinstance(part, str):
        return part
    assert table is not None
    key = _key(place, part.setting)
    value = table.frame.set_index(KEY).loc[key, part.column]
    return PageCell(
        part.text, f"{table.place({KEY: key})}/{part.column}", float(value if value is not None else math.nan)
    )
