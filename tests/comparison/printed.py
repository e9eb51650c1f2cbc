"""A comparison as a terminal shows it."""

from __future__ import annotations

from rich.console import Console

from clipdrift.cli.show_comparison import comparison_report
from clipdrift.comparison import Comparison


def shown(found: Comparison, width: int = 300) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(comparison_report(found))
        return console.export_text()
