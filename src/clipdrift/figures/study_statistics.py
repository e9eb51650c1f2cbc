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
    """Target, method and the name that analysis gives its plain variant."""
    runs = tables.runs[tables.runs["plain"] & (tables.runs["status"] == "done")]
    found = runs.drop_duplicates(["target", "method"])
    return list(found[["target", "method", "variant"]].itertuples(index=False, name=None))


def _indexed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop_duplicates(["group", "statistic"]).set_index(["group", "statistic"])


def _rates(tables: StudySource) -> tuple[str, str, list[Line]]:
    rows = _indexed(tables.rows("rate").dropna(subset=["value"]))
    out: list[Line] = []
    for signal in ("entropy_drift", "representation_drift"):
        for target, method, variant in _variants(tables):
            key = (f"{target}: {variant}", f"Pearson of log_rate with {signal}")
            if key in rows.index:
                out.append((f"{short(signal)}, {target}, {method}", rows.loc[key], look(method)))
    return "drift with rate", "Pearson r with log rate (−1 to 1)", out


def _methods(tables: StudySource) -> tuple[str, str, list[Line]]:
    rows = tables.rows("methods")
    rows = _indexed(rows[rows["effect"].notna() & (rows["test"] == "Welch t")])
    known = _variants(tables)
    first = {a[0]: a for a in reversed(known)}  # the others are compared with a target's first method
    pairs = [(first[b[0]], b) for b in known if b is not first[b[0]]]
    several = len({(a[1], b[1]) for a, b in pairs}) > 1
    out: list[Line] = []
    name = "methods"
    for outcome in dict.fromkeys(str(s).removeprefix("t of ") for _, s in rows.index):
        for (target, one, left), (_, two, right) in pairs:
            for a, b, said in ((one, two, f"{left} - {right}"), (two, one, f"{right} - {left}")):
                for scope in ("all common rates", *_only_rate(rows, f"{target}: {said}, rate ")):
                    key = (f"{target}: {said}, {scope}", f"t of {outcome}")
                    if key in rows.index:
                        pair = f", {a} − {b}" if several else ""
                        name = name if several else f"{a} − {b}"
                        out.append((f"{short(outcome)}, {target}{pair}", rows.loc[key], _NEUTRAL))
                        break
    return f"{name} at matched rates", "Cohen's d", out


def _only_rate(rows: pd.DataFrame, start: str) -> list[str]:
    """The scope of the one rate that two methods share; none where they share several."""
    found = {str(g).removeprefix(start) for g, _ in rows.index if str(g).startswith(start)}
    return [f"rate {found.pop()}"] if len(found) == 1 else []


def _mixed(tables: StudySource) -> tuple[str, str, list[Line]]:
    rows = tables.rows("rate").dropna(subset=["value"])
    out: list[Line] = []
    for signal in ATTENTION:
        about = f"mixed model of {signal}: "
        for _, row in rows[rows["statistic"].str.startswith(about)].iterrows():
            term = str(row["statistic"]).removeprefix(about)
            term = term.replace("log_rate", "per decade").replace(" x ", " × ")
            out.append((f"{short(signal)}: {term}", row, _NEUTRAL))
    return "mixed model", "drift in %, coefficient", out
