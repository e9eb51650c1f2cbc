"""Settings that can be taken, each with its numbers over seeds: cells, and their epochs and mixes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
import pandas as pd

from clipdrift.advice.asked import Number
from clipdrift.texts import option
from clipdrift.texts import rate as rate_text

TELLING = ("epochs", "batch_size", "protocol", "train_images")
"""Columns that may tell cells apart whose method, options and rate are the same."""


@dataclass(frozen=True)
class Setting:
    """A configuration as it was run, over its seeds.

    Attributes:
        name: in words, unlike that of any other setting of its target.
        cell: the cell's key. family: what all of its rates have in common, as a key.
        method, variant, rate: what was run.
        runs, seeds: which runs, in one order with the numbers.
        accuracy, kept: percent, one per run.
        epoch: after which; None at the end of the run. alpha: of the interpolation; None for the adapted
            model.
    """

    name: str
    cell: str
    family: str
    method: str
    variant: str
    rate: float
    runs: tuple[str, ...]
    seeds: tuple[str, ...]
    accuracy: tuple[float, ...]
    kept: tuple[float, ...]
    epoch: int | None = None
    alpha: float | None = None

    @property
    def n(self) -> int:
        return len(self.runs)

    def values(self, number: Number) -> tuple[float, ...]:
        return self.accuracy if number == "accuracy" else self.kept

    def mean(self, number: Number) -> float:
        return fmean(self.values(number))

    def sd(self, number: Number) -> float | None:
        """Standard deviation over seeds (n - 1); None for one."""
        return stdev(self.values(number)) if self.n > 1 else None


def cell_settings(runs: pd.DataFrame) -> list[Setting]:
    """One setting per cell of a place.

    Args:
        runs: prepared runs of one place with ``family``, ``gained`` and ``kept``; runs without one of the
            numbers are left out.
    """
    return list(_settings(runs, _names(runs), ()))


def settings_along(runs: pd.DataFrame, points: pd.DataFrame, along: str) -> list[Setting]:
    """One setting per cell and value of ``along`` (``epoch`` or ``alpha``).

    Args:
        points: ``run``, ``along``, ``gained`` and ``kept``.
    """
    if points.empty:
        return []
    shared = ["run", "cell", "family", "method", "variant", "learning_rate", "seed"]
    joined = points[["run", along, "gained", "kept"]].merge(runs[shared], on="run")
    return list(_settings(joined, _names(runs), (along,)))


def _settings(table: pd.DataFrame, names: dict[str, str], along: tuple[str, ...]) -> Iterator[Setting]:
    whole = table.dropna(subset=["gained", "kept", *along])
    for key, part in whole.groupby(["cell", *along], sort=False):
        first = part.iloc[0]
        cell, *at = key
        epoch = int(at[0]) if along == ("epoch",) else None
        alpha = float(at[0]) if along == ("alpha",) else None
        suffix = f", epoch {epoch}" if epoch is not None else ""
        suffix = f", alpha {alpha:g}" if alpha is not None else suffix
        yield Setting(
            names[cell] + suffix, str(cell), str(first["family"]), str(first["method"]),
            str(first["variant"]), float(first["learning_rate"]),
            tuple(map(str, part["run"])), tuple(map(str, part["seed"])),
            tuple(map(float, part["gained"])), tuple(map(float, part["kept"])), epoch, alpha,
        )  # fmt: skip


def _names(runs: pd.DataFrame) -> dict[str, str]:
    """Name of each cell of a place: variant and rate, and what else tells it apart where that is needed."""
    first = runs.drop_duplicates("cell").copy()
    short = first["variant"].map(str) + " at " + first["learning_rate"].map(rate_text)
    twice = short.duplicated(keep=False)
    columns = [name for name in TELLING if name in first and first.loc[twice, name].nunique(dropna=False) > 1]
    for name in columns:
        words = first[name].map(option)
        short = short.where(~twice, short + f", {name.replace('_', ' ')} " + words)
    again = short.duplicated(keep=False)
    if "source" in first:  # of several folders: which one
        short = short.where(~again, short + ", " + first["source"].map(str))
        again = short.duplicated(keep=False)
    short = short.where(~again, short + " (" + first["cell"].map(str) + ")")
    return dict(zip(first["cell"], short, strict=True))


def families(runs: pd.DataFrame) -> pd.Series:
    """The arm, and whatever else of :data:`TELLING` a run was given: the same for all of its rates."""
    columns = ["arm", *(name for name in TELLING if name in runs)]
    words = zip(*(runs[name].map(str) for name in columns), strict=True)
    return pd.Series([" | ".join(parts) for parts in words], runs.index, dtype=object)


def kept_of(table: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """The lowest of several retentions of each row; nan where one of them is missing."""
    present = [name for name in columns if name in table]
    if not present or len(present) < len(columns):
        return pd.Series(np.nan, table.index)
    return table[present].astype(float).min(axis=1, skipna=False)
