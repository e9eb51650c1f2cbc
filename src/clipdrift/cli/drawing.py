"""Progress bar for drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def drawing(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar inside; call what it yields with the current work, the parts done and the parts
    in all."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading records", total=None)
        yield lambda text, done, total: bar.update(task, description=text, completed=done, total=total)
