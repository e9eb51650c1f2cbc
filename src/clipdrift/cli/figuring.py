"""``clipdrift figure``: figures of a study as files. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def figure(
    name: Annotated[
        str | None, typer.Argument(help="A figure (`clipdrift ls figures`), or all that can be drawn: all.")
    ] = None,
    place: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="The study's folder, or a CSV with a row for each run."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The file; for all: a folder. None: NAME.FORMAT here, or figures/."),
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", help="pdf, svg or png; none: by --out's ending, else pdf.")
    ] = None,
    size: Annotated[
        str,
        typer.Option("--size", help="paper: two columns wide. slide: 16:9. Or inches, as in 7x3.5."),
    ] = "paper",
    target: Annotated[str | None, typer.Option("--target", help="The runs of this target alone.")] = None,
    list_all: Annotated[bool, typer.Option("--list", help="Print the figures and stop.")] = False,
) -> None:
    """Draw a figure of a study, for a paper or a slide.

    The same runs give the same file, byte for byte. Colours are safe for colour-blind readers, and a method
    has the same one in every figure; markers and lines tell methods apart in grey.

        clipdrift figure matched_rates runs/matched
        clipdrift figure frontier runs/matched --target pets --out frontier.svg
        clipdrift figure dashboard runs/matched --size slide --format png
        clipdrift figure all runs/matched --out figures --format png
    """
    from clipdrift.config import ConfigError

    if list_all:
        from clipdrift.cli.light import listing

        listing("figures")
        return
    if name is None or place is None:
        raise ConfigError("figure: say which and of what, as in `clipdrift figure frontier runs/matched`")
    from clipdrift.figures.registry import FIGURES, canvas_of, draw, write
    from clipdrift.figures.source import NotDrawnError
    from clipdrift.study.tables import Tables

    if name != "all" and name not in FIGURES:
        raise ConfigError(f"figure {name}: unknown; legal: all, {', '.join(FIGURES)}")
    canvas_of(size)
    ending = format or (out.suffix.removeprefix(".") if out is not None and name != "all" else "") or "pdf"
    tables = Tables.open(place)
    for problem in tables.problems:
        typer.echo(f"left out: {problem}", err=True)
    for said in tables.notes:
        typer.echo(f"note: {said}", err=True)
    if target is not None:
        tables = tables.only(target)
    if name != "all":
        typer.echo(write(draw(name, tables, size), out or Path(f"{name}.{ending}"), ending))
        return
    folder = out or Path("figures")
    for one in FIGURES:
        try:
            typer.echo(write(draw(one, tables, size), folder / f"{one}.{ending}", ending))
        except NotDrawnError as error:
            typer.echo(f"not drawn: {one}: {error}")
