"""Figures of a repair: accuracy, retention and representation along its steps. They compute nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipdrift.figures.panels import COLOURS, new_figure, plain, style
from clipdrift.repair.arguments import blocks_text
from clipdrift.repair.result import Repaired
from clipdrift.repair.steps import Step
from clipdrift.runs.files import write_atomically

_DPI = 150
_MARKERS = ("o", "s", "^", "D", "v", "P")
_LINES = ("-", "--", "-.", ":")
"""Markers and lines tell series apart without their colours."""

_TITLES = {
    "interpolate": "From the backbone to the adapted model",
    "rewind": "Blocks put back to the backbone",
    "soften": "Intruder dimensions scaled down",
}


def path(found: Repaired) -> Figure:
    """Accuracy, retention, CKA and, where both are known, accuracy over retention; one point per step.

    The chosen step is ringed, and a dashed line marks it.
    """
    panels = _panels(found)
    with style():
        figure = new_figure(3.1 * max(2, len(panels)), 3.5)
        axes = figure.subplots(1, len(panels), squeeze=False).ravel()
        for axis, draw in zip(axes, panels, strict=True):
            draw(axis, found)
        room = int(10 * figure.get_figwidth())
        names = f"{plain(found.base.name, room // 2 - 6)}  to  {plain(found.tuned.name, room // 2 - 6)}"
        figure.suptitle(f"{_TITLES[found.kind]}\n{names}", x=0.01, ha="left", linespacing=1.4)
    return figure


def write_path(found: Repaired, file: Path) -> Path:
    """Write :func:`path` as PNG."""
    figure = path(found)
    with style():
        write_atomically(file, lambda stream: figure.savefig(stream, format="png", dpi=_DPI))
    return file


def _panels(found: Repaired) -> list[Callable[[Axes, Repaired], None]]:
    accurate = all(step.accuracy is not None for step in found.steps)
    kept = _retained(found)
    panels: list[Callable[[Axes, Repaired], None]] = []
    if accurate:
        panels.append(_accuracy)
    if kept:
        panels.append(_retention)
    panels.append(_representation)
    if accurate and kept and len(found.steps) > 2:
        panels.append(_trade)
    return panels


def _retained(found: Repaired) -> list[str]:
    """Transfer sets on which there was something to keep."""
    return [name for name in found.transfer if all(s.retention(name) is not None for s in found.steps)]


def _accuracy(axis: Axes, found: Repaired) -> None:
    _lines(axis, found, {"accuracy": [step.accuracy or 0.0 for step in found.steps]}, first=0)
    axis.set_title("accuracy of the head", loc="left")
    axis.set_ylabel("%")


def _retention(axis: Axes, found: Repaired) -> None:
    sets = _retained(found)
    series = {plain(name, 22): [step.retention(name) or 0.0 for step in found.steps] for name in sets}
    if len(sets) > 1:
        series["mean"] = [step.retention() or 0.0 for step in found.steps]
    _lines(axis, found, series, first=1)
    axis.axhline(100, color="black", linewidth=0.8)
    axis.set_title("retention", loc="left")
    axis.set_ylabel("zero-shot, % of the backbone's")


def _representation(axis: Axes, found: Repaired) -> None:
    measures = [step.measures["cka"] for step in found.steps]
    series = {"mean over blocks": [step.value("cka") for step in found.steps]}
    if all(len(values.value_blocks) > 1 for values in measures):
        series["lowest block"] = [min(values.value_blocks) for values in measures]
    _lines(axis, found, series, first=2)
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set_title("CKA with the backbone", loc="left")
    axis.set_ylabel("CKA")


def _lines(axis: Axes, found: Repaired, series: dict[str, list[float]], first: int) -> None:
    places, ticks = _places(found)
    for index, (label, values) in enumerate(series.items()):
        axis.plot(
            places,
            values,
            linestyle=_LINES[index % len(_LINES)],
            marker=_MARKERS[index % len(_MARKERS)],
            color=COLOURS[(first + index) % len(COLOURS)],
            markersize=4,
            linewidth=1.4,
            label=label,
        )
        if found.chosen is not None:
            _ring(axis, places[found.chosen], values[found.chosen])
    if found.chosen is not None:
        axis.axvline(places[found.chosen], color="#444444", linewidth=1, linestyle=(0, (4, 3)))
    if len(series) > 1:
        # a path falls from the left, from alpha 0 on; what begins at the tuned model may rise
        place: Literal["lower left", "best"] = "lower left" if found.kind == "interpolate" else "best"
        axis.legend(framealpha=1, edgecolor="none", borderpad=0.1, fontsize=8, loc=place)
    if ticks:
        few = len(ticks) <= 12
        shown = range(0, len(ticks), 1 if few else max(1, len(ticks) // 6))
        axis.set_xticks([places[i] for i in shown], [ticks[i] for i in shown])
        axis.margins(x=0.12)
    axis.set_xlabel(_AXES[found.kind])


_AXES = {
    "interpolate": "alpha (0 backbone, 1 adapted)",
    "rewind": "blocks put back",
    "soften": "what is left of intruders",
}


def _places(found: Repaired) -> tuple[list[float], list[str]]:
    """Position of each step, and its name where that is no number."""
    if found.kind == "interpolate":
        return [step.alpha or 0.0 for step in found.steps], []
    names: dict[str, Callable[[Step], str]] = {
        "rewind": lambda step: blocks_text(step.rewound) or "none",
        "soften": lambda step: "all" if step.factor == 1 else f"{step.factor:g}",
    }
    said = [names[found.kind](step) for step in found.steps]
    return [float(i) for i in range(len(said))], said


def _trade(axis: Axes, found: Repaired) -> None:
    """Accuracy over retention, the ends and the chosen step named."""
    across = [step.retention() or 0.0 for step in found.steps]
    up = [step.accuracy or 0.0 for step in found.steps]
    axis.plot(across, up, "-o", color=COLOURS[3], markersize=4, linewidth=1.4)
    _, ticks = _places(found)
    names = ticks or [step.label for step in found.steps]
    named = {0, len(names) - 1, *([] if found.chosen is None else [found.chosen])}
    for index in sorted(named):
        axis.annotate(
            names[index], (across[index], up[index]), (5, 5), textcoords="offset points", fontsize=8
        )
    if found.chosen is not None:
        _ring(axis, across[found.chosen], up[found.chosen])
    axis.set_title("learnt against kept", loc="left")
    axis.set_xlabel("retention, %")
    axis.set_ylabel("accuracy, %")
    axis.margins(0.14)


def _ring(axis: Axes, across: float, up: float) -> None:
    look: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": "black", "markersize": 10}
    axis.plot([across], [up], "o", markeredgewidth=1.4, zorder=5, **look)
