"""Figures of what goes with what: drift and zero-shot, measures with each other, predictors, statistics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clipdrift.figures.look import GREY, INK, Canvas, label, levels, look, method_key, note, shade, short
from clipdrift.figures.panels import CHANGE, colour_bar, heat_map, print_cells
from clipdrift.figures.seeds import lost_text, zero
from clipdrift.figures.source import NotDrawnError, Source, done, in_order, places, rates, retentions

DRIFTS = ("entropy_drift", "cka", "embedding_drift", "weight_drift")
LISTED = 16
"""Most signals that a ranking shows."""


def drift_zero_shot(tables: Source, canvas: Canvas) -> Figure:
    """Retention over drift, a point for each run: which drift goes with the loss."""
    runs = done(tables)
    kept = retentions(runs)
    columns = [c for c in DRIFTS if c in runs and runs[c].notna().any()]
    if not columns:
        raise NotDrawnError(f"no run has {' or '.join(DRIFTS)}")
    rows = [(place, part, name) for place, part in places(runs) for name in kept]
    figure, axes = canvas.grid(len(rows), len(columns), height=1.6, sharey="row", sharex="col")
    for row, (place, part, name) in zip(axes, rows, strict=True):
        for axis, column in zip(row, columns, strict=True):
            scatter(axis, part, column, name, rates(runs))
            zero(axis, 100)
        row[0].set_ylabel(label(name))
        row[0].set_title(place)
    for axis, column in zip(axes[-1], columns, strict=True):
        axis.set_xlabel(label(column))
        if column == "cka":
            axis.invert_xaxis()
    method_key(figure, in_order(runs["method"]))
    counts = ", ".join(f"{place} {len(part)}" for place, part in places(runs))
    note(
        figure, f"A point for each run (n: {counts}), the darker the higher its rate; CKA falls to the right.",
        lost_text(tables.ends, tables.runs),
    )  # fmt: skip
    return figure


def scatter(axis: Axes, runs: pd.DataFrame, x: str, y: str, found: Sequence[float]) -> None:
    """Runs as points in their method's colour and marker, darker at higher rates."""
    dark = dict(zip(found, levels(len(found)), strict=True))
    for method, part in runs.dropna(subset=[x, y]).groupby("method", sort=False):
        how = look(str(method))
        colours = [shade(how.colour, dark[rate]) for rate in part["learning_rate"]]
        axis.scatter(
            part[x], part[y], s=13, c=colours, marker=how.marker, edgecolor="white", linewidth=0.3, zorder=3
        )


