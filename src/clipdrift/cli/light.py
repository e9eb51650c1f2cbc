"""Listings that start at once, without torch."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from clipdrift.config import ConfigError
from clipdrift.listing import HEADS, MEASURES, METHODS, MODELS, PENALTIES, Entry
from clipdrift.runs.layout import RECORD
from clipdrift.runs.record import Record, RecordError
from clipdrift.runs.states import foreign_record
from clipdrift.runs.store import Store
from clipdrift.texts import rate as rate_text

_KINDS = ("models", "datasets", "methods", "heads", "penalties", "measures", "studies", "figures")


def listing(what: str) -> None:
    """Print one of the listings.

    Raises:
        ConfigError: no such listing.
    """
    if what not in _KINDS:
        raise ConfigError(f"ls {what}: unknown; legal: {', '.join(_KINDS)}")
    table = Table(box=None, header_style="bold", pad_edge=False)
    if what == "datasets":
        _datasets(table)
    elif what == "studies":
        _studies(table)
    elif what == "figures":
        _figures(table)
    else:
        entries: dict[str, Entry] = {
            "models": MODELS,
            "methods": METHODS,
            "heads": HEADS,
            "penalties": PENALTIES,
            "measures": MEASURES,
        }[what]
        table.add_column("name", no_wrap=True)
        table.add_column("what")
        if what == "measures":
            for column in ("family", "unit", "range"):
                table.add_column(column)
        table.add_column("reference")
        for name, entry in entries.items():
            more = [entry.family, entry.unit, entry.range] if what == "measures" else []
            table.add_row(name, entry.summary, *more, entry.reference)
    print_table(table)


def print_table(table: Table) -> None:
    """Print a table: as wide as the terminal, or to a file one line per row with nothing cut."""
    console = Console() if Console().is_terminal else Console(width=1000)
    console.print(table)


def _studies(table: Table) -> None:
    from clipdrift.study.plan import built_in, load_study

    for column in ("name", "runs", "what", "questions"):
        table.add_column(column)
    for name in built_in():
        study = load_study(name)
        table.add_row(name, str(len(study.runs)), study.title, ", ".join(study.questions))


def _figures(table: Table) -> None:
    from clipdrift.figures.registry import FIGURES

    for column in ("name", "what", "how to read it"):
        table.add_column(column, no_wrap=column == "name")
    for name, entry in FIGURES.items():
        table.add_row(name, entry.title, entry.text)


def _datasets(table: Table) -> None:
    from clipdrift.data.catalog import CATALOG
    from clipdrift.data.worlds import WORLDS

    for column in ("name", "classes", "from", "default prompt", "note"):
        table.add_column(column, no_wrap=column == "name")
    for name, row in CATALOG.items():
        count = str(len(row.classes)) if row.classes else ""
        table.add_row(name, count, row.hub, row.prompts[0], row.note)
    for name, world in WORLDS.items():
        table.add_row(name, str(len(world.classes)), "generated", world.templates[0], world.note)


def run_list(root: Path) -> None:
    """Print the runs below ``root``.

    Raises:
        ConfigError: there is no such folder, or no run in it.
    """
    runs = list(Store(root).runs())
    if not runs:
        raise ConfigError(f"{root}: no runs here; `clipdrift train --out {root}` makes some")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in (
        "run",
        "status",
        "target",
        "method",
        "rate",
        "seed",
        "accuracy",
        "entropy",
        "CKA",
        "retention",
    ):
        table.add_column(column, no_wrap=column == "run", overflow="fold")
    for folder in runs:
        if not folder.finished:
            state = folder.state()
            said = f"{state.kind}: {state.reason}" if state.reason else state.kind
            table.add_row(
                folder.path.name, said, *([f"epoch {state.epoch} of {state.epochs}"] if state.epochs else [])
            )
            continue
        try:
            record = folder.record()
        except RecordError as error:
            table.add_row(folder.path.name, f"damaged: {error}")
            continue
        if record.key != folder.path.name:
            table.add_row(folder.path.name, f"damaged: {foreign_record(folder.path / RECORD, record.key)}")
            continue
        table.add_row(*_row(record))
    print_table(table)


def _status(record: Record) -> str:
    if record.stopped is None:
        return record.status
    at = f"epoch {record.stopped.epoch} of {record.config.optim.epochs}"
    return f"{record.status}, stopped by a rule at {at}"


def _row(record: Record) -> list[str]:
    config = record.config
    cells = [record.key, _status(record), config.data.target.name, config.method.name]
    cells += [rate_text(config.optim.learning_rate), str(config.seed)]
    if record.best is None:
        return cells
    kept = [
        f"{name} {t.retention:.0f} %" for name, t in record.best.transfer.items() if t.retention is not None
    ]
    entropy = record.best.measures["entropy"].drift if "entropy" in record.best.measures else None
    cells.append("" if record.best.test_accuracy is None else f"{record.best.test_accuracy:.1f} %")
    cells.append("" if entropy is None else f"{entropy:+.1f} %")
    return [*cells, f"{record.best.measures['cka'].mean:.3f}", ", ".join(kept)]
