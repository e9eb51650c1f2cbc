"""``clipdrift report``: from records to tables, figures and a page. Loads no torch."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

_MOST_PROCESSES = 8
"""That draw; more would spend their time on starting."""


class Format(StrEnum):
    """File format of figures."""

    PNG = "png"
    PDF = "pdf"
    SVG = "svg"


def report(
    place: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="Folder of a study, or of any runs.", show_default=False),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Instead of a folder: a CSV of runs made elsewhere, one row per run, with target, method, "
            "learning_rate and as many of the columns of docs/report.md as there are.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the report; default DIR/report.", show_default=False),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Lay the runs beside the published values, cell by cell.")
    ] = False,
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", help="Figures as these too, besides PNG. Repeatable.", show_default=False),
    ] = None,
) -> None:
    """Tables, figures, statistics and a page of a study, from its records alone.

    Writes index.html (one file that needs no network), tables/ (CSV, Markdown, LaTeX) and figures/. A study
    half done is reported as far as it goes; tests that its runs do not determine say why. Needs no GPU and no
    weights.

        clipdrift report runs/quickstart
        clipdrift report runs/matched --published --format pdf
        clipdrift report --from my-runs.csv --out my-report
    """
    from clipdrift.config import ConfigError

    if (place is None) == (table is None):
        raise ConfigError("report: name a folder, or a table with --from, and not both")

    if table is not None and not table.is_file():
        what = "a folder; say `clipdrift report FOLDER`" if table.is_dir() else "no such file"
        raise ConfigError(f"--from {table}: {what}")
    if place is not None and not place.exists():
        raise ConfigError(f"{place}: no such folder")
    found = place or table
    assert found is not None
    write_report(found, out, published, tuple(formats or ()))


def write_report(
    place: Path, out: Path | None = None, published: bool = False, formats: tuple[str, ...] = ()
) -> None:
    """Write the report under a bar; say what it found and where it is."""
    from rich.console import Console

    from clipdrift.cli.drawing import drawing
    from clipdrift.reporting import report as work

    processes = min(os.cpu_count() or 1, _MOST_PROCESSES)
    console = Console()
    with drawing(console) as progress:
        done = work(place, out, published=published, formats=formats, processes=processes, progress=progress)
    for note in done.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    for sentence in done.sentences:
        console.print(f"- {sentence}", highlight=False, markup=False)
    folder = done.page.parent
    console.print(f"page      {done.page}", soft_wrap=True)
    console.print(f"tables    {folder / 'tables'}  ({len(done.tables)} files)", soft_wrap=True)
    console.print(f"figures   {folder / 'figures'}  ({len(done.figures)} files)", soft_wrap=True)
    if done.undrawn:
        console.print(f"not drawn {', '.join(done.undrawn)}; the page says why", style="dim")
