"""Figures of a method's options: penalties, frozen blocks, LoRA's matrices and ranks, weight decay."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipdrift.figures.look import GREY, Canvas, few_ticks, look, note
from clipdrift.figures.seeds import in_categories, lost_text
from clipdrift.figures.source import NotDrawnError, StudySource, done, retentions
from clipdrift.figures.words import label
from clipdrift.runs.record import OPTIONS
from clipdrift.texts import option
from clipdrift.texts import rate as rate_text

SAME = ("place", "method", "learning_rate")


def _groups(runs: pd.DataFrame, free: tuple[str, ...]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Runs of one target, method and rate that differ in ``free`` (and seed) alone, if they do."""
    held = [name for name in OPTIONS if name in runs and name not in free]
    keys = [runs[name].map(str) for name in (*SAME, *held)]
    for _, part in runs.groupby(keys, sort=False):
        if part[[name for name in free if name in part]].map(str).drop_duplicates().shape[0] > 1:
            first = part.iloc[0]
            yield f"{first['place']}, {first['method']}, {rate_text(first['learning_rate'])}", part


def _panels(
    tables: StudySource,
    canvas: Canvas,
    free: tuple[str, ...],
    name: Callable[[pd.Series], str],
    missing: str,
    axis: str,
) -> Figure:
    """A row for each target, method and rate; panels of accuracy, entropy drift and retention."""
    runs = done(tables)
    groups = list(_groups(runs, free)) if free[0] in runs else []
    if not groups:
        raise NotDrawnError(missing)
    columns = [c for c in ("accuracy", "entropy_drift") if c in runs and runs[c].notna().any()]
    columns += retentions(runs)
    named = [(title, _named(part, free, name)) for title, part in groups]
    most = max(len(parts) for _, parts in named)
    figure, axes = canvas.grid(len(named), len(columns), height=0.6 + 0.24 * most, extra=0.3, sharex="col")
    for row, (title, parts) in zip(axes, named, strict=True):
        how = look(str(next(iter(parts.values()))["method"].iloc[0]))
        for panel, column in zip(row, columns, strict=True):
            in_categories(panel, parts, column, how)
            _standard(panel, parts, column)
            if panel is not row[0]:
                panel.set_yticklabels([])
            panel.grid(axis="y", visible=False)
            few_ticks(panel, x=4, y=None)
        row[0].set_title(title)
        row[0].set_ylabel(axis)
    for panel, column in zip(axes[-1], columns, strict=True):
        panel.set_xlabel(label(column))
    sizes = sorted({len(part) for _, parts in named for part in parts.values()})
    count = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    note(
        figure, f"Small: seeds (n = {count}); filled: mean; bars: ± 1 sd.",
        "Dotted: mean of the method as such." if tables.runs["plain"].any() else "",
        lost_text(tables.ends, tables.runs),
    )  # fmt: skip
    return figure


def _standard(panel: Axes, parts: dict[str, pd.DataFrame], column: str) -> None:
    """A dotted line at the mean of the runs whose options are the usual ones."""
    usual = pd.concat(parts.values()).query("plain")[column].mean()
    if pd.notna(usual):
        panel.axvline(usual, color=GREY, linewidth=0.7, linestyle=(0, (1, 1.5)), zorder=1)


def _named(
    part: pd.DataFrame, free: tuple[str, ...], name: Callable[[pd.Series], str]
) -> dict[str, pd.DataFrame]:
    """Runs by the option's name, in the option's order (words by their length), no option first."""
    order = [c for c in free if c in part]
    texts = {c for c in order if not pd.api.types.is_numeric_dtype(part[c])}
    keys = pd.DataFrame({c: part[c].str.len() if c in texts - {"penalty"} else part[c] for c in order})
    kept = part.loc[keys.sort_values(order, na_position="first", kind="stable").index]
    names = kept.apply(name, axis=1)
    return {str(k): kept[names == k] for k in dict.fromkeys(names)}


def penalties(tables: StudySource, canvas: Canvas) -> Figure:
    """Draw each penalty and weight beside none."""

    def name(run: pd.Series) -> str:
        return "none" if pd.isna(run["penalty"]) else f"{run['penalty']} {run['penalty_weight']:g}"

    runs = tables.runs
    if "penalty" not in runs or runs["penalty"].isna().all():
        raise NotDrawnError("no run has a penalty")
    return _panels(
        tables,
        canvas,
        ("penalty", "penalty_weight"),
        name,
        "no penalised run has a counterpart",
        "penalty, weight",
    )


def _one_option(column: str, axis: str, words: str) -> Callable[[StudySource, Canvas], Figure]:
    """Make the function that draws runs that differ in one option alone."""

    def draw(tables: StudySource, canvas: Canvas) -> Figure:
        missing = f"no runs differ in {words} alone"
        return _panels(tables, canvas, (column,), lambda run: option(run[column]), missing, axis)

    return draw


frozen_blocks = _one_option("frozen_blocks", "frozen blocks", "frozen blocks")
lora_targets = _one_option("matrices", "matrices", "the matrices of their adapters")
lora_ranks = _one_option("rank", "rank", "the rank of their adapters")
weight_decay = _one_option("weight_decay", "weight decay", "weight decay")
