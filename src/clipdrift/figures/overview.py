"""The dashboard: a study on one page."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipdrift.figures.look import Canvas, label, look, method_key, note
from clipdrift.figures.over_rates import reference
from clipdrift.figures.over_training import epochs
from clipdrift.figures.relations import scatter
from clipdrift.figures.seeds import along, lost_text, over_rates, seeds_text, zero
from clipdrift.figures.source import NotDrawnError, Source, in_order, joined, places, plain, rates


def dashboard(tables: Source, canvas: Canvas) -> Figure:
    """For each target: accuracy, entropy drift, CKA and retention by rate, training, depth, the trade."""
    runs = plain(tables)
    kept = [c for c in runs if str(c).startswith("retention_") and runs[c].notna().any()][:1]
    columns = [c for c in ("accuracy", "entropy_drift", "cka", *kept) if c in runs and runs[c].notna().any()]
    if not columns:
        raise NotDrawnError("no run has accuracy, drift or retention")
    names = in_order(runs["place"])
    figure = canvas.figure(7.0, 3.1 * len(names) + 0.6)
    parts = figure.subfigures(len(names), 1, squeeze=False)[:, 0]
    for sub, (place, part) in zip(parts, places(runs), strict=True):
        axes = sub.subplots(2, 4)
        sub.suptitle(place, x=0.01, ha="left", fontsize=8.5, fontweight="bold")
        for axis, column in zip(axes[0], columns, strict=False):
            over_rates(axis, part, str(column))
            reference(axis, part, str(column))
            axis.set_ylabel(label(str(column)))
        spare = [*axes[0, len(columns) :], *axes[1]]
        drawn = _second(spare[-4:], tables, place, part, [str(k) for k in kept])
        for axis in [*spare[:-4], *spare[-4:][drawn:]]:
            axis.axis("off")
    method_key(figure, in_order(runs["method"]))
    note(
        figure, seeds_text(runs[runs["status"] == "done"]), "Training and depth: mean over seeds at the highest "
        "rate, bands ± 1 sd. Last panel: runs, darker at higher rates.", lost_text(tables.ends, runs),
    )  # fmt: skip
    return figure


def _second(axes: list[Axes], tables: Source, place: str, runs: object, kept: list[str]) -> int:
    """Training, depth and the trade into the panels; how many of them were there to draw."""
    here = plain(tables)
    here = here[here["place"] == place]
    top = max(rates(here))
    count = 0
    for column in ("validation_accuracy", "entropy_drift"):
        if not tables.history.empty and column in tables.history:
            points = epochs(joined(tables, tables.history))
            _lines(
                axes[count],
                points[(points["place"] == place) & (points["learning_rate"] == top)],
                "time",
                column,
            )
            axes[count].set(xlabel="epoch", ylabel=label(column))
            axes[count].set_xlim(left=0)
            count += 1
    if "entropy" in set(tables.blocks["measure"]):
        points = joined(tables, tables.blocks[tables.blocks["measure"] == "entropy"], "drift")
        _lines(
            axes[count],
            points[(points["place"] == place) & (points["learning_rate"] == top)],
            "block",
            "drift",
        )
        axes[count].set(xlabel="block", ylabel=label("entropy_drift"))
        zero(axes[count])
        count += 1
    if kept and "accuracy" in here:
        scatter(axes[count], here, kept[0], "accuracy", rates(here))
        axes[count].set(xlabel=label(kept[0]), ylabel=label("accuracy"))
        count += 1
    return count


def _lines(axis: Axes, points: object, x: str, column: str) -> None:
    for method, part in points.dropna(subset=[column]).groupby("method", sort=False):  # type: ignore[attr-defined]
        how = look(str(method))
        along(axis, part, x, column, how.colour, line=how.line)
