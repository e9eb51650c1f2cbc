"""Figure of a forecast: accuracy before training, drift of the first step by rate, gradient by block."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipdrift.decision.result import Estimate
from clipdrift.figures.panels import (
    COLOURS,
    block_ticks,
    new_figure,
    percent_axis,
    percent_bars,
    plain,
    style,
)
from clipdrift.forecasting import Forecast


def forecast(found: Forecast) -> Figure:
    """One panel for each of the three that there is."""
    accuracies = _accuracies(found)
    panels = [
        panel
        for panel, there in (
            (_ability, bool(accuracies)),
            (_steps, bool(found.first_steps)),
            (_gradient, found.gradient is not None),
        )
        if there
    ]
    with style():
        figure = new_figure(3.6 * max(1, len(panels)), 2.8)
        figure.suptitle(
            plain(f"{found.base} before training on {found.images.source}", 90), x=0.01, ha="left"
        )
        for axes, panel in zip(
            figure.subplots(1, max(1, len(panels)), squeeze=False)[0], panels, strict=False
        ):
            panel(axes, found)
        if not panels:
            figure.axes[0].set_axis_off()
            figure.axes[0].text(0, 0.5, "without labels there is nothing to draw")
    return figure


def write_forecast(found: Forecast, file: Any) -> None:
    """Write the figure as PNG."""
    with style():
        forecast(found).savefig(file, dpi=150, format="png", metadata={"Software": None})


def _accuracies(found: Forecast) -> dict[str, Estimate]:
    named = {"zero-shot": found.zero_shot, "linear probe": found.probe}
    kept = {name: one for name, one in named.items() if one is not None}
    return kept | {f"{plain(name, 18)}, zero-shot": facts.zero_shot for name, facts in found.transfer.items()}


def _ability(axes: Axes, found: Forecast) -> None:
    rows = _accuracies(found)
    places = np.arange(len(rows))
    percent_bars(axes, places, [one.value for one in rows.values()], 0.5, color=COLOURS[0])
    for place, one in zip(places, rows.values(), strict=True):
        if one.low is not None and one.high is not None:
            axes.plot([one.low, one.high], [place + 0.33] * 2, color="black", linewidth=1)
    percent_axis(axes, places, list(rows), "accuracy, %; line: 95 %")


def _steps(axes: Axes, found: Forecast) -> None:
    whole = [step for step in found.first_steps if step.drift is not None]
    rates = [step.rate for step in whole]
    axes.fill_between(
        rates,
        [min(step.drift_draws) for step in whole],
        [max(step.drift_draws) for step in whole],
        color=COLOURS[0], alpha=0.25, linewidth=0,
    )  # fmt: skip
    axes.plot(rates, [step.drift or 0.0 for step in whole], "o-", color=COLOURS[0], label="target")
    for colour, name in zip(COLOURS[2:], found.transfer, strict=False):
        axes.plot(
            rates, [step.transfer_drift[name] for step in whole], "s--", color=colour, label=plain(name, 18)
        )
    if found.suggestion is not None:
        axes.axhline(found.suggestion.threshold, color=COLOURS[1], linestyle=":", label="threshold, target")
    first = "first step" if found.steps == 1 else f"{found.steps} steps"
    axes.set(xscale="log", yscale="log", xlabel="learning rate", title=f"embedding drift after the {first}")
    axes.legend(frameon=False, fontsize=8)


def _gradient(axes: Axes, found: Forecast) -> None:
    assert found.gradient is not None
    blocks = found.gradient.blocks
    axes.bar(range(1, len(blocks) + 1), blocks, 0.7, color=COLOURS[2])
    axes.set_title("gradient norm at initialisation")
    block_ticks(axes, len(blocks))