def measures(tables: Source, canvas: Canvas) -> Figure:
    """Correlation of every two measures over cells: Pearson below the diagonal, Spearman above."""
    rows = tables.rows("measures").dropna(subset=["value"])
    found = {str(s): float(v) for s, v in zip(rows["statistic"], rows["value"], strict=True)}
    pairs = [s.partition(" of ")[2].split(" with ") for s in found if s.startswith("Pearson of ")]
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    if len(names) < 2:
        raise NotDrawnError("fewer than two measures vary over the runs")
    matrix = np.full((len(names), len(names)), np.nan)
    for i, first in enumerate(names):
        for j, second in enumerate(names[i + 1 :], start=i + 1):
            matrix[j, i] = found.get(f"Pearson of {first} with {second}", np.nan)
            matrix[i, j] = found.get(f"Spearman of {first} with {second}", np.nan)
    side = 1.7 + 0.34 * len(names)
    figure = canvas.figure(max(3.4, side), max(3.0, side * 0.93))
    axis = figure.subplots()
    shown = heat_map(axis, matrix, -1, 1, CHANGE)
    print_cells(axis, shown, lambda v: f"{v:.2f}".replace("0.", ".").replace("-", "−"), 5.5)
    places_ = range(1, len(names) + 1)
    axis.set_xticks(places_, [short(n) for n in names], rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(places_, [short(n) for n in names])
    axis.patch.set(hatch=None, facecolor="white")
    axis.grid(False)
    colour_bar(figure, shown, axis, "correlation (−1 to 1)")
    note(
        figure,
        f"Drifts of cell means (n = {rows['n'].iloc[0]} cells). Below the diagonal Pearson, above Spearman.",
    )
    return figure


def predictors(tables: Source, canvas: Canvas) -> Figure:
    """Signals ranked by their rank correlation with retention, at the chosen epoch and after the first."""
    rows = tables.rows("predictors")
    rows = rows[rows["group"] == "all"].dropna(subset=["value"]).set_index("statistic")
    kept = _first(rows.index, " with retention_")
    heads = [str(s).removeprefix("Spearman of ").removesuffix(f" with {kept}") for s in rows.index
             if str(s).startswith("Spearman of ") and str(s).endswith(f" with {kept}")]  # fmt: skip
    signals = [s for s in heads if not s.startswith("epoch1_")]
    if not signals:
        raise NotDrawnError("no signal varies together with a retention over the runs")
    strength = {s: abs(float(rows.at[f"Spearman of {s} with {kept}", "value"])) for s in signals}
    ranked = sorted(signals, key=lambda s: -strength[s])[:LISTED]
    figure, axes = canvas.grid(1, 2, width=3.4, height=0.6 + 0.21 * len(ranked), extra=0.35, sharey="all")
    threshold = _first(rows.index, f" for {kept} < ", whole=True)
    for offset, prefix, face in ((-0.16, "", INK), (0.16, "epoch1_", "white")):
        for place, signal in enumerate(ranked):
            for axis, said in (
                (axes[0][0], f"Spearman of {prefix}{signal} with {kept}"),
                (axes[0][1], f"AUC of {prefix}{signal} for {kept} < {threshold}"),
            ):
                if said in rows.index:
                    interval(axis, rows.loc[said], place + offset, INK, "o" if not prefix else "D", face)
    axes[0][0].set_yticks(range(len(ranked)), [short(s) for s in ranked])
    axes[0][0].set_ylim(len(ranked) - 0.4, -0.6)
    for axis, ends, at, said in zip(
        axes[0], ((-1.05, 1.05), (-0.03, 1.03)), (0.0, 0.5),
        (f"Spearman correlation with\n{label(kept)} (−1 to 1)", f"AUC for {short(kept)}\nbelow {threshold} (0.5: chance)"),
        strict=True,
    ):  # fmt: skip
        axis.set_xlim(ends)
        axis.set_xlabel(said)
        axis.axvline(at, color=GREY, linewidth=0.6)
        axis.grid(axis="y", visible=False)
        axis.grid(axis="x")
    keys = [
        Line2D([], [], color=INK, marker=m, markerfacecolor=f, linewidth=0.9, label=t)
        for m, f, t in (("o", INK, "chosen epoch"), ("D", "white", "after the first epoch"))
    ]
    figure.legend(handles=keys, loc="outside upper left", ncols=2)
    n = rows["n"].get(f"Spearman of {ranked[0]} with {kept}", "")
    shown = f"{len(ranked)} of {len(signals)} signals" if len(ranked) < len(signals) else "all signals"
    note(figure, f"Bars: 95 % intervals over cells (n = {n} cells); {shown}.")
    return figure


def _first(statistics: Sequence[str], text: str, whole: bool = False) -> str:
    """What the first statistic that contains ``text`` says after it (with ``retention_`` left on)."""
    for said in map(str, statistics):
        head, found, rest = said.partition(text)
        if found:
            return rest if whole else "retention_" + rest.partition(" < ")[0]
    if whole:
        return ""
    raise NotDrawnError("no signal varies together with a retention over the runs")


def interval(
    axis: Axes, row: pd.Series, place: float, colour: object, marker: str, face: object = None
) -> None:
    """One row of a table of tests: its value, and its interval where it has one."""
    if pd.notna(row["low"]) and pd.notna(row["high"]):
        axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=0.9, zorder=2)
    value = row["effect"] if str(row["interval"]).startswith("of d") else row["value"]
    style = {
        "markerfacecolor": colour if face is None else face,
        "markeredgecolor": colour,
        "markeredgewidth": 0.8,
    }
    axis.plot([value], [place], marker=marker, linestyle="none", markersize=4, zorder=3, **style)


