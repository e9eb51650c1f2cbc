"""Terminal output of a check: the answer, then a line per rule."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clipdrift.decision import Checked
from clipdrift.errors import printable

_STYLES = {"holds": "green", "broken": "red", "not resolved": "yellow", "not checked": "yellow"}


def checked_report(checked: Checked) -> RenderableType:
    """The answer first, then value and interval of every rule, then notes."""
    style = "bold green" if checked.kept else "bold red"
    lines: list[RenderableType] = [
        Text(printable(checked.headline), style=style),
        Text(
            printable(
                f"{checked.tuned}  against  {checked.base}; {checked.images} images of {checked.source}"
            ),
            style="dim",
        ),
    ]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "rule", "value", "95 % interval", "how"):
        right = title in ("value", "95 % interval")
        table.add_column(title, justify="right" if right else "left", no_wrap=title != "how")
    for rule in checked.rules:
        status = rule.status + (" (warning)" if rule.severity == "warn" else "")
        table.add_row(
            Text(status, style=_STYLES[rule.status]),
            Text(printable(rule.rule)),
            rule.value_text,
            rule.interval_text,
            Text(printable(rule.reason or rule.method), style="dim"),
        )
    lines.append(table)
    lines += [Text(f"note: {printable(note)}", style="yellow") for note in checked.notes]
    return Group(*lines)
