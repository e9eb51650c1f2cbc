"""Search a gallery in several ways and lay what is found beside what BASE finds in its own index."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipdrift import formulas
from clipdrift.analysis.bootstrap import Statistic, interval, mean_of
from clipdrift.analysis.draws import Draws
from clipdrift.analysis.permutation import UndeterminedError
from clipdrift.comparison.index_facts import MAPS, Estimate, Search
from clipdrift.measures.retrieval import KS

Values = NDArray[np.float64]
_QUERIES = 128
"""Queries that are compared with the whole gallery at once; no number depends on it."""


@dataclass(frozen=True, eq=False)
class Asked:
    """Queries and the gallery that they are put to.

    Attributes:
        sides: for each way of searching the queries (Q, E) and the gallery (G, E) in one space.
        right: of some queries, by position, which images of the gallery are right: (n, G); None: not known.
        units: (Q,) queries of one picture are drawn together.
    """

    sides: Mapping[str, tuple[Tensor, Tensor]]
    right: Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None
    units: Sequence[str]


@dataclass(frozen=True, eq=False)
class Answers:
    """What every query finds: (Q,) by way of searching and yardstick, as ``overlap@10``.

    Attributes:
        judged: (Q,) whether the gallery holds a right image.
    """

    values: dict[str, dict[str, Values]]
    judged: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Estimates:
    """Means over queries with their intervals; the resamples are shared by all of them."""

    units: NDArray[np.str_]
    draws: Draws = field(default_factory=lambda: Draws(np.random.default_rng(0)))

    def mean(self, values: Values, among: NDArray[np.bool_] | None = None) -> Estimate:
        """The mean of the values that are defined, among some queries."""
        used = np.isfinite(values) if among is None else np.isfinite(values) & among
        return self._of(mean_of(values[used]), used, bool(np.ptp(values[used]) > 1e-12))

    def won_back(
        self, today: Values, kept: Values, mapped: Values, among: NDArray[np.bool_]
    ) -> Estimate | None:
        """Percent of the mean loss ``today - kept`` that is in ``mapped - kept``; None: no loss is seen."""
        used = np.isfinite(today) & np.isfinite(kept) & np.isfinite(mapped) & among
        lost, won = (today - kept)[used], (mapped - kept)[used]
        loss = self._of(mean_of(lost), used, bool(np.ptp(lost) > 1e-12))
        if loss.value <= 0 or (loss.low is not None and loss.low <= 0):
            return None
        return self._of(_ratio(won, lost), used, True)

    def _of(self, statistic: Statistic, used: NDArray[np.bool_], vary: bool) -> Estimate:
        units = self.units[used]
        value = float(statistic(np.ones((1, len(units))))[0])
        if not vary:
            return Estimate(value=value)
        try:
            found = interval(statistic, units.tolist(), draws=self.draws, named="query")
        except UndeterminedError:
            return Estimate(value=value)
        return Estimate(value=value, low=found.low, high=found.high)


def _ratio(won: Values, lost: Values) -> Statistic:
    def statistic(weights: np.ndarray) -> np.ndarray:
        below = weights @ lost
        return np.where(below > 0, 100 * (weights @ won) / np.where(below > 0, below, 1.0), np.nan)

    return statistic


def answers(asked: Asked, progress: Callable[[int, int], None] | None = None) -> Answers:
    """Search in every way, some queries at a time.

    The way ``today`` has to be among them: overlap and order are those with it.
    """
    queries = len(asked.sides["today"][0])
    parts: dict[str, dict[str, list[Values]]] = {name: {} for name in asked.sides}
    judged = np.zeros(queries, dtype=bool)
    for some in _pieces(queries):
        right = None if asked.right is None else torch.from_numpy(asked.right(some))
        if right is not None:
            judged[some] = right.any(1).numpy()
        today = _similarities(asked.sides["today"], some)
        for name, sides in asked.sides.items():
            seen = today if name == "today" else _similarities(sides, some)
            for yardstick, values in _judge(today, seen, right).items():
                parts[name].setdefault(yardstick, []).append(values)
        if progress:
            progress(int(some[-1]) + 1, queries)
    whole = {
        name: {key: np.concatenate(pieces) for key, pieces in found.items()} for name, found in parts.items()
    }
    return Answers(whole, judged)


def _similarities(sides: tuple[Tensor, Tensor], some: NDArray[np.int64]) -> Tensor:
    queries, gallery = sides
    return formulas.cosines(queries[torch.from_numpy(some)], gallery)


def _judge(today: Tensor, found: Tensor, right: Tensor | None) -> dict[str, Values]:
    """(n,) of every yardstick for some queries."""
    out: dict[str, Tensor] = {}
    steps = [k for k in KS if k <= found.shape[1]]
    before, after = (formulas.nearest(similarity, steps[-1]) for similarity in (today, found))
    for k in steps:
        out[f"overlap@{k}"] = formulas.neighbour_overlap(before[:, :k], after[:, :k])
    out["rank_agreement"] = formulas.rank_agreement(today, found)
    if right is not None:
        hits = right.gather(1, after).double()
        for k in steps:
            out[f"recall@{k}"] = hits[:, :k].amax(1)
            out[f"precision@{k}"] = hits[:, :k].mean(1)
    return {name: values.numpy() for name, values in out.items()}


def _pieces(count: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, count, _QUERIES):
        yield np.arange(start, min(start + _QUERIES, count))


def searches(found: Answers, units: Sequence[str], several: bool) -> dict[str, Search]:
    """Means over queries of every way of searching.

    Args:
        several: a query may have many right images, so that their share among k says something.
    """
    estimates = Estimates(np.asarray(units))

    def at(values: Mapping[str, Values], measure: str) -> dict[int, Estimate]:
        among = found.judged if measure != "overlap" else None
        return {k: estimates.mean(values[f"{measure}@{k}"], among) for k in KS if f"{measure}@{k}" in values}

    truth = bool(found.judged.any())
    return {
        name: Search(
            overlap=at(values, "overlap"),
            rank_agreement=estimates.mean(values["rank_agreement"]),
            recall=at(values, "recall") if truth else {},
            precision=at(values, "precision") if truth and several else {},
        )
        for name, values in found.values.items()
    }


def won_back(found: Answers, units: Sequence[str], several: bool) -> dict[str, dict[str, Estimate | None]]:
    """Percent of the loss that each map wins back, by yardstick; empty where the index cannot be searched."""
    if "kept_index" not in found.values:
        return {}
    estimates = Estimates(np.asarray(units))
    today, kept = found.values["today"], found.values["kept_index"]
    all_ = np.ones(len(found.judged), dtype=bool)
    truth = bool(found.judged.any())
    out: dict[str, dict[str, Estimate | None]] = {}
    for name in MAPS:
        if name not in found.values:
            continue
        mapped, out[name] = found.values[name], {}
        for key in today:
            measure = key.partition("@")[0]
            judging = measure in ("recall", "precision")
            if (judging and not truth) or (measure == "precision" and not several):
                continue
            among = found.judged if judging else all_
            out[name][key] = estimates.won_back(today[key], kept[key], mapped[key], among)
    return out
