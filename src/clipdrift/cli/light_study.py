"""Status and results of a study, printed without loading torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clipdrift.cli.light import print_table
from clipdrift.config import ConfigError
from clipdrift.outcomes.chance import NOT_MEASURABLE, measurable
from clipdrift.outcomes.columns import chance_p_of, columns_of, outcome
from clipdrift.runs.layout import CONFIG, FAILURE, RECORD
from clipdrift.runs.states import StateKind
from clipdrift.runs.store import Store
from clipdrift.study.folder import MANIFEST, read_manifest
from clipdrift.study.frames import cells_frame, records_in, runs_frame, varied
from clipdrift.texts import age, option
from clipdrift.texts import rate as rate_text

_STYLE = {"running": "cyan", "failed": "red", "diverged": "yellow", "interrupted": "magenta"}


def status_table(root: Path, every: bool) -> None:
    """Print how far a study is. Raises StudyError where there is none."""
    manifest, store = read_manifest(root), Store(root)
    states = {entry.key: store.folder(entry.key).state() for entry in manifest.runs}
    counts = Counter(state.kind for state in states.values())
    console = Console()
    finished = counts["done"] + counts["diverged"]
    console.print(Text(f"{manifest.name}  {manifest.title}", style="bold"))
    console.print(ProgressBar(total=max(1, len(states)), completed=finished, width=40))
    kinds: tuple[StateKind, ...] = ("done", "running", "interrupted", "planned", "failed", "diverged")
    console.print(
        f"{finished} of {len(states)} finished: "
        + ", ".join(f"{counts[kind]} {kind}" for kind in kinds if counts[kind])
    )
    shown = [e for e in manifest.runs if every or states[e.key].kind not in ("done", "planned")]
    if shown:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("run", "what", "status", "epoch", "last sign", "reason"):
            table.add_column(column, no_wrap=column == "run", overflow="fold")
        for entry in shown:
            state = states[entry.key]
            epoch = f"{state.epoch} of {state.epochs}" if state.epochs else ""
            style = _STYLE.get(state.kind, "")
            kind = Text(state.kind, style=style)
            last = age(state.age_seconds)
            table.add_row(entry.key, entry.label, kind, epoch, last and f"{last} ago", state.reason or "")
        print_table(table)
    strangers = [folder.path.name for folder in store.runs() if folder.path.name not in states]
    if strangers:
        console.print(f"{len(strangers)} runs here are not in the plan, for example {strangers[0]}")


def show_run(root: Path, start: str, config: bool) -> None:
    """Print one run. Raises ConfigError where no run, or more than one, has a key that begins so."""
    found = [folder for folder in Store(root).runs() if folder.path.name.startswith(start)]
    if (root / MANIFEST).is_file():
        planned = [key for key in read_manifest(root).keys if key.startswith(start)]
        if not found and planned:
            raise ConfigError(f"{planned[0]}: planned, not begun")
    if len(found) != 1:
        several = f"{len(found)} runs begin so, for example {found[0].path.name}" if found else "no such run"
        raise ConfigError(f"{start}: {several} in {root}; `clipdrift study status {root} --all` lists them")
    folder, console = found[0], Console()
    state = folder.state()
    console.print(Text(f"{folder.path}  {state.kind}", style="bold"), soft_wrap=True)
    if state.reason:
        console.print(state.reason, soft_wrap=True)
    if config:
        console.print_json((folder.path / CONFIG).read_text(encoding="utf-8"))
    if (folder.path / FAILURE).is_file():
        console.print((folder.path / FAILURE).read_text(encoding="utf-8"), soft_wrap=True, highlight=False)
    if (folder.path / RECORD).is_file():
        from clipdrift.cli.show import run_table

        console.print(run_table(folder.record(), folder.path), soft_wrap=True)
    elif state.kind in ("running", "interrupted"):
        console.print(f"epoch {state.epoch} of {state.epochs}, last sign {age(state.age_seconds)} ago")


def study_frame(root: Path) -> pd.DataFrame:
    """The tidy table of a study's runs, in the order of its plan; of any folder of runs, by key."""
    console = Console(stderr=True)
    manifest = read_manifest(root) if (root / MANIFEST).is_file() else None
    keys, labels = (manifest.keys, manifest.labels) if manifest else (None, None)
    return runs_frame(records_in(root, keys, lambda text: console.print(f"left out: {text}")), labels)


def results(root: Path, csv: Path | None = None) -> None:
    """Print one line per cell; write the tidy table of runs as CSV. Raises ConfigError without records."""
    runs = study_frame(root)
    if runs.empty:
        raise ConfigError(f"{root}: no finished run here")
    if csv is not None:
        csv.parent.mkdir(parents=True, exist_ok=True)
        runs.to_csv(csv, index=False)
    print_table(cells_table(cells_frame(runs)))
    if csv is not None:
        Console().print(f"{len(runs)} runs in {csv}", soft_wrap=True)


def cells_table(cells: pd.DataFrame) -> Table:
    """Mean and standard deviation over seeds of what matters first."""
    what = varied(cells)
    kept = [name for name in columns_of("retention", cells) if f"{name}_sd" in cells]
    shown: dict[str, str] = {"trained_parameters": "trained", "seconds": "time s", "accuracy": "accuracy %"}
    shown |= {"cka": "CKA", "embedding_drift": "embedding drift"}
    shown |= {"entropy_drift": "entropy drift %"}
    shown |= {name: f"keeps {outcome(name).transfer} %" for name in kept}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in what:
        table.add_column(name.replace("_", " "))
    table.add_column("runs", justify="right")
    columns = [name for name in shown if name in cells]
    for name in columns:
        table.add_column(shown[name], justify="right")
    for _, cell in cells.iterrows():
        runs = f"{cell['runs']}" + (f" ({cell['diverged']} diverged)" if cell["diverged"] else "")
        table.add_row(*(_option(c, cell[c]) for c in what), runs, *(_number(cell, c) for c in columns))
    return table


def _option(name: str, value: Any) -> str:
    return rate_text(value) if name == "learning_rate" and value == value else option(value)


def _number(cell: pd.Series, name: str) -> str:
    """A mean with its spread; a number that is the same for all seeds, or is no result, alone."""
    if name == "trained_parameters":
        return f"{cell[name]:,}"
    if name == "seconds":
        return f"{cell[name]:.0f}"
    mean, spread = cell[name], cell[f"{name}_sd"]
    if pd.isna(mean):
        known = outcome(name)
        measured = known.kind != "retention" or measurable(cell.get(chance_p_of(known.transfer)))
        return "" if measured else NOT_MEASURABLE
    digits = 3 if name in ("cka", "embedding_drift") else 1
    sign = "+" if name.endswith("_drift") and name != "embedding_drift" else ""
    return f"{mean:{sign}.{digits}f}" + ("" if pd.isna(spread) else f" ±{spread:.{digits}f}")
