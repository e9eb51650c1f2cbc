"""What stands in the tables of a page, row by row. Chooses and arranges; computes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clipdrift.comparison import FAMILIES, Comparison
from clipdrift.comparison.index_facts import SEARCHES, Queries
from clipdrift.listing import MEASURES, Entry
from clipdrift.pages.cells import CellLookup, PageCell, head_cell
from clipdrift.pages.strips import Strip, strip

TOP_HEADS = 20
"""Heads listed for each measure."""

_FAMILY_TEXTS = {
    "attention": "What the {reader} looks at. Before and after are means over blocks.",
    "flow": "How attention passes on through the blocks, and from patch to patch.",
    "representation": "How alike the states of both models are on the same images. CKA: 1 is unchanged. "
    "Embedding drift: 0 is unchanged.",
    "weights": "Length of the change over length of the weights before. 0 is unchanged.",
    "text": "The text tower{texts}: where the token that a text is pooled at looks, how alike its states "
    "are, how far the weights moved. CKA: 1 is unchanged.",
    "ability": "Mean over the transfer sets. Each set is in the table below.",
}


@dataclass(frozen=True)
class MeasureRow:
    """One measure; cells that it does not have are None."""

    name: str
    entry: Entry
    unit: str
    before: PageCell | None
    after: PageCell | None
    drift: PageCell | None
    absolute: bool
    value: PageCell | None
    strip: Strip | None


@dataclass(frozen=True)
class MeasureFamily:
    """A table of measures."""

    name: str
    text: str
    rows: tuple[MeasureRow, ...]

    @property
    def two_sided(self) -> bool:
        """Whether any measure has a value on either side."""
        return any(row.before for row in self.rows)

    @property
    def valued(self) -> bool:
        """Whether any measure is a comparison already."""
        return any(row.value for row in self.rows)

    @property
    def by_block(self) -> str:
        """What the strips show."""
        kinds = {"drift": self.two_sided, "value": self.valued}
        return " or ".join(kind for kind, there in kinds.items() if there)

    @property
    def units(self) -> bool:
        """Whether any measure has a unit."""
        return any(row.unit for row in self.rows)

    @property
    def stripped(self) -> tuple[MeasureRow, ...]:
        return tuple(row for row in self.rows if row.strip)


def families(comparison: Comparison, cells: CellLookup) -> list[MeasureFamily]:
    """A table per family that has measures."""
    out = []
    source = comparison.text_tower.source if comparison.text_tower else ""
    told = {"reader": comparison.shape.reader, "texts": f" on {source}" if source else ""}
    for family in FAMILIES:
        rows = tuple(_rows(comparison, cells, family))
        if rows:
            out.append(MeasureFamily(family, _FAMILY_TEXTS[family].format(**told), rows))
    return out


def _rows(comparison: Comparison, cells: CellLookup, family: str) -> Iterator[MeasureRow]:
    for name, found in comparison.measures.items():
        if found.family == family:
            two = found.value is None
            yield MeasureRow(
                name=name,
                entry=MEASURES.get(name, Entry("")),
                unit=found.unit,
                before=cells.table(name, "before") if two else None,
                after=cells.table(name, "after") if two else None,
                drift=cells.table(name, "drift") if two else None,
                absolute=found.absolute,
                value=None if two else cells.table(name, "value"),
                strip=strip(name, found, cells),
            )


_CROSSED = ("tuned_image", "tuned_text")


def transfer(comparison: Comparison, cells: CellLookup) -> list[dict[str, Any]]:
    """A row per transfer set; ensembles only where they were measured."""
    return [
        {
            "name": name,
            "prompts": found.prompts,
            "images": cells.field("transfer", name, "images"),
            "classes": cells.field("transfer", name, "classes"),
            "chance": cells.percent("transfer", name, "chance"),
            "before": cells.table("zero_shot_accuracy", "before", name),
            "after": cells.table("zero_shot_accuracy", "after", name),
            "retention": cells.table("retention", "value", name) if cells.has("retention", name) else None,
            "agreement": cells.table("zero_shot_agreement", "value", name),
            "kl": cells.table("zero_shot_kl", "value", name),
            "crossed": [cells.percent("transfer", name, "crossed", side) for side in _CROSSED]
            if found.crossed is not None
            else None,
            "ensemble": [cells.percent("transfer", name, f"ensemble_{side}") for side in ("before", "after")]
            if found.ensemble_before is not None and found.ensemble_after is not None
            else None,
        }
        for name, found in comparison.transfer.items()
    ]


def retrieval(comparison: Comparison, cells: CellLookup) -> list[dict[str, Any]]:
    """A row per direction and k."""
    if comparison.retrieval is None:
        return []
    return [
        {
            "direction": direction.replace("_", " "),
            "k": k,
            "before": cells.field("retrieval", f"{direction}_before", k),
            "after": cells.field("retrieval", f"{direction}_after", k),
            "crossed": [cells.field("retrieval", f"{direction}_crossed", k, side) for side in _CROSSED]
            if k in getattr(comparison.retrieval, f"{direction}_crossed")
            else None,
        }
        for direction in ("image_to_text", "text_to_image")
        for k in getattr(comparison.retrieval, f"{direction}_before")
    ]


def index(comparison: Comparison, cells: CellLookup) -> list[dict[str, Any]]:
    """A table for each kind of queries that were put to an index, a row per yardstick."""
    found = comparison.index
    if found is None:
        return []
    return [
        {
            "kind": queries.kind,
            "count": cells.field("index", place, "count"),
            "gallery": cells.field("index", place, "gallery"),
            "searches": [SEARCHES[name] for name in queries.searches],
            "rows": [
                {
                    "name": name,
                    "cells": [
                        cells.interval("index", place, "searches", way, *path) for way in queries.searches
                    ],
                }
                for name, path in _yardsticks(queries)
            ],
            "won": [
                {
                    "name": SEARCHES[way],
                    "yardstick": yardstick.replace("_", " ").replace("@", " at "),
                    "cells": cells.interval("index", place, "won_back", way, yardstick),
                }
                for way, won in queries.won_back.items()
                for yardstick, estimate in won.items()
                if estimate is not None
            ],
        }
        for place, queries in (("by_image", found.by_image), ("by_text", found.by_text))
        if queries is not None
    ]


def _yardsticks(queries: Queries) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """What a search is judged by, in words and as the place of its numbers."""
    today = queries.searches["today"]
    yield from ((f"same of {k}", ("overlap", k)) for k in today.overlap)
    what = "right class" if queries.truth == "classes" else "own image"
    yield from ((f"{what} in {k}", ("recall", k)) for k in today.recall)
    yield from ((f"share of right class of {k}", ("precision", k)) for k in today.precision if k > 1)
    yield "order", ("rank_agreement",)


def joint_space(comparison: Comparison, cells: CellLookup) -> list[dict[str, Any]]:
    """A row per median rank and per number of the space that images and captions share."""
    found = comparison.retrieval
    if found is None:
        return []
    rows: list[dict[str, Any]] = [
        {
            "name": f"median rank, {direction.replace('_', ' ')}",
            "before": cells.field("retrieval", f"{direction}_rank", 0),
            "after": cells.field("retrieval", f"{direction}_rank", 1),
        }
        for direction in ("image_to_text", "text_to_image")
        if getattr(found, f"{direction}_rank") is not None
    ]
    if found.space_before is not None and found.space_after is not None:
        rows += [
            {
                "name": name.replace("_", " "),
                "before": cells.field("retrieval", "space_before", name),
                "after": cells.field("retrieval", "space_after", name),
            }
            for name in type(found.space_before).model_fields
        ]
    return rows


def sensitivity(comparison: Comparison, cells: CellLookup) -> list[dict[str, Any]]:
    """A row per measure: its coefficient of variation over subsets of the images."""
    if comparison.subsets is None:
        return []
    return [
        {
            "name": name,
            "before": cells.field("subsets", "measures", name, "before"),
            "after": cells.field("subsets", "measures", name, "after"),
        }
        for name in comparison.subsets.measures
    ]


def heads(comparison: Comparison) -> dict[str, list[dict[str, Any]]]:
    """List, by measure, the heads that changed most, in the order of heads.csv."""
    frame = comparison.heads_frame()
    if frame.empty:
        return {}
    columns = ("block", "head", "before", "after", "change", "relative_change")
    asked = dict.fromkeys(row.measure for row in comparison.heads)
    return {
        measure: [
            {column: head_cell(row, column) for column in columns}
            for row in frame[frame["measure"] == measure].head(TOP_HEADS).to_dict("records")
        ]
        for measure in asked
    }


def spectra(comparison: Comparison, cells: CellLookup) -> list[dict[str, Any]]:
    """A row per changed matrix."""
    return [
        {
            "block": found.block,
            "kind": found.label,
            "rank": cells.table("effective_rank", "value", found.label, found.block),
            "intruders": cells.field("spectra", place, "intruders"),
            "largest": [cells.field("spectra", place, "largest", i) for i in range(len(found.largest))][:4],
        }
        for place, found in enumerate(comparison.spectra)
    ]


def beside(comparison: Comparison, cells: CellLookup) -> list[dict[str, Any]]:
    """A row per other model of BASE: its name, how far it moved, the cosine over all and by block."""

    def shown(place: int, *path: str | int, value: float | None) -> PageCell | None:
        return None if value is None else cells.field("beside", place, *path)

    return [
        {
            "name": cells.field("beside", place, "side", "name"),
            "moved": cells.field("beside", place, "weight_drift"),
            "cosine": shown(place, "cosine", value=row.cosine),
            "blocks": [
                shown(place, "cosine_blocks", at, value=value) for at, value in enumerate(row.cosine_blocks)
            ],
        }
        for place, row in enumerate(comparison.beside)
    ]


def matrix(comparison: Comparison, cells: CellLookup) -> list[list[PageCell]]:
    """CKA of every block with every block."""
    return [
        [cells.field("cka_matrix", row, column) for column in range(len(values))]
        for row, values in enumerate(comparison.cka_matrix)
    ]


def environment(comparison: Comparison, cells: CellLookup) -> list[tuple[str, PageCell]]:
    """Name and value of everything that was noted, nested names joined by dots."""

    def walk(found: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, PageCell]]:
        for name, value in found.items():
            if isinstance(value, Mapping):
                yield from walk(value, (*path, name))
            else:
                yield ".".join((*path, name)), cells.field("environment", *path, name)

    return list(walk(comparison.environment, ()))
