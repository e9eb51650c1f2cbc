"""Printed table of a study beside the published values."""

from __future__ import annotations

from clipdrift.replication.against import against_published
from clipdrift.reporting.printed import KEY, Column, Printed, count, signed, spoken, word
from clipdrift.study.frames import blocks_frame
from clipdrift.study.tables import Tables
from clipdrift.texts import number


def published_table(tables: Tables) -> Printed:
    """One row per published number, and ours beside it where we have the cell."""
    blocks = blocks_frame(tables.records(), "last") if tables.folder else None
    found = against_published(tables.runs, blocks)
    frame = found.copy()
    frame["inside"] = frame["inside"].map({True: "yes", False: "no"}).fillna("")
    frame.insert(0, KEY, [f"p{i}" for i in range(1, len(frame) + 1)])
    columns = (
        Column("source", "table", spoken, left=True),
        Column("cell", "cell", word, left=True),
        Column("quantity", "quantity", word, left=True),
        Column("ours", "ours", number),
        Column("low", "least seed", number),
        Column("high", "greatest seed", number),
        Column("n", "n", count),
        Column("theirs", "theirs", number),
        Column("difference", "difference", signed),
        Column("inside", "theirs within our seeds", word, left=True),
        Column("comparable", "comparable", word, left=True),
        Column("protocol", "our protocol", word, left=True),
        Column("backbone", "our backbone", word, left=True),
        Column("defects", "known defects of the published number", word, left=True),
    )
    note = (
        "One row per published number. Rows that are not comparable say why and must not be read as a "
        "replication; cells that this study does not have are listed as missing."
    )
    return Printed("published", "Beside the published values", note, frame, columns)
