"""Tables of runs made elsewhere: read as people and trackers write them.

What was read differently from how it was written is said in notes; what could be read in two ways is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from clipdrift.analysis.runs import NEEDED, AnalyseError
from clipdrift.outcomes.columns import outcome
from clipdrift.outcomes.statuses import DONE, FINISHED, status_of

ALIASES = {
    "target": ("dataset",),
    "backbone": ("model",),
    "learning_rate": ("lr",),
    "status": ("state", "run_status"),
    "run": ("run_id", "id"),
    "accuracy": ("test_accuracy", "test_acc", "acc"),
    "validation_accuracy": ("val_accuracy", "val_acc", "valid_accuracy", "validation_acc"),
}
"""Our column -> what W&B, MLflow and people call it; case, spaces and dots aside."""
_GROUPS = re.compile(r"(metrics?|params?|config|summary)_")
"""What trackers put before a column's name."""
MOST_KEPT = 1.5
"""Retention up to here may be a fraction or a percentage."""


def read_runs(path: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """A table of runs and what must be known of how it was read.

    Returns:
        The table, with percentages as numbers from 0 to 100 and a ``status``; one line for each note.

    Raises:
        AnalyseError: no table of runs; words where numbers belong; numbers that are no percentages, or may be
            percentages as well as fractions. Says where.
    """
    return tidied(_read(path), path)


def tidied(frame: pd.DataFrame, path: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """:func:`read_runs` of a table in memory.

    Args:
        path: where it is from, for errors.
    """
    renamed = _renamed(path, frame)
    frame = frame.rename(columns=renamed)
    ordered = sorted(renamed.items(), key=lambda pair: pair[1])
    notes = [f"column {name} was read as {wanted}" for name, wanted in ordered]
    for name in NEEDED:
        if name not in frame:
            raise AnalyseError(f"{path}: no column {name}; a table of runs has {', '.join(NEEDED)}")
    if frame.empty:
        raise AnalyseError(f"{path}: no run in this table")
    for name, value in (("backbone", ""), ("seed", 0), ("status", DONE)):
        if name not in frame:
            frame[name] = value
    frame["status"] = frame["status"].astype(object).map(status_of)
    if (frame["status"] != DONE).all():
        notes.append(f"no run counts; those do whose status is {', '.join(FINISHED[:-1])} or {FINISHED[-1]}")
    notes += _told_apart(frame)
    for name in filter(_is_number, map(str, frame)):
        notes += _numbers(path, frame, name)
    return frame, notes


def _read(path: str | Path) -> pd.DataFrame:
    try:
        with open(path, encoding="utf-8-sig") as file:
            head = file.readline()
        between = max(",;\t", key=head.count)
        decimal = "," if between == ";" else "."
        frame = pd.read_csv(path, sep=between, decimal=decimal, skipinitialspace=True, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise AnalyseError(f"{path}: no table of runs ({error})") from None
    for name in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            frame[name] = frame[name].map(lambda value: value.strip() if isinstance(value, str) else value)
    return frame


def _renamed(path: str | Path, frame: pd.DataFrame) -> dict[str, str]:
    """Columns that go by another name -> ours."""
    plain = {name: re.sub(r"[\s./-]+", "_", str(name).strip()).lower() for name in frame}
    plain = {name: _GROUPS.sub("", text, count=1) for name, text in plain.items()}
    renamed = {}
    for wanted, others in ALIASES.items() | {(name, ()) for name in ("method", "seed")}:
        found = [name for name, text in plain.items() if text == wanted or text in others]
        exact = [name for name in found if plain[name] == wanted]
        if wanted in frame and (wanted != "status" or len(found) == 1):
            continue
        chosen = found if wanted == "status" else exact or found
        if len(chosen) > 1:
            raise AnalyseError(f"{path}: columns {' and '.join(chosen)} may both be the {wanted}; leave one")
        if chosen:
            renamed[chosen[0]] = wanted
    return renamed


def _told_apart(frame: pd.DataFrame) -> Iterator[str]:
    """Tell runs that share a name apart, in place, by what differs between them."""
    if "run" not in frame or not frame["run"].duplicated().any():
        return
    twice = frame["run"].duplicated(keep=False)
    for name in ("backbone", "target", "method", "learning_rate", "seed"):
        longer = frame["run"].map(str) + " " + frame[name].map(str)
        if not longer[twice].duplicated().any():
            frame["run"] = frame["run"].map(str).where(~twice, longer)
            yield f"{int(twice.sum())} runs share their names and were told apart by {name}"
            return


def _is_number(column: str) -> bool:
    """Whether a column of this name holds numbers, whoever made the table."""
    known = outcome(column)
    return known.kind != "other" or column == "learning_rate" or known.name == "cka"


def _numbers(path: str | Path, frame: pd.DataFrame, name: str) -> Iterator[str]:
    """Make a column one of numbers, in place; lines count as in an editor."""
    percent = outcome(name).kind in ("accuracy", "zero-shot", "retention")
    given, signed = frame[name], False
    if percent and given.map(lambda value: isinstance(value, str)).any():
        signs = given[given.notna()].map(lambda value: str(value).endswith("%"))
        if signs.any() and not signs.all():
            raise AnalyseError(f"{path}, column {name}: some values have a % sign and some have none")
        signed = bool(signs.any())
        given = given.map(lambda value: value.removesuffix("%") if isinstance(value, str) else value)
    numbers = pd.to_numeric(given, errors="coerce")
    wrong = (numbers.isna() | given.map(lambda value: isinstance(value, bool))) & given.notna()
    if name == "learning_rate":
        wrong |= ~(numbers > 0)
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        what = "no learning rate above 0" if name == "learning_rate" else "no number"
        raise AnalyseError(f"{path}, line {row + 2}, column {name}: {frame[name].iloc[row]} is {what}")
    frame[name] = numbers
    if percent:
        yield from _percentages(path, frame, name, signed)


def _percentages(path: str | Path, frame: pd.DataFrame, name: str, signed: bool) -> Iterator[str]:
    """Take fractions times 100, in place, where all finished runs have fractions."""
    kind = outcome(name).kind
    known = frame.loc[frame["status"] == DONE, name].dropna()
    most = float("inf") if kind == "retention" else 100.0
    if (wrong := (known < 0) | (known > most)).any():
        row = known.index[wrong.to_numpy().argmax()]
        raise AnalyseError(f"{path}, line {row + 2}, column {name}: {known[row]:g} is no percentage")
    if signed or known.empty or known.max() == 0:
        return
    hint = "write 0.9% where percent is meant"
    if known.max() <= 1:
        frame[name] *= 100
        yield f"column {name} was given as fractions, 0 to 1, and taken times 100; {hint}"
    elif kind == "retention" and known.max() <= MOST_KEPT:
        raise AnalyseError(
            f"{path}, column {name}: {known.min():g} to {known.max():g} may be fractions or percent; give "
            f"percent, as in 95.2, or {hint}"
        )
    elif kind == "accuracy" and (low := int(((known > 0) & (known < 1)).sum())):
        yield f"column {name}: {low} of {len(known)} values lie between 0 and 1; all were taken as percent"
