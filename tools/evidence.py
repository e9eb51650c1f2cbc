"""Records of a study in the repository, and the pages made from them.

    python tools/evidence.py pack runs/photographs evidence/photographs    # finished records, compressed
    python tools/evidence.py unpack evidence/photographs runs/photographs  # records where a study has them
    python tools/evidence.py run DATA runs/photographs evidence/photographs 2 [options of `study run`]
    python tools/evidence.py write evidence/photographs                    # report, page of findings, README

``unpack`` leaves alone what is there already, so a study goes on where the packed records end. ``run`` does
what is left in so many processes, which divide the runs, and packs records as they come.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from marked import between
from rich.progress import track

from clipdrift.errors import ClipdriftError
from clipdrift.figures.registry import FIGURES as DRAWN
from clipdrift.figures.registry import draw, write
from clipdrift.figures.source import NotDrawnError
from clipdrift.replication import Finding, replicate
from clipdrift.replication.answers import target_roles
from clipdrift.replication.checks import Verdict
from clipdrift.replication.page import overview, rows_of, sources
from clipdrift.reporting import report
from clipdrift.reporting.tables import cells_table
from clipdrift.runs.files import write_bytes, write_text
from clipdrift.runs.layout import RECORD
from clipdrift.runs.record import DamagedRecordError
from clipdrift.runs.store import Store
from clipdrift.study.folder import MANIFEST, read_manifest
from clipdrift.study.frames import records_in
from clipdrift.study.tables import PATHS, Tables
from clipdrift.texts import rate as rate_text

ROOT = Path(__file__).resolve().parents[1]
PACKED = ".json.xz"
PAGE = ROOT / "docs" / "evidence.md"
NUMBERS = ROOT / "docs" / "evidence.csv"
README = ROOT / "README.md"
PICTURES = ROOT / "docs" / "images"
REPORT = ROOT / "docs" / "photographs.md"
FIGURES = (
    "matched_rates", "frontier", "drift_zero_shot", "predictors", "rate_blocks", "onset", "penalties",
    "frozen_blocks", "lora_ranks", "lora_targets", "weight_decay",
)  # fmt: skip
"""Of the report, kept beside the docs."""
HEADLINE = ("variant", "learning_rate", "accuracy", "retention_cifar100", "cka", "entropy_drift")
SAID: dict[Verdict, str] = {
    "holds": "hold", "holds in part": "hold in part", "does not hold": "do not hold",
    "cannot be told": "cannot be told",
}  # fmt: skip
"""Verdicts, of several findings."""
START, END = "<!-- evidence: written by `make evidence-report` -->", "<!-- end of evidence -->"


def pack(study: Path, evidence: Path) -> int:
    """Compress finished runs' records; those that are packed stay as they are. Returns how many are new."""
    manifest = read_manifest(study)
    evidence.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(study / MANIFEST, evidence / MANIFEST)
    new = 0
    for key in manifest.keys:
        record, packed = study / key / RECORD, evidence / f"{key}{PACKED}"
        if record.is_file() and not packed.is_file():
            write_bytes(packed, lzma.compress(record.read_bytes(), preset=9 | lzma.PRESET_EXTREME))
            new += 1
    return new


def unpack(evidence: Path, study: Path) -> int:
    """Put packed records where the study has them, with what it reads beside them. Returns how many."""
    study.mkdir(parents=True, exist_ok=True)
    for name in (MANIFEST, PATHS):
        if not (study / name).is_file() and (evidence / name).is_file():
            shutil.copyfile(evidence / name, study / name)
    done = 0
    for packed in track(sorted(evidence.glob(f"*{PACKED}")), "records"):
        folder = Store(study).folder(packed.name.removesuffix(PACKED))
        record = folder.path / RECORD
        if not record.is_file():
            try:
                write_bytes(record, lzma.decompress(packed.read_bytes()))
                folder.mend(folder.record())
            except (lzma.LZMAError, DamagedRecordError) as error:
                record.unlink(missing_ok=True)
                sys.exit(
                    f"{packed}: damaged ({error}); fetch it again, or remove it: its run is then done again"
                )
            done += 1
    return done


def finished(evidence: Path) -> tuple[list[Mapping[str, Any]], int]:
    """Packed records of finished runs, and how many runs are planned."""
    with tempfile.TemporaryDirectory() as place:
        study = Path(place) / evidence.name
        unpack(evidence, study)
        planned = len(read_manifest(study).keys)
        return [record for record in records_in(study) if record["status"] == "done"], planned


