"""Reports: tables, figures, and a page with a summary in words. Loads no torch."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipdrift.advice import advise
from clipdrift.figures.registry import FIGURES
from clipdrift.outcomes.columns import columns_of, outcome
from clipdrift.pages.study import StudyPage, write_study_page
from clipdrift.pages.viewer import pack_runs
from clipdrift.reporting.advised import advice_sentences, advice_table
from clipdrift.reporting.courses import blocks_table, courses, environments, history_table
from clipdrift.reporting.drawing import figures_of
from clipdrift.reporting.printed import Printed
from clipdrift.reporting.published import published_table
from clipdrift.reporting.summary import summary
from clipdrift.reporting.tables import cells_table, questions_tables, runs_table
from clipdrift.runs.files import write_text
from clipdrift.runs.maps import Maps
from clipdrift.study.tables import Tables

PAGE = "index.html"
FOLDER = "report"
"""Of a study's folder, unless another is named."""
_LETTERS = 3_000_000
"""Of base64, at most, for attention."""
_SHOWN_RUNS = 24
"""Runs, one of each cell, whose attention the page holds."""


@dataclass(frozen=True)
class Report:
    """Files and sentences of a report.

    Attributes:
        page: the HTML file.
        tables, figures: files beside it.
        sentences: the summary in words.
        undrawn: figure -> why it was not drawn.
        notes: how a table made elsewhere was read.
    """

    page: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    sentences: tuple[str, ...]
    undrawn: dict[str, str]
    notes: tuple[str, ...] = ()


