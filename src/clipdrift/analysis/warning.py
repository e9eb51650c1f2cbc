"""Early warnings: a threshold on a label-free signal, chosen on some groups of runs and tested on the others.

A run is lost if it ends with less than a level of the backbone's zero-shot accuracy. A signal that is read
after a share of the training warns of it if it lies at or above a threshold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray


@dataclass(frozen=True)
class Warned:
    """How a threshold did on runs that it was not chosen on.

    Attributes:
        signal: its column.
        share: of the training after which it was read.
        level: of retention, in percent, below which a run is lost.
        held: the group left out; empty where threshold and runs are the same, which flatters.
        threshold: from which on the signal warns.
        lost, runs: how many runs were lost, of how many.
        sensitivity: share of the lost runs that were warned of; nan without any.
        specificity: share of the others that were not; nan without any.
        auc: chance that a lost run has the larger signal than a kept one; nan without either.
    """

    signal: str
    share: float
    level: float
    held: str
    threshold: float
    lost: int
    runs: int
    sensitivity: float
    specificity: float
    auc: float


def best_threshold(signal: NDArray[np.float64], lost: NDArray[np.bool_]) -> float:
    """The threshold of largest Youden index, sensitivity + specificity - 1, in the middle between two values.

    A warning is a signal at or above it. Of several equally good ones it is the highest, which warns least.

    Args:
        signal: (n,) larger where more is lost.
        lost: (n,).

    Raises:
        ValueError: nothing to tell apart, or a signal that is no number.

    Source: Youden 1950.
    """
    if not (lost.any() and (~lost).any()):
        raise ValueError("a threshold needs lost runs and others")
    if not np.isfinite(signal).all():
        raise ValueError("a signal of nan or inf")
    values = np.unique(signal)
    hits = np.array([(lost & (signal >= value)).sum() for value in values]) / lost.sum()
    alarms = np.array([(~lost & (signal >= value)).sum() for value in values]) / (~lost).sum()
    index = hits - alarms
    best = int(np.flatnonzero(index >= index.max() - 1e-12)[-1])
    return float(values[0] if best == 0 else (values[best - 1] + values[best]) / 2)


def judged(signal: NDArray[np.float64], lost: NDArray[np.bool_], threshold: float) -> tuple[float, float]:
    """Sensitivity and specificity of warning at or above a threshold; nan where there is none to judge."""
    warned = signal >= threshold
    return (
        float((warned & lost).sum() / lost.sum()) if lost.any() else float("nan"),
        float((~warned & ~lost).sum() / (~lost).sum()) if (~lost).any() else float("nan"),
    )


def auc(signal: NDArray[np.float64], lost: NDArray[np.bool_]) -> float:
    """Chance that a lost run has a larger signal than a kept one, ties counting half; nan without either."""
    from scipy.stats import rankdata  # slow to load

    if not (lost.any() and (~lost).any()):
        return float("nan")
    ranks = rankdata(signal)
    count = int(lost.sum())
    above = ranks[lost].sum() - count * (count + 1) / 2
    return float(above / (count * int((~lost).sum())))


def looks(history: pd.DataFrame, runs: pd.DataFrame, share: float, signals: Sequence[str]) -> pd.DataFrame:
    """(runs, signals) each signal at the last look by a share of the training; nan before the first.

    Args:
        history: columns run and step, and the signals.
        runs: column run, and ``steps``, the length of each training.
        share: of the training, in (0, 1].
    """
    ends = runs.set_index("run")["steps"]
    seen = history[history["step"] <= share * history["run"].map(ends) + 1e-9]
    last = seen.sort_values("step", kind="stable").groupby("run").tail(1).set_index("run")
    return last.reindex(ends.index)[list(signals)]


def warnings_of(
    runs: pd.DataFrame,
    seen: pd.DataFrame,
    *,
    share: float,
    level: float,
    kept: str,
    by: str,
) -> Iterator[Warned]:
    """Each signal's threshold, chosen without one group of runs and tested on it; of all as a description.

    Args:
        runs: indexed by run, with ``kept`` (retention, percent) and ``by``, what is left out in turn.
        seen: of :func:`looks`, signals that rise with loss.
    """
    lost_all = (runs[kept] < level).to_numpy()
    for signal in seen:
        values = seen[signal].to_numpy(dtype=float)
        known = np.isfinite(values)
        if not known.any():
            continue
        for held in ("", *sorted(runs[by].unique())):
            test = known & ((runs[by] == held).to_numpy() if held else True)
            chosen = known & (~(runs[by] == held).to_numpy() if held else True)
            lost = lost_all[chosen]
            if not (lost.any() and (~lost).any()):
                continue
            threshold = best_threshold(values[chosen], lost)
            sensitivity, specificity = judged(values[test], lost_all[test], threshold)
            yield Warned(
                signal, share, level, held, threshold, int(lost_all[test].sum()), int(test.sum()),
                sensitivity, specificity, auc(values[test], lost_all[test]),
            )  # fmt: skip


def first_crossings(
    history: pd.DataFrame, runs: pd.DataFrame, *, signal: str, threshold: float, kept: str, level: float
) -> pd.DataFrame:
    """When a rule first warned of each run, when it was lost, and what stopping then would have kept.

    Args:
        history: columns run, step, ends_epoch, ``signal``, ``kept`` (retention at each look, percent) and
            validation_accuracy (percent, at each epoch's end).
        runs: column run, and ``steps``, the length of each training.
        signal: warns at or above ``threshold``.
        level: of ``kept``, below which a model is lost.

    Returns:
        One row per run: ``warned`` and ``lost``, the first look of each as a share of the training (nan:
        never), and ``lead``, by how many steps the warning came first; ``kept_then`` at the warning and
        ``kept_before`` at the look before it, 100 where it was the first; ``learnt_then``, the best
        validation accuracy up to it, 0 before the first epoch's end; ``learnt``, the best of all.
    """
    rows = []
    parts = dict(iter(history.sort_values("step", kind="stable").groupby("run")))
    for run, steps in zip(runs["run"], runs["steps"], strict=True):
        part = parts[run]
        step = part["step"].to_numpy(dtype=float)
        first = _first(part[signal].to_numpy(dtype=float) >= threshold)
        left = part[kept].to_numpy(dtype=float)
        gone = _first(left < level)
        learnt = part["validation_accuracy"].to_numpy(dtype=float)
        before = learnt[: len(part) if first is None else first + 1]
        warned_step = np.nan if first is None else step[first]
        lost_step = np.nan if gone is None else step[gone]
        rows.append(
            {
                "run": run,
                "warned": warned_step / steps,
                "lost": lost_step / steps,
                "lead": lost_step - warned_step,
                "kept_then": np.nan if first is None else left[first],
                "kept_before": np.nan if first is None else left[first - 1] if first else 100.0,
                "learnt_then": float(np.nanmax(before, initial=0.0)),
                "learnt": float(np.nanmax(learnt, initial=0.0)),
            }
        )
    return pd.DataFrame(rows).set_index("run")


def _first(true: NDArray[np.bool_]) -> int | None:
    return int(true.argmax()) if true.any() else None


__all__ = ["Warned", "auc", "best_threshold", "first_crossings", "judged", "looks", "warnings_of"]
