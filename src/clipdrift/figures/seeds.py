"""Show runs that differ in their seed: a point each, their mean, ± one sd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from clipdrift.figures.look import GREY, Look, few_ticks, levels, line_width, look, rate_axis, shade
from clipdrift.figures.words import numbers


def spread(part: pd.DataFrame, by: str | list[str], column: str) -> pd.DataFrame:
    """Mean, standard deviation (n - 1; nan for one) and count of a column, in the order of ``by``."""
    return part.groupby(by)[column].agg(["mean", "std", "count"])


def over_rates(axis: Axes, runs: pd.DataFrame, column: str, *, xlabel: bool = True) -> None:
    """A line through the means of each method, ± sd, and a point for each seed.

    Args:
        runs: of one place; with ``method``, ``learning_rate``, ``status`` and the column.
    """
    known = runs.dropna(subset=[column]) if column in runs else runs.iloc[:0]
    methods = list(dict.fromkeys(runs["method"]))
    rates = sorted(runs["learning_rate"].unique())
    width = np.log10(rates[-1] / rates[0]) / max(1, len(rates) - 1) if len(rates) > 1 else 0.3
    for place, method in enumerate(methods):
        shift = 10 ** (0.1 * width * (place - (len(methods) - 1) / 2) * min(1, 4 / len(methods)))
        part, how = known[known["method"] == method], look(str(method))
        found = spread(part, "learning_rate", column)
        x = found.index.to_numpy(dtype=float) * shift
        axis.plot(x, found["mean"], color=how.colour, linestyle=how.line, zorder=3)
        bars(axis, x, found, how)
        axis.scatter(part["learning_rate"] * shift, part[column], **_points(how))
        lost = runs[(runs["method"] == method) & (runs["status"] == "diverged")]
        if len(lost):
            cross: dict[str, Any] = {"marker": "x", "color": how.colour, "s": 18, "linewidth": 1.2}
            at = lost["learning_rate"].unique() * shift
            low = np.full(len(at), 0.03)
            axis.scatter(at, low, transform=axis.get_xaxis_transform(), clip_on=False, **cross)
    rate_axis(axis, rates, xlabel)
    few_ticks(axis)


def bars(axis: Axes, x: np.ndarray, found: pd.DataFrame, how: Look, upright: bool = True) -> None:
    """± sd about means, where there is one."""
    known = found["std"].notna().to_numpy()
    place, mean, sd = x[known], found["mean"][known], found["std"][known]
    style: dict[str, Any] = {"fmt": "none", "ecolor": how.colour, "elinewidth": 0.9, "zorder": 3.5}
    if upright:
        axis.errorbar(place, mean, yerr=sd, **style)
    else:
        axis.errorbar(mean, place, xerr=sd, **style)


def _points(how: Look) -> dict[str, Any]:
    return {
        "s": 9, "marker": how.marker, "facecolor": "white", "edgecolor": how.colour, "linewidth": 0.7,
        "zorder": 4,
    }  # fmt: skip


def in_categories(
    axis: Axes, groups: Mapping[str, pd.DataFrame], column: str, how: Look | Mapping[str, Look]
) -> None:
    """Categories from top to bottom: a point for each seed, a bold mark at the mean, ± sd.

    Args:
        groups: runs by the category's name.
        how: one look for all, or one for each category.
    """
    for place, (name, part) in enumerate(groups.items()):
        style = how[name] if isinstance(how, Mapping) else how
        known = part[column].dropna() if column in part else pd.Series(dtype=float)
        if known.empty:
            continue
        alone = len(known) == 1
        if not alone:
            axis.scatter(known, np.full(len(known), place + 0.16), **_points(style))
        found = pd.DataFrame({"mean": [known.mean()], "std": [known.std()]})
        at = place - 0.12 * (not alone)
        axis.plot([known.mean()], [at], marker=style.marker, color=style.colour, linestyle="none")
        bars(axis, np.array([at]), found, style, upright=False)
    axis.set_yticks(range(len(groups)), list(groups))
    axis.set_ylim(len(groups) - 0.45, -0.55)
    axis.grid(axis="x")
    axis.tick_params(axis="y", length=0)


def along(
    axis: Axes,
    points: pd.DataFrame,
    x: str,
    column: str,
    colour: Any,
    level: float = 0.6,
    line: Any = "-",
) -> None:
    """Mean over seeds along training or depth, with a band of ± sd."""
    found = spread(points, x, column).sort_index()
    at = found.index.to_numpy(dtype=float)
    axis.plot(at, found["mean"], color=colour, linestyle=line, linewidth=line_width(level))
    if found["std"].notna().any():
        low, high = found["mean"] - found["std"], found["mean"] + found["std"]
        axis.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)


def by_rate(
    axis: Axes, points: pd.DataFrame, x: str, column: str, method: str, rates: Sequence[float]
) -> None:
    """:func:`along` for each rate of one method, light to dark."""
    for rate, level in zip(rates, levels(len(rates)), strict=True):
        part = points[points["learning_rate"] == rate]
        if len(part):
            along(axis, part, x, column, shade(look(method).colour, level), level)


def zero(axis: Axes, at: float = 0.0) -> None:
    """Draw the line of no change."""
    axis.axhline(at, color=GREY, linewidth=0.6, zorder=1)


def seeds_text(runs: pd.DataFrame, column: str | None = None) -> str:
    """Say what points, lines and bars are, and of how many seeds."""
    known = runs if column is None else runs.dropna(subset=[column])
    sizes = known.groupby(["place", "method", "learning_rate"]).size()
    if sizes.max() > 1:
        return f"Points: seeds; line: mean; bars: ± 1 sd over seeds ({numbers(sizes)} per cell)."
    return f"Points: runs, one seed per cell ({numbers(sizes)})."


def band_text(runs: pd.DataFrame) -> str:
    """The same for lines along training or depth."""
    sizes = runs.groupby(["place", "method", "learning_rate"])["run"].nunique()
    if sizes.max() > 1:
        return f"Lines: mean over seeds; bands: ± 1 sd ({numbers(sizes)} per line)."
    return f"Lines: one seed each ({numbers(sizes)})."


def lost_text(ends: Mapping[str, int], runs: pd.DataFrame, crosses: bool = False) -> str:
    """Say what is not shown: runs that diverged (unless crosses mark them), failed or are still to come."""
    diverged = int((runs["status"] == "diverged").sum())
    ours = ("failed", "running", "interrupted", "planned")
    kinds = [*ours, *(kind for kind in ends if kind not in ("done", "diverged", *ours))]
    away = [f"{diverged} diverged"] if diverged and not crosses else []
    away += [f"{ends[kind]} {kind}" for kind in kinds if ends.get(kind)]
    said = f"Crosses: {diverged} diverged." if diverged and crosses else ""
    return " ".join(filter(None, [said, f"Not shown: {', '.join(away)}." if away else ""]))
