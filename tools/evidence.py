"""Records of a study in the repository, and the pages made from them.

    python tools/evidence.py pack runs/photographs evidence/photographs      # finished runs' records,
    compressed python tools/evidence.py unpack evidence/photographs runs/photographs    # records back where
    a study has them python tools/evidence.py write evidence/photographs                      # report,
    replication page, README

``unpack`` leaves alone what is there already, so a study goes on where the packed records end.
"""

from __future__ import annotations

import lzma
import shutil
import sys
import tempfile
from pathlib import Path

from rich.progress import track

from clipdrift.claims import replicate
from clipdrift.claims.page import overview, rows_of, sources
from clipdrift.figures.registry import draw, write
from clipdrift.files import write_text
from clipdrift.layout import RECORD
from clipdrift.reporting import report
from clipdrift.reporting.tables import cells_table
from clipdrift.results import Tables
from clipdrift.store import Store
from clipdrift.studied import MANIFEST, read_manifest

ROOT = Path(__file__).resolve().parents[1]
PACKED = ".json.xz"
PAGE = ROOT / "docs" / "replication.md"
NUMBERS = ROOT / "docs" / "replication.csv"
README = ROOT / "README.md"
PICTURES = ROOT / "docs" / "images"
FIGURES = {"matched_rates": "7.2x4.8", "predictors": "paper", "frontier": "paper"}
"""Of the report, kept beside the docs: name and size."""
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
            packed.write_bytes(lzma.compress(record.read_bytes(), preset=9 | lzma.PRESET_EXTREME))
            new += 1
    return new


def unpack(evidence: Path, study: Path) -> int:
    """Put packed records where the study has them, with what it reads beside them. Returns how many."""
    study.mkdir(parents=True, exist_ok=True)
    if not (study / MANIFEST).is_file() and (evidence / MANIFEST).is_file():
        shutil.copyfile(evidence / MANIFEST, study / MANIFEST)
    done = 0
    for packed in track(sorted(evidence.glob(f"*{PACKED}")), "records"):
        folder = Store(study).folder(packed.name.removesuffix(PACKED))
        if not (folder.path / RECORD).is_file():
            folder.path.mkdir(exist_ok=True)
            (folder.path / RECORD).write_bytes(lzma.decompress(packed.read_bytes()))
            folder.mend(folder.record())
            done += 1
    return done


def write_pages(evidence: Path) -> None:
    """Make the report, the page of findings and the README's part of it anew from the records alone."""
    with tempfile.TemporaryDirectory() as temporary:
        study = Path(temporary) / evidence.name
        unpack(evidence, study)
        done = report(study, evidence / "report")
        tables = Tables.of(study)
        found = replicate(tables)
        between(PAGE, f"{overview(found)}\n\n## The rows\n\n{sources(found)}")
        write_text(NUMBERS, rows_of(found).to_csv(index=False, float_format="%.10g"))
        between(README, headline(tables))
        for name, size in FIGURES.items():
            write(draw(name, tables, size), PICTURES / f"photographs_{name}.png", "png")
    print(f"page {done.page}, findings {PAGE}")


def headline(tables: Tables) -> str:
    """The matched cells of the land-use target as a Markdown table."""
    runs = tables.only("land-use-7").runs
    return cells_table(tables.keep(runs.loc[runs["plain"], "run"])).markdown()


def between(page: Path, text: str) -> None:
    """Put text between a page's markers."""
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    write_text(page, f"{before}{START}\n\n{text.strip()}\n\n{END}{rest.partition(END)[2]}")


def main() -> None:
    match sys.argv[1:]:
        case ["pack", study, evidence]:
            print(f"{pack(Path(study), Path(evidence))} records packed")
        case ["unpack", evidence, study]:
            print(f"{unpack(Path(evidence), Path(study))} records put back")
        case ["write", evidence]:
            write_pages(Path(evidence))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
