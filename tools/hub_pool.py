"""Compare a list of tuned models with their bases, one row each: `clipdrift compare` over a pool.

python tools/hub_pool.py --images cifar100 --transfer cifar100 --out pool.csv          # tools/hub_pool.csv
python tools/hub_pool.py mine.csv --images 'photos/{task}' --transfer 'own=photos/{task}' --out compared.csv

The list is a CSV file with the columns base and tuned (hub ids, folders, whatever compare takes; a folder may
be relative to the list) and, if you like, task, accuracy_before and accuracy_after, which are copied.
`{task}` in --images and --transfer stands for the row's task. Said again, it goes on: a row that is done is
not done again, one that failed only with --retry-failed. Exit status 0: every row is done; 1: some failed; 2:
something to mend, said in one line.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clipdrift.errors import ClipdriftError, one_line, printable
from clipdrift.runs.files import refuse_unwritable, write_text

POOL = Path(__file__).with_name("hub_pool.csv")
NEEDED, COPIED = ("base", "tuned"), ("task", "accuracy_before", "accuracy_after")
MEASURED = ("images", "cka", "cka_worst", "embedding_drift", "weight_drift", "entropy_drift")
TESTED = ("before", "after", "retention", "agreement")
"""Of each transfer set, as in ``before/cifar100``; accuracies and retention in percent."""
SAID = ("grafted", "fingerprint", "notes", "settings")
DONE, FAILED = "done", "failed"


class PoolError(ClipdriftError):
    """A list or a table that cannot be used; says why."""


@dataclass(frozen=True)
class Row:
    """One pair of the list, its texts as they stand there."""

    base: str
    tuned: str
    task: str = ""
    accuracy_before: str = ""
    accuracy_after: str = ""

    @property
    def pair(self) -> tuple[str, str]:
        return self.base, self.tuned


def read_pool(file: Path) -> list[Row]:
    """The rows of a list. Raises PoolError."""
    found = _table(file)
    if not found:
        raise PoolError(f"{file}: no rows")
    missing = [name for name in NEEDED if name not in found[0]]
    if missing:
        raise PoolError(f"{file}: no column {' and '.join(missing)}; it needs {' and '.join(NEEDED)}")
    rows = [Row(**{name: (row.get(name) or "").strip() for name in (*NEEDED, *COPIED)}) for row in found]
    for number, row in enumerate(rows, start=2):
        if not row.base or not row.tuned:
            raise PoolError(f"{file}: line {number} names no {'base' if not row.base else 'tuned'}")
        if row.pair in [other.pair for other in rows[: number - 2]]:
            raise PoolError(f"{file}: line {number} names {row.tuned} against {row.base} a second time")
    return rows


def _table(file: Path) -> list[dict[str, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PoolError(f"{file}: cannot be read ({one_line(error)})") from None
    return list(csv.DictReader(io.StringIO(text, newline="")))


def place_of(name: str, beside: Path) -> str:
    """A folder that lies beside the list, by its path; a hub id or another name as it is."""
    there = beside / name
    return str(there) if there.is_dir() else name


@dataclass(frozen=True)
class Asked:
    """How every row is compared."""

    images: str
    transfer: tuple[str, ...]
    limit: int
    seed: int
    per_class: int | None

    def settings(self) -> str:
        """As they stand in the table: rows of other settings do not belong into the same."""
        return json.dumps(vars(self) | {"transfer": list(self.transfer)}, sort_keys=True)

    def filled(self, text: str, task: str) -> str:
        if "{task}" in text and not task:
            raise PoolError(f"{text}: the row has no task to put in place of {{task}}")
        return text.replace("{task}", task)


def compared(row: Row, asked: Asked, beside: Path, options: dict[str, Any]) -> dict[str, str]:
    """The cells of one row.

    Raises:
        ClipdriftError: what `clipdrift compare` says.
    """
    from clipdrift.comparison.compare import compare, transfer_sets

    sets = transfer_sets([asked.filled(text, row.task) for text in asked.transfer], asked.per_class)
    found = compare(
        place_of(row.base, beside),
        place_of(row.tuned, beside),
        asked.filled(asked.images, row.task),
        transfer=sets,
        limit=asked.limit,
        seed=asked.seed,
        flow=False,
        spectrum=False,
        shown=0,
        **options,
    )
    cells: dict[str, Any] = {"images": found.images.count}
    if "image tower" not in found.tuned.grafted:  # of a text tower alone these compare BASE with itself
        measures, blocks = found.measures, found.measures["cka"].value_blocks
        cells |= {
            "cka": measures["cka"].value,
            "cka_worst": min(blocks) if blocks else measures["cka"].value,
            "embedding_drift": measures["embedding_drift"].value,
            "weight_drift": measures["weight_drift"].value,
            "entropy_drift": measures["entropy"].drift,
        }
    for text, spec in zip(asked.transfer, sets, strict=True):
        tested = found.transfer[spec.name]
        for name in TESTED:
            cells[f"{name}/{column(text)}"] = getattr(tested, name)
    cells["fingerprint"] = found.tuned.fingerprint
    cells |= {"grafted": " + ".join(found.tuned.grafted), "notes": " | ".join(found.notes)}
    return {name: "" if value is None else str(value) for name, value in cells.items()}


def column(transfer: str) -> str:
    """What a transfer set is called in the table: the same for every row, whatever its task."""
    name = transfer.partition("=")[0] if "=" in transfer else Path(transfer).name
    return "own" if "{task}" in name else name


def columns(asked: Asked) -> list[str]:
    """Of the table, in order. Raises PoolError where two sets would share one."""
    tested = [f"{name}/{column(text)}" for text in asked.transfer for name in TESTED]
    if len(set(tested)) < len(tested):
        raise PoolError("two sets of --transfer have the same name; write name=folder")
    return [*NEEDED, *COPIED, "status", "reason", *MEASURED, *tested, *SAID]


def read_done(out: Path, asked: Asked) -> dict[tuple[str, str], dict[str, str]]:
    """Rows of an earlier call, by pair.

    Raises:
        PoolError: it is no such table, or one of other settings.
    """
    if not out.exists():
        return {}
    rows = _table(out)
    if any("settings" not in row or "status" not in row for row in rows):
        raise PoolError(f"{out}: is there and no table of this tool; choose another --out")
    others = {row["settings"] for row in rows} - {asked.settings()}
    if others:
        raise PoolError(
            f"{out}: its rows were made with other settings ({min(others)}); choose another --out, or give "
            "those"
        )
    return {(row["base"], row["tuned"]): row for row in rows}


def write(out: Path, names: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, names, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(out, text.getvalue())


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Nobody else writes the table meanwhile. Raises PoolError."""
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{out}.lock", timeout=0):
            yield
    except Timeout:
        raise PoolError(f"{out}: another process is at work on it; wait for it, or stop it") from None