def report(
    place: str | Path,
    out: str | Path | None = None,
    *,
    published: bool = False,
    formats: tuple[str, ...] = ("png",),
    processes: int = 1,
    progress: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> Report:
    """Tables, figures, statistics and the page of a study, from its records alone.

    Args:
        place: the folder of a study or of any runs, or a CSV file of runs made elsewhere: one row per run
            with ``target``, ``method``, ``learning_rate`` and as many other columns of
            :func:`clipdrift.study.frames.runs_frame` as there are.
        out: folder of the report; default ``report`` in the study's folder, or beside the CSV file.
        published: lay the runs beside the published values.
        formats: of the figures' files: ``png`` (always made, for the page), ``pdf``, ``svg``.
        processes: that draw figures. More than one need a main module that can be imported, as always where
            Python starts processes anew.
        progress: told what is being done, and how far.

    Returns:
        Where everything is. The page is written last: where it is there, the rest is.

    Raises:
        ResultsError, AnalyseError: nothing to report on; says what is missing.
    """
    tables = Tables.open(place)
    root = Path(out) if out is not None else _default(Path(place))
    steps = len(FIGURES) + 3
    progress("statistics", 0, steps)
    with figures_of(tables, Path(place), root / "figures", formats, processes) as figures:
        printed = [cells_table(tables), runs_table(tables)]
        tests = questions_tables(tables)
        beside = published_table(tables) if published else None
        sentences = summary(tables, tests)
        advice = advise(tables)
        settings = advice_table(advice)
        progress("tables", 1, steps)
        every = [*printed, *tests.values(), *(one for one in (beside, settings) if one)]
        files = _write_tables(tables, every, root / "tables")
        shown, drawn = figures.finish(lambda text, i: progress(text, 2 + i, steps))
    progress("the page", steps - 1, steps)
    viewer, said = _viewer(tables)
    page = StudyPage(
        title=tables.manifest.title if tables.manifest else _title(tables, Path(place)),
        facts=_facts(tables),
        sentences=sentences,
        notes=_notes(tables, published),
        cells=printed[0],
        runs=printed[1],
        tests=list(tests.values()),
        published=beside,
        figures=shown,
        advice=advice_sentences(advice, settings),
        settings=settings,
        courses=courses(tables),
        viewer=viewer,
        said=said,
        environment=environments(tables),
        commands=_commands(tables, Path(place), published),
        files=sorted({path.stem for path in files}),
    )
    write_study_page(page, root / PAGE)
    progress("done", steps, steps)
    undrawn = {name: found.reason for name, found in shown.items() if found.file is None}
    texts = tuple(sentence.text for sentence in sentences)
    return Report(root / PAGE, tuple(files), tuple(drawn), texts, undrawn, tables.notes)


def _default(place: Path) -> Path:
    return place.with_name(f"{place.stem}-{FOLDER}") if place.is_file() else place / FOLDER


def _write_tables(tables: Tables, printed: list[Printed], folder: Path) -> list[Path]:
    files = [path for table in printed for path in table.write(folder)]
    for name, frame in (("history", history_table(tables)), ("blocks", blocks_table(tables))):
        if not frame.empty:
            write_text(folder / f"{name}.csv", frame.to_csv(index=False))
            files.append(folder / f"{name}.csv")
    return files


def _viewer(tables: Tables) -> tuple[dict[str, object] | None, list[str]]:
    """Attention of one run of each cell that kept it."""
    found: dict[str, Maps] = {}
    left = 0
    for _, part in tables.runs.groupby(["place", "variant", "learning_rate"], sort=False, dropna=False):
        for run in part["run"]:
            maps = tables.maps(str(run))
            if maps is not None:
                if len(found) < _SHOWN_RUNS:
                    found[str(run)] = maps
                else:
                    left += 1
                break
    if not found:
        return None, []
    data, said = pack_runs(found, _LETTERS)
    said = ["Of each cell the first run with kept attention is here.", *said]
    return data, [*said, f"{left} cells are left out."] if left else said


def _title(tables: Tables, place: Path) -> str:
    return f"Runs of {place.name}" if len(tables.runs) > 1 else f"A run of {place.name}"


def _facts(tables: Tables) -> list[str]:
    """Say what was adapted, on what, tested where, under which protocol."""
    runs = tables.runs
    backbones = [str(name) for name in dict.fromkeys(runs["backbone"]) if name]
    sets = [outcome(name).transfer for name in columns_of("retention", runs)]
    targets = [str(name) for name in dict.fromkeys(runs["target"])]
    facts = [
        f"Target{'s' * (len(targets) > 1)}: {', '.join(targets)}. "
        + (f"Backbone{'s' * (len(backbones) > 1)}: {', '.join(backbones)}. " if backbones else "")
        + (f"Zero-shot transfer: {', '.join(sets)}. " if sets else "")
    ]
    seeds, rates = runs["seed"].nunique(), runs["learning_rate"].nunique()
    facts.append(
        f"{len(runs)} runs, {rates} learning rate{'s' * (rates > 1)}, {seeds} seed{'s' * (seeds > 1)}."
    )
    return facts


def _notes(tables: Tables, published: bool) -> list[str]:
    """List what must be known before anything is read."""
    runs = tables.runs
    notes = []
    if any(record.get("environment", {}).get("generated") for record in tables.records()):
        notes.append(
            "These records were generated, for tests. Nothing was trained and nothing here is a result."
        )
    if tables.folder is None:
        read = "their table alone was" if tables.watched is None else "the logs of their monitors were"
        notes.append(f"These runs were made elsewhere: {read} read, no records.")
        notes += [f"In this table {note}." for note in tables.notes]
    protocols = set(runs["protocol"].dropna()) if "protocol" in runs else set()
    if "published" in protocols:
        notes.append(
            "Published protocol: validation is the test split, and the epoch was chosen on it. Accuracy is "
            "therefore too high; these numbers are for comparison with published ones only."
        )
    if len(protocols) > 1:
        notes.append("Runs of both protocols are here; means over them mix two kinds of accuracy.")
    notes += [f"A record was left out: {problem}" for problem in tables.problems]
    return notes


def _commands(tables: Tables, place: Path, published: bool) -> list[str]:
    commands = []
    if tables.manifest is not None and tables.manifest.command:
        commands.append(tables.manifest.command)
    words = ["clipdrift", "report", *(["--from"] if place.is_file() else []), place.name]
    return [*commands, shlex.join([*words, *(["--published"] if published else [])])]


__all__ = ["FOLDER", "PAGE", "Report", "report"]
