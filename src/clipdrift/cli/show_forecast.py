"""Terminal output of a forecast: sentences, then the rates, then what became of each number in studies."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clipdrift.errors import printable
from clipdrift.forecasting import Forecast
from clipdrift.forecasting.words import computed, standing, tested, words
from clipdrift.texts import decimal, fixed, rate

_UNITS = {"cell": "cells", "target": "targets", "target and method": "groups"}


def forecast_report(found: Forecast) -> RenderableType:
    """What there is to gain and which rates, then tables."""
    first, *rest = words(found) or ["Nothing could be computed."]
    lines: list[RenderableType] = [Text(printable(first), style="bold")]
    lines += [Text(printable(line), style="yellow" if line.startswith("note:") else "") for line in rest]
    if found.first_steps:
        lines += [Text(), _rates(found)]
    if found.gradient is not None:
        blocks = ", ".join(decimal(norm) for norm in found.gradient.blocks)
        lines.append(
            Text(f"gradient norm by block: {blocks}; projection {decimal(found.gradient.projection)}")
        )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("in the committed studies", "verdict", "rho", "over"):
        table.add_column(title, no_wrap=title in ("verdict", "rho"))
    for one in filter(None, (tested(found, name) for name in computed(found))):
        outcome = one.outcome.removesuffix(", %").removesuffix(", points")
        known = one.low is not None and one.high is not None
        rho = "" if one.rho is None else f"{one.rho:+.2f}"
        span = f" ({one.low:+.2f} to {one.high:+.2f})" if known else ""
        style = "green" if one.verdict == "predicts" else "dim"
        units = f"{one.units} {_UNITS[one.unit]}"
        table.add_row(f"{one.words}; {outcome}", Text(one.verdict, style=style), rho + span, units)
    if table.row_count:
        lines += [Text(), table]
    return Group(*lines)


def _rates(found: Forecast) -> Table:
    first = "first step" if found.steps == 1 else f"{found.steps} steps"
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rate", justify="right", no_wrap=True)
    for title in (f"drift, {first}", "over draws", "1 - CKA", *(f"drift, {name}" for name in found.transfer)):
        table.add_column(title, justify="right")  # the words above a number may break, it does not
    table.add_column("", no_wrap=True)
    for step in found.first_steps:
        ends = f"{fixed(min(step.drift_draws))} to {fixed(max(step.drift_draws))}" if step.drift_draws else ""
        moved = [_text(step.transfer_drift.get(name)) for name in found.transfer]
        table.add_row(
            rate(step.rate), _text(step.drift), ends, _text(step.cka_loss), *moved, standing(found, step)
        )
    return table


def _text(value: float | None) -> str:
    return "" if value is None else fixed(value)