def run(pool: Path, out: Path, asked: Asked, retry: bool, only: str, options: dict[str, Any]) -> int:
    """Do the rows that are not done, and return how many of those asked for are not done in the end."""
    from clipdrift.cli.show import RunDisplay, console

    names, listed = columns(asked), read_pool(pool)
    chosen = [row for row in listed if only in row.tuned]
    if not chosen:
        raise PoolError(f"{pool}: no tuned model whose name has {only!r} in it")
    refuse_unwritable(out)
    with alone(out):
        done = read_done(out, asked)
        for number, row in enumerate(chosen, start=1):
            before = done.get(row.pair)
            if before and (before["status"] == DONE or not retry):
                console.print(
                    f"{number}/{len(chosen)}  {row.tuned}: {before['status']} before", soft_wrap=True
                )
                continue
            cells: dict[str, str] = {name: getattr(row, name) for name in (*NEEDED, *COPIED)}
            cells["settings"] = asked.settings()
            try:
                with RunDisplay() as display:
                    cells |= compared(row, asked, pool.parent, options | {"reporter": display})
                cells |= {"status": DONE, "reason": ""}
            except Exception as error:  # whatever one row runs into, the others are done all the same
                known = isinstance(error, ClipdriftError)
                reason = printable(str(error)) if known else f"{type(error).__name__}: {one_line(error)}"
                cells |= {"status": FAILED, "reason": reason}
            done.pop(row.pair, None)
            done[row.pair] = cells
            write(out, names, list(done.values()))
            told = cells["reason"] or (
                f"CKA {float(cells['cka']):.3f}" if cells.get("cka") else "texts alone"
            )
            told = f"{row.tuned}: {cells['status']}, {told}"
            console.print(f"{number}/{len(chosen)}  {told}", soft_wrap=True, markup=False)
        failed = sum(done[row.pair]["status"] != DONE for row in chosen)
    more = "; --retry-failed tries those again" if failed else ""
    console.print(f"table     {out}: {len(chosen) - failed} done, {failed} failed{more}", soft_wrap=True)
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    title, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        "hub_pool.py", description=title, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("pool", type=Path, nargs="?", default=POOL, help="the list; default tools/hub_pool.csv")
    add("--images", required=True, help="as of `clipdrift compare`; may hold {task}")
    add("--transfer", action="append", default=[], help="likewise, repeatable; name=folder names its columns")
    add("--out", type=Path, required=True, help="the table, CSV; where it is there, it is gone on with")
    add("--retry-failed", action="store_true", help="try rows that failed again")
    add("--only", default="", help="only tuned models whose name has this in it", metavar="TEXT")
    add("--limit", type=int, default=500, help="images read at most")
    add("--transfer-per-class", type=int, help="so many images of each class of a set of --transfer")
    add("--seed", type=int, default=0, help="chooses images")
    add("--batch-size", type=int, help="images per pass")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--cache", type=Path, help="decoded images")
    given = parser.parse_args(arguments)
    asked = Asked(given.images, tuple(given.transfer), given.limit, given.seed, given.transfer_per_class)
    options = {"batch_size": given.batch_size, "device": given.device, "cache": given.cache}
    try:
        failed = run(given.pool, given.out, asked, given.retry_failed, given.only, options)
    except ClipdriftError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from there", file=sys.stderr)
        return 130
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