def run(data: Path, study: Path, evidence: Path, processes: int, options: Sequence[str] = ()) -> None:
    """Do what is left of the study, in the folder of the images; stopped, it goes on when said again."""
    study.mkdir(parents=True, exist_ok=True)
    clipdrift = Path(sys.executable).with_name("clipdrift")
    command = [str(clipdrift), "study", "run", evidence.name, "--out", str(study.resolve()), *options]
    single = {**os.environ, "OMP_NUM_THREADS": "1"}
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context((study / f"process-{i}.log").open("a")) for i in range(2, processes + 1)]
        running = [subprocess.Popen(command, cwd=data, env=single)]
        running += [subprocess.Popen(command, cwd=data, env=single, stdout=log, stderr=log) for log in logs]
        stopped = False
        while any(process.poll() is None for process in running):
            try:
                time.sleep(20)
            except KeyboardInterrupt:  # theirs too: each ends at its next step
                stopped = True
            if (study / MANIFEST).is_file():
                pack(study, evidence)
    if stopped:
        sys.exit(130)
    if not (study / MANIFEST).is_file():
        sys.exit("the study did not begin; what it said stands above")
    left = [key for key in read_manifest(study).keys if not (study / key / RECORD).is_file()]
    if left:
        sys.exit(
            f"{len(left)} runs have no record, {left[0]} first: `clipdrift study status {study}` says why"
        )


def write_pages(evidence: Path) -> None:
    """Make the report, the page of findings and the README's part of it anew from the records alone."""
    if not any(evidence.glob(f"*{PACKED}")):
        sys.exit(f"{evidence}: no packed records here; `make evidence DATA=FOLDER` makes them")
    with tempfile.TemporaryDirectory() as temporary:
        study = Path(temporary) / evidence.name
        unpack(evidence, study)
        done = report(study, evidence / "report")
        tables = Tables.of(study)
        found = replicate(tables)
        lost = f", {tables.ends['diverged']} diverged" if tables.ends.get("diverged") else ""
        put(PAGE, f"{counted(tables)}{lost}.\n\n{overview(found)}\n\n## The rows\n\n{sources(found)}")
        write_text(NUMBERS, rows_of(found).to_csv(index=False, float_format="%.10g"))
        put(README, headline(tables, found))
        put(REPORT, "\n\n".join(_report(tables, done.sentences)))
    print(f"page {done.page}, findings {PAGE}")


def counted(tables: Tables) -> str:
    """``133 of 198 runs are finished``."""
    return f"{tables.ends.get('done', 0)} of {sum(tables.ends.values())} runs are finished"


def _report(tables: Tables, sentences: Iterable[str]) -> Iterator[str]:
    """The report in short as Markdown: what was found, in words; cells; figures."""
    yield "## What was found"
    yield "\n".join(f"- {sentence}" for sentence in sentences)
    for name in FIGURES:
        picture = PICTURES / f"photographs_{name}.png"
        try:
            write(draw(name, tables), picture, "png", dpi=120)
        except NotDrawnError as error:
            yield f"{DRAWN[name].title}: not drawn; {error}."
        else:
            yield f"## {DRAWN[name].title}"
            yield f"![{DRAWN[name].title}](images/{picture.name})"
    yield "## Cells"
    cells = cells_table(tables)
    yield cells.note
    yield cells.markdown()


def headline(tables: Tables, found: Sequence[Finding]) -> str:
    """The README's part: matched cells of the land-use target, what stands out, verdicts, and a picture."""
    runs = tables.only(str(target_roles(tables).land_use)).runs
    rates = runs.groupby("variant")["learning_rate"].transform("nunique")
    cells = cells_table(tables.keep(runs.loc[rates > 1, "run"]))
    shown = tuple(column for column in cells.columns if column.name in HEADLINE)
    table = replace(cells, columns=shown).markdown()
    so_far = "" if set(tables.ends) == {"done"} else f"So far {counted(tables)}.\n\n"
    picture = "![Accuracy, drift and zero-shot kept by rate](docs/images/photographs_matched_rates.png)"
    return f"{so_far}{table}\n\n{most_accurate(cells.frame)}\n\n{picture}\n\n{verdicts(found)}"


def most_accurate(cells: pd.DataFrame) -> str:
    """What each method keeps at the rate where its mean accuracy is highest."""
    highest = cells.loc[cells.groupby("variant")["accuracy"].idxmax()]
    said = [
        f"{row.variant} {row.accuracy:.1f} % at {rate_text(row.learning_rate)}, with {kept:.1f} % kept"
        for row, kept in zip(highest.itertuples(), highest["retention_cifar100"], strict=True)
    ]
    return f"The highest accuracy of each, and what it costs: {'; '.join(said)}."


def verdicts(found: Sequence[Finding]) -> str:
    """How many findings ended how, and which."""
    numbers = {name: [str(f.number) for f in found if f.verdict == name] for name in SAID}
    said = [f"{len(which)} {SAID[name]} ({', '.join(which)})" for name, which in numbers.items() if which]
    return f"Of {len(found)} published findings {'; '.join(said)}."


def put(page: Path, text: str) -> None:
    """Write text between a page's marks."""
    write_text(page, between(page.read_text(encoding="utf-8"), START, END, f"\n{text.strip()}\n"))


def main() -> None:
    match sys.argv[1:]:
        case ["pack", study, evidence]:
            print(f"{pack(Path(study), Path(evidence))} records packed")
        case ["unpack", evidence, study]:
            print(f"{unpack(Path(evidence), Path(study))} records put back")
        case ["run", data, study, evidence, processes, *options]:
            run(Path(data), Path(study), Path(evidence), int(processes), options)
        case ["write", evidence]:
            write_pages(Path(evidence))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main()
    except ClipdriftError as error:
        sys.exit(f"error: {error}")
