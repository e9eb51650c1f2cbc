"""The dashboard: a study on one page."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipdrift.figures.look import Canvas, few_ticks, look, method_key, note
from clipdrift.figures.over_rates import reference
from clipdrift.figures.over_training import epochs
from clipdrift.figures.relations import scatter
from clipdrift.figures.seeds import along, lost_text, over_rates, seeds_text, zero
from clipdrift.figures.source import NotDrawnError, StudySource, in_order, joined, places, plain, rates
from clipdrift.figures.words import label
from clipdrift.outcomes.columns import columns_of, outcome


def dashboard(tables: StudySource, canvas: Canvas) -> Figure:
    """Draw by target: accuracy, entropy drift, CKA and retention by rate, training, depth, the trade."""
    runs = plain(tables)
    kept = [c for c in columns_of("retention", runs) if runs[c].notna().any()][:1]
    columns = [c for c in ("accuracy", "entropy_drift", "cka", *kept) if c in runs and runs[c].notna().any()]
    if not columns:
        raise NotDrawnError("no run has accuracy, drift or retention")
    names = in_order(runs["place"])
    figure = canvas.figure(7.2, 3.5 * len(names) + 0.6)
    parts = figure.subfigures(len(names), 1, squeeze=False)[:, 0]
    for sub, (place, part) in zip(parts, places(runs), strict=True):
        axes = sub.subplots(2, 4)
        sub.suptitle(place, x=0.01, ha="left", fontsize=8.5, fontweight="bold")
        for axis, column in zip(axes[0], columns, strict=False):
            over_rates(axis, part, str(column))
            reference(axis, part, str(column))
            axis.set_ylabel(label(str(column)))
        spare = [*axes[0, len(columns) :], *axes[1]]
        drawn = _second(spare[-4:], tables, place, kept)
        for axis in [*spare[:-4], *spare[-4:][drawn:]]:
            axis.axis("off")
    method_key(figure, in_order(runs["method"]))
    done = runs[runs["status"] == "done"]
    note(
        figure, seeds_text(done), "Training and depth: the highest rate in common, mean over seeds ± 1 sd.",
        "Last panel: runs, darker at higher rates.", lost_text(tables.ends, runs, crosses=True),
    )  # fmt: skip
    return figure


def _second(axes: list[Axes], tables: StudySource, place: str, kept: list[str]) -> int:
    """Training, depth and the trade into the panels; how many of them were there to draw."""
    here = plain(tables)
    here = here[here["place"] == place]
    shared = here.groupby("learning_rate")["method"].nunique()
    top = max(rates(here), key=lambda rate: (shared[rate], rate))
    left = iter(axes)
    count = 0

    def course(table: pd.DataFrame, x: str, column: str, said: str) -> int:
        points = table[(table["place"] == place) & (table["learning_rate"] == top)]
        if column not in points or points[column].isna().all():
            return 0
        axis = next(left)
        for method, part in points.dropna(subset=[column]).groupby("method", sort=False):
            how = look(str(method))
            along(axis, part, x, column, how.colour, line=how.line)
        axis.set(xlabel="block" if x == "block" else "epoch", ylabel=label(said), xlim=(0, None))
        few_ticks(axis, x=4)
        if outcome(said).kind == "drift":
            zero(axis)
        return 1

    if "epoch" in tables.history:
        points = epochs(joined(tables, tables.history))
        count += course(points, "time", "validation_accuracy", "validation_accuracy")
        count += course(points, "time", "entropy_drift", "entropy_drift")
    if "entropy" in set(tables.blocks["measure"]):
        entropy = joined(tables, tables.blocks[tables.blocks["measure"] == "entropy"], "drift")
        count += course(entropy, "block", "drift", "entropy_drift")
    if kept and "accuracy" in here:
        axis = next(left)
        scatter(axis, here, kept[0], "accuracy", rates(here))
        axis.set(xlabel=label(kept[0]), ylabel=label("accuracy"))
        few_ticks(axis, x=4)
        count += 1
    return count
