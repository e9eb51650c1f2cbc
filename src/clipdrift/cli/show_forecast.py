"""Terminal output of a forecast: sentences, then the rates, then what became of each number in studies."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clipdrift.errors import printable
from clipdrift.forecasting import Forecast
from clipdrift.forecasting.words import JUDGED_BY, tested, words
from clipdrift.texts import decimal, rate


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
    judged = [(name, tested(found, name)) for name in JUDGED_BY]
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    for title in ("in the committed studies", "rho", "95 % interval", "units", "verdict"):
        table.add_column(title, no_wrap=title != "verdict")
    for _, one in judged:
        if one is not None:
            known = one.low is not None and one.high is not None
            table.add_row(
                one.words,
                "" if one.rho is None else f"{one.rho:+.2f}",
                f"{one.low:+.2f} to {one.high:+.2f}" if known else "",
                f"{one.units} {one.unit}s" if one.unit == "cell" else f"{one.units}, each {one.unit}",
                Text(f"{one.verdict} {one.outcome}: {one.why}", style="dim"),
            )
    lines += [Text(), table]
    return Group(*lines)


def _rates(found: Forecast) -> Table:
    first = "first step" if found.steps == 1 else f"{found.steps} steps"
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rate", justify="right")
    for title in (f"drift, {first}", "over draws", "1 - CKA", *(f"drift, {name}" for name in found.transfer)):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    advice = found.suggestion
    for step in found.first_steps:
        said = ""
        if step.broken:
            said = f"broke the model in {step.broken} of {found.draws} draws"
        elif advice is not None and step.drift is not None:
            said = "above" if step.drift >= advice.threshold else f"as runs that kept {advice.level:.0f} %"
        ends = (
            f"{decimal(min(step.drift_draws))} to {decimal(max(step.drift_draws))}"
            if step.drift_draws
            else ""
        )
        moved = [_text(step.transfer_drift.get(name)) for name in found.transfer]
        table.add_row(rate(step.rate), _text(step.drift), ends, _text(step.cka_loss), *moved, said)
    return table


def _text(value: float | None) -> str:
    return "" if value is None else decimal(value)
