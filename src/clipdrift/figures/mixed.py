"""Figure of a mix: what every run and mix has learnt, over what it keeps. It computes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from clipdrift.figures.panels import COLOURS, new_figure, plain, style
from clipdrift.mixing.choice import MixRule, kept_at
from clipdrift.mixing.result import Mixed
from clipdrift.repair.steps import Step
from clipdrift.runs.files import write_atomically

_DPI = 150
_MARKERS = {"uniform": "s", "greedy": "D", "stock": "^"}


def mixed(found: Mixed) -> Figure:
    """Validation accuracy over retention, or over CKA where none is measured: runs by number, mixes by shape.

    The chosen mix is ringed; a line marks the retention that was asked for.
    """
    rule = MixRule(keep=found.keep, keep_on=found.keep_on)
    retained = all(kept_at(run.step, rule) is not None for run in found.runs)

    def place(step: Step) -> tuple[float, float]:
        across = kept_at(step, rule) if retained else step.value("cka")
        return across or 0.0, step.accuracy or 0.0

    with style():
        figure = new_figure(5.6, 4.0)
        axis = figure.subplots()
        for run in found.runs:
            across, up = place(run.step)
            label = "runs alone, by number" if run.number == 1 else None
            axis.plot([across], [up], "o", color=COLOURS[0], markersize=5, label=label)
            axis.annotate(str(run.number), (across, up), (5, 4), textcoords="offset points", fontsize=8)
        for at, (kind, mix) in enumerate(found.mixes.items(), start=1):
            across, up = place(mix.step)
            named = plain(f"{mix.step.label} ({'+'.join(map(str, mix.runs))})", 40)
            axis.plot([across], [up], _MARKERS[kind], color=COLOURS[at], markersize=7, label=named)
            if kind == found.chosen:
                ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": "black"}
                ring["markersize"] = 13
                axis.plot([across], [up], "o", markeredgewidth=1.4, zorder=5, **ring)
        if found.keep is not None and retained:
            axis.axvline(found.keep, color="#444444", linewidth=1, linestyle=(0, (4, 3)))
        where = found.keep_on or (
            "worst transfer set" if len(found.transfer) > 1 else "".join(found.transfer)
        )
        axis.set_xlabel(f"retention, %: {plain(where, 40)}" if retained else "CKA with the backbone")
        axis.set_ylabel("accuracy on validation images, %")
        axis.margins(0.14)
        axis.legend(framealpha=1, edgecolor="none", fontsize=8)
        figure.suptitle(f"Runs on {plain(found.base.name, 40)}, alone and mixed", x=0.01, ha="left")
    return figure


def write_mixed(found: Mixed, file: Path) -> Path:
    """Write :func:`mixed` as PNG."""
    figure = mixed(found)
    with style():
        write_atomically(file, lambda stream: figure.savefig(stream, format="png", dpi=_DPI))
    return file