def statistics(tables: Source, canvas: Canvas) -> Figure:
    """The study's main tests: rate and drift, methods at matched rate, the mixed model."""
    parts = [p for p in (_rates(tables), _methods(tables), _mixed(tables)) if p[2]]
    if not parts:
        raise NotDrawnError("the runs determine no test: two rates or two methods with two seeds are needed")
    most = max(len(rows) for _, _, rows in parts)
    figure, axes = canvas.grid(1, len(parts), width=2.45, height=0.7 + 0.17 * most, extra=0.2)
    for axis, (title, said, rows) in zip(axes[0], parts, strict=True):
        axis.axvline(0, color=GREY, linewidth=0.6)
        for place, (_, row, how) in enumerate(rows):
            interval(axis, row, place, how.colour, how.marker)
        axis.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=6.5)
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_title(title)
        axis.set_xlabel(said)
        axis.grid(axis="y", visible=False)
        axis.grid(axis="x")
    if max(abs(x) for x in axes[0][-1].get_xlim()) > 0 and any("d of" in p[1] for p in parts):
        for axis, part in zip(axes[0], parts, strict=True):
            if "Cohen" in part[1]:
                axis.set_xscale("symlog", linthresh=2)
                axis.set_xticks(
                    [t for t in (-50, -10, -2, 0, 2, 10, 50) if axis.get_xlim()[0] <= t <= axis.get_xlim()[1]]
                )
                axis.set_xticklabels([f"{t:g}".replace("-", "−") for t in axis.get_xticks()])
    note(
        figure,
        "Bars: 95 % intervals; units and tests as in the table of statistics.",
        lost_text(tables.ends, tables.runs),
    )
    return figure


class _Neutral:
    colour, marker = INK, "o"


_Found = tuple[str, str, list[tuple[str, pd.Series, object]]]
_TESTED = ("entropy_drift", "erf95_drift", "gini_drift", "head_diversity_drift")


def _plain_variants(tables: Source) -> list[tuple[str, str, str]]:
    """Place's target, method and its variant's name in the analysis."""
    runs = tables.runs[tables.runs["plain"] & (tables.runs["status"] == "done")]
    found = runs.drop_duplicates(["target", "method"])
    return list(found[["target", "method", "variant"]].itertuples(index=False, name=None))


def _rates(tables: Source) -> _Found:
    rows = tables.rows("rate").dropna(subset=["value"]).drop_duplicates(["group", "statistic"])
    rows = rows.set_index(["group", "statistic"])
    out = []
    for signal in ("entropy_drift", "representation_drift"):
        for target, method, variant in _plain_variants(tables):
            key = (f"{target}: {variant}", f"Pearson of log_rate with {signal}")
            if key in rows.index:
                out.append((f"{short(signal)}\n{target}, {method}", rows.loc[key], look(method)))
    return "rate and drift", "Pearson r with log rate", out


def _methods(tables: Source) -> _Found:
    rows = tables.rows("methods")
    rows = rows[rows["effect"].notna() & (rows["test"] == "Welch t")].drop_duplicates(["group", "statistic"])
    rows = rows.set_index(["group", "statistic"])
    known = _plain_variants(tables)
    outcomes = list(dict.fromkeys(s.removeprefix("t of ") for _, s in rows.index))
    out = []
    pairs = [(a, b) for i, a in enumerate(known) for b in known[i + 1 :] if a[0] == b[0]]
    for outcome in outcomes:
        for (target, one, first), (_, two, second) in pairs:
            for sign, said in ((1, f"{first} - {second}"), (-1, f"{second} - {first}")):
                key = (f"{target}: {said}, all common rates", f"t of {outcome}")
                if key in rows.index:
                    names = (one, two) if sign == 1 else (two, one)
                    pair = "" if len(pairs) == len({p[0][0] for p in pairs}) else f", {names[0]} − {names[1]}"
                    out.append((f"{short(outcome)}\n{target}{pair}", rows.loc[key], _Neutral()))
    methods = {(a[1], b[1]) for a, b in pairs}
    title = " − ".join(next(iter(methods))) if len(methods) == 1 else "methods"
    return f"{title}, matched rate", "Cohen's d of all rates", out


def _mixed(tables: Source) -> _Found:
    rows = tables.rows("rate").dropna(subset=["value"])
    out = []
    for signal in _TESTED:
        about = f"mixed model of {signal}: "
        for _, row in rows[rows["statistic"].str.startswith(about)].iterrows():
            out.append(
                (
                    f"{short(signal)}\n{str(row['statistic']).removeprefix(about).replace('_', ' ')}",
                    row,
                    _Neutral(),
                )
            )
    return "mixed model", "coefficient, points of drift in %", out
