"""The statistics of a study in one figure: what was tested, how large, how sure."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipdrift.figures.look import GREY, INK, Canvas, Look, few_ticks, look, note
from clipdrift.figures.relations import interval
from clipdrift.figures.seeds import lost_text
from clipdrift.figures.source import NotDrawnError, StudySource
from clipdrift.figures.words import short
from clipdrift.outcomes.keys import select

Line = tuple[str, pd.Series, Look]
"""Name, row of a table of tests, look."""
ATTENTION = ("entropy_drift", "erf95_drift", "gini_drift", "head_diversity_drift")
_NEUTRAL = Look(INK, "o", "-")
_WIDE = 6.0
"""Effect sizes beyond which their axis is compressed."""


def statistics(tables: StudySource, canvas: Canvas) -> Figure:
    """Correlation of rate and drift, effect sizes between methods, the mixed model; 95 % intervals."""
    parts = [part for part in (_rates(tables), _methods(tables), _mixed(tables)) if part[2]]
    if not parts:
        raise NotDrawnError(
            "the runs determine no test: two rates, or two methods with two seeds, are needed"
        )
    most = max(len(lines) for _, _, lines in parts)
    figure, axes = canvas.grid(1, len(parts), width=2.6, height=0.75 + 0.15 * most, extra=0.2)
    for axis, (title, said, lines) in zip(axes[0], parts, strict=True):
        _forest(axis, lines, most)
        axis.set_title(title)
        axis.set_xlabel(said)
    units = ", ".join(dict.fromkeys(str(row["unit"]) for _, _, lines in parts for _, row, _ in lines))
    note(figure, f"Bars: 95 % intervals. Sampling unit: {units}.", lost_text(tables.ends, tables.runs))
    return figure


def _forest(axis: Axes, lines: list[Line], most: int) -> None:
    axis.axvline(0, color=GREY, linewidth=0.6)
    for place, (_, row, how) in enumerate(lines):
        interval(axis, row, place, how.colour, how.marker)
    axis.set_yticks(range(len(lines)), [name for name, _, _ in lines], fontsize=6.3)
    axis.set_ylim(most - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x")
    few_ticks(axis, x=4, y=None)
    low, high = axis.get_xlim()
    if lines[0][1]["effect_name"] == "Cohen's d" and max(-low, high) > _WIDE:
        axis.set_xscale("symlog", linthresh=1)
        ticks = [t for t in (-100, -10, -1, 0, 1, 10, 100) if low <= t <= high]
        axis.set_xticks(ticks, [f"{t}".replace("-", "−") for t in ticks])
        axis.minorticks_off()


def _variants(tables: StudySource) -> list[tuple[str, str, str]]:
    """Place, method and the name that analysis gives its plain variant."""
    runs = tables.runs[tables.runs["plain"] & (tables.runs["status"] == "done")]
    found = runs.drop_duplicates(["place", "method"])
    return list(found[["place", "method", "variant"]].itertuples(index=False, name=None))


def _rates(tables: StudySource) -> tuple[str, str, list[Line]]:
    rows = select(tables.rows("rate").dropna(subset=["value"]), "Pearson", signal="log_rate")
    out: list[Line] = []
    for signal in ("entropy_drift", "representation_drift"):
        for place, method, variant in _variants(tables):
            for _, row in select(rows, outcome=signal, place=place, arm=variant)[:1].iterrows():
                out.append((f"{short(signal)}, {place}, {method}", row, look(method)))
    return "drift with rate", "Pearson r with log rate (−1 to 1)", out


def _methods(tables: StudySource) -> tuple[str, str, list[Line]]:
    rows = tables.rows("methods")
    rows = rows[rows["effect"].notna() & (rows["test"] == "Welch t")]
    known = _variants(tables)
    first = {a[0]: a for a in reversed(known)}  # the others are compared with a place's first method
    pairs = [(first[b[0]], b) for b in known if b is not first[b[0]]]
    several = len({(a[1], b[1]) for a, b in pairs}) > 1
    out: list[Line] = []
    name = "methods"
    for outcome in dict.fromkeys(rows["outcome"]):
        for (place, one, left), (_, two, right) in pairs:
            for a, b, arm, against in ((one, two, left, right), (two, one, right, left)):
                here = select(rows, outcome=outcome, place=place, arm=arm, against=against)
                for _, row in _overall(here)[:1].iterrows():
                    pair = f", {a} − {b}" if several else ""
                    name = name if several else f"{a} − {b}"
                    out.append((f"{short(outcome)}, {place}{pair}", row, _NEUTRAL))
    return f"{name} at matched rates", "Cohen's d", out


def _overall(rows: pd.DataFrame) -> pd.DataFrame:
    """Over all rates that two methods share, or at the one rate that they share."""
    whole, single = select(rows, matching="all rates"), select(rows, matching="rate")
    return whole if len(whole) or single["rate"].nunique() != 1 else single


def _mixed(tables: StudySource) -> tuple[str, str, list[Line]]:
    rows = select(tables.rows("rate").dropna(subset=["value"]), "mixed model")
    out: list[Line] = []
    for signal in ATTENTION:
        for _, row in select(rows, outcome=signal).iterrows():
            term = " × ".join(filter(None, ("per decade" if row["signal"] else "", row["term"])))
            out.append((f"{short(signal)}: {term}", row, _NEUTRAL))
    return "mixed model", "drift in %, coefficient", out
