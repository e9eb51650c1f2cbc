"""``clipdrift advise``: which setting to take, how sure that is, what to run next. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from clipdrift.advice.picks import Picks
    from clipdrift.advice.result import Advice, PlaceAdvice
    from clipdrift.advice.settings import Setting


def advise(
    places: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DIR...",
            help="Folder of a study, of any runs, or of monitors' logs; or a CSV with a row for each run. "
            "Several are pooled where target, backbone and transfer sets are the same.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            "--keep",
            metavar="PERCENT",
            help="Least zero-shot accuracy to keep, in percent of the backbone's: the most accurate setting "
            "that keeps it is best. Default 90, where --max-drop is not given.",
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            metavar="POINTS",
            help="Most accuracy to give up, in points below the most accurate setting: the one that keeps "
            "most is best. With --keep both must hold, and accuracy decides.",
            show_default=False,
        ),
    ] = None,
    transfer: Annotated[
        str | None,
        typer.Option(
            "--transfer",
            metavar="SET",
            help="The transfer set that counts; none: the worst of all.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All numbers as JSON, and nothing else.")] = False,
    next_file: Annotated[
        Path | None,
        typer.Option(
            "--next",
            metavar="FILE.toml",
            help="Write the runs worth doing next as a study that `clipdrift study run` takes.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Which method and rate to take so that enough is kept, how sure that is, and what to run next.

    Settings are compared by their means over seeds. For each target: the best one that is allowed, whether
    the runner-up can be told from it, what the most accurate one would cost, what signals without transfer
    labels would have picked, and the frontier of accuracy and what is kept. Nothing is said of rates that
    were not run, except that they are worth a run.

        clipdrift advise runs/matched
        clipdrift advise runs/matched --keep 95 --transfer cifar100
        clipdrift advise runs/matched --max-drop 1
        clipdrift advise my-runs.csv --json > advice.json
        clipdrift advise runs/matched runs/matched-next
        clipdrift advise runs/matched --next next.toml
        clipdrift study run next.toml --out runs/matched-next

    Ends with 1 where some target has no setting that is allowed; the nearest one is named.
    """
    import json

    from rich.console import Console

    from clipdrift.advice import advise as work
    from clipdrift.advice.plan_file import write_next
    from clipdrift.advice.pooling import Pooled, pooled
    from clipdrift.config import ConfigError
    from clipdrift.study.tables import Tables

    if not places:
        raise ConfigError("advise: name a study's folder, as in `clipdrift advise runs/matched`")
    for place in places:
        if not place.exists():
            raise ConfigError(f"{place}: no such folder")
    tables = Tables.open(places[0]) if len(places) == 1 else pooled(places, transfer)
    found = work(tables, keep=keep, max_drop=max_drop, transfer=transfer)
    roots = tables.folders if isinstance(tables, Pooled) else tables.folder
    study = write_next(found, roots, next_file) if next_file is not None else None
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    else:
        _show(found)
        if next_file is not None:
            said = "no run is proposed, so no file was written"
            if study is not None:
                out = f"{places[0]}-next"
                said = f"{len(study.runs)} runs in {next_file}; `clipdrift study run {next_file} --out {out}`"
            Console().print(said, soft_wrap=True, highlight=False, markup=False)
    if not found.answered:
        raise typer.Exit(1)


def _show(found: Advice) -> None:
    from rich.console import Console

    from clipdrift.advice.words import lines
    from clipdrift.cli.light import print_table

    console = Console()
    for note in found.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    for i, place in enumerate(found.places):
        first, *rest = lines(place, found.asked)
        if i:
            console.print()
        console.print(first.text, style="bold", highlight=False, markup=False, soft_wrap=True)
        for line in rest:
            console.print(f"- {line.text}", highlight=False, markup=False, soft_wrap=True)
        if place.cells is not None:
            print_table(_settings_table(place))
        if place.picks is not None and any(pick.setting for pick in place.picks.picks):
            print_table(_picks_table(place.picks))


def _settings_table(place: PlaceAdvice) -> Table:
    """The frontier by accuracy, with the best, the runner-up and the nearest."""
    from rich.table import Table

    cells = place.cells
    assert cells is not None
    table = Table(box=None, header_style="bold", pad_edge=False, title_justify="left")
    for column in ("setting", "n", "accuracy %", "keeps %", "allowed", ""):
        table.add_column(column, justify="left" if column in ("setting", "allowed", "") else "right")
    roles = {"best": cells.best, "runner-up": cells.runner_up, "nearest": cells.nearest}
    shown = [s for s in cells.settings if s in cells.frontier or s in roles.values()]
    for setting in sorted(shown, key=lambda s: -s.mean("accuracy")):
        said = [name for name, one in roles.items() if one is setting]
        said += ["frontier"] if setting in cells.frontier else []
        numbers = (_mean(setting, "accuracy"), _mean(setting, "kept"))
        allowed = "no" if cells.missed_by(setting) else "yes"
        style = "bold" if setting is cells.best else ""
        table.add_row(setting.name, str(setting.n), *numbers, allowed, ", ".join(said), style=style)
    return table


def _mean(setting: Setting, number: str) -> str:
    which = "accuracy" if number == "accuracy" else "kept"
    sd = setting.sd(which)  # type: ignore[arg-type]
    return f"{setting.mean(which):.1f}" + ("" if sd is None else f" ± {sd:.1f}")  # type: ignore[arg-type]


def _picks_table(picks: Picks) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("signal", "picks", "accuracy %", "keeps %", "regret, points"):
        table.add_column(column, justify="left" if column in ("signal", "picks") else "right")
    for pick in picks.picks:
        if pick.setting is None:
            continue
        regret = f"not allowed, by {pick.missed:.1f}" if pick.regret is None else f"{pick.regret:.1f}"
        numbers = (f"{pick.setting.mean('accuracy'):.1f}", f"{pick.setting.mean('kept'):.1f}")
        table.add_row(pick.signal.replace("_", " "), pick.setting.name, *numbers, regret)
    return table
