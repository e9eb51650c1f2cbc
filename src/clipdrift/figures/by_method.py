"""Panels that several figures share: a column per method, a row per target and measure."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipdrift.figures.look import IN_A_ROW, Canvas, few_ticks, method_panels, note, rate_key, tidy
from clipdrift.figures.seeds import band_text, by_rate, lost_text, zero
from clipdrift.figures.source import NotDrawnError, StudySource, in_order, places, rates
from clipdrift.figures.words import label
from clipdrift.outcomes.columns import outcome


def by_method(
    tables: StudySource, canvas: Canvas, points: pd.DataFrame, x: str, columns: Sequence[str], xlabel: str
) -> Figure:
    """Lines over ``x``, one for each rate: mean over seeds with ± sd.

    Args:
        points: as :func:`clipdrift.figures.source.joined` gives it, with ``x`` and some of the columns.
        xlabel: what x is, with its unit.

    Raises:
        NotDrawnError: none of the columns has a number.
    """
    known = [c for c in columns if c in points and points[c].notna().any()]
    if not known:
        raise NotDrawnError(f"no record of {' or '.join(columns)} by {xlabel.split()[0]}")
    names, methods, found = in_order(points["place"]), in_order(points["method"]), rates(points)
    figure, axes, rows = method_panels(canvas, len(names) * len(known), len(methods), 1.45)
    row = iter(rows)
    for place, part in places(points):
        for column in known:
            panels = next(row)
            for axis, method in zip(panels, methods, strict=True):
                those = part[part["method"] == method].dropna(subset=[column])
                by_rate(axis, those, x, column, method, found)
                no_change(axis, column)
                axis.set_title(f"{place}, {method}")
            few_ticks(panels[0], y=4)
            for axis in panels[::IN_A_ROW]:
                axis.set_ylabel(label(column))
    tidy(axes, xlabel)
    rate_key(figure, found)
    runs = tables.runs
    note(figure, band_text(points), lost_text(tables.ends, runs[runs["plain"]]))
    return figure


def no_change(axis: Axes, column: str) -> None:
    """Draw the line at which nothing has changed, in a panel that has data."""
    kind = outcome(column).kind
    at = {"cka": 1.0}.get(column, 100.0 if kind == "retention" else 0.0)
    if axis.has_data() and (at or kind == "drift"):
        zero(axis, at)
