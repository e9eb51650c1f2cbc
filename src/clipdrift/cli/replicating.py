"""``clipdrift replicate``: the published findings and what a study says of them. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def replicate(
    place: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="The study's folder, or a CSV with a row for each run."),
    ] = None,
    land_use: Annotated[
        str | None,
        typer.Option("--land-use", help="Target in place of EuroSAT; none: eurosat or land-use-7."),
    ] = None,
    fine: Annotated[
        str | None,
        typer.Option("--fine", help="Target in place of Oxford-IIIT Pets; none: pets or pets-37."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write it all as Markdown.")] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", help="Write every number with the name of the analysis' row it comes from."),
    ] = None,
) -> None:
    """Lay a study beside fourteen published findings: holds, in part, does not, cannot be told.

    Each finding has a rule, which is printed; the verdict follows from it alone. Wanted are full_ft and lora
    at several rates on two targets or more, with one backbone; a finding that the study has no runs for
    cannot be told.

        clipdrift replicate runs/matched
        clipdrift replicate runs/photographs --out replication.md --csv replication.csv
        clipdrift replicate runs/mine --land-use satellite --fine birds
    """
    from rich.console import Console
    from rich.table import Table

    from clipdrift.config import ConfigError
    from clipdrift.replication import replicate as work
    from clipdrift.replication.page import overview, rows_of, sentence, sources
    from clipdrift.runs.files import write_text
    from clipdrift.study.tables import Tables

    if place is None:
        raise ConfigError("replicate: name a study's folder, as in `clipdrift replicate runs/matched`")
    tables = Tables.open(place)
    for problem in tables.problems:
        typer.echo(f"left out: {problem}", err=True)
    for note in tables.notes:
        typer.echo(f"note: {note}", err=True)
    console = Console()
    with console.status("the study is analysed"):
        found = work(tables, land_use, fine)
    shown = Table("#", "finding", "here", "verdict", show_lines=True)
    for finding in found:
        ours = "\n".join(map(sentence, finding.checks)) or "no such runs"
        shown.add_row(str(finding.number), finding.claim, ours.replace("[", "\\["), finding.verdict)
    console.print(shown)
    if out is not None:
        write_text(out, f"{overview(found)}\n\n{sources(found)}\n")
        typer.echo(out)
    if csv is not None:
        write_text(csv, rows_of(found).to_csv(index=False))
        typer.echo(csv)
