"""How much of a retrieval index that BASE built can still be searched with TUNED. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field

from clipdrift.config.base import Frozen
from clipdrift.runs.files import write_text

SEARCHES = {
    "today": "BASE's queries on BASE's index",
    "kept_index": "TUNED's queries on BASE's index",
    "ridge": "TUNED's queries through a linear map",
    "rotation": "TUNED's queries through a rotation",
    "new_index": "TUNED's queries on TUNED's index",
}
"""Ways to search, in the order in which they are told."""

MAPS = ("ridge", "rotation")


class Estimate(Frozen):
    """A mean over queries with its 95 % bootstrap interval; None where no two queries differ, or too few."""

    value: float
    low: float | None = None
    high: float | None = None


class Search(Frozen):
    """What one way of searching finds; all shares in [0, 1], keyed by k, the number of images looked at."""

    overlap: dict[int, Estimate] = Field(
        description="Share of the k nearest of BASE's query in BASE's index that are among the k found."
    )
    rank_agreement: Estimate = Field(
        description="Kendall's tau of the order of the whole gallery with that of BASE's query."
    )
    recall: dict[int, Estimate] = Field(
        default_factory=dict, description="Share of queries with a right image among k; empty without truth."
    )
    precision: dict[int, Estimate] = Field(
        default_factory=dict, description="Share of right images among k; of image queries with classes."
    )


class Queries(Frozen):
    """One kind of queries, searched in every way."""

    kind: Literal["images", "texts"]
    count: int
    gallery: int = Field(description="Images that are searched.")
    truth: Literal["classes", "captions"] | None
    judged: int = Field(description="Queries for which the gallery holds a right image.")
    searches: dict[str, Search]
    won_back: dict[str, dict[str, Estimate | None]] = Field(
        default_factory=dict,
        description="By map and yardstick (overlap@10, rank_agreement, recall@1 ...): percent of what TUNED "
        "lost on BASE's index against BASE's own queries. None where no loss is seen.",
    )


class LinearMap(Frozen):
    """A map from TUNED's embeddings into BASE's, fitted on images of the gallery."""

    images: int = Field(description="Pairs that it was fitted on; none of them a query.")
    refused: str = Field("", description="Why there is none; empty where there is.")
    penalty: float | None = Field(None, description="Ridge's, chosen by leaving every pair out once.")
    cosine: Estimate | None = Field(
        None, description="Of mapped image queries with BASE's embedding of the same image."
    )


class IndexMemory(Frozen):
    """How much of an index of images that was embedded with BASE can still be searched with TUNED."""

    schema_version: Literal[1] = 1
    base: str
    tuned: str
    source: str
    queries_from: str = Field(description="The same images, of which some were held out, or another source.")
    images: int = Field(description="Of the index, without the queries.")
    classes: int | None
    seed: int
    widths: tuple[int, int] = Field(description="Of BASE's and TUNED's embeddings.")
    copies: int = Field(description="Images of the index that are an earlier one, pixel for pixel.")
    queries_in_index: int = Field(description="Image queries that are in the index too, pixel for pixel.")
    cosine: Estimate | None = Field(None, description="Of both embeddings of an image query; None: widths.")
    maps: dict[str, LinearMap]
    by_image: Queries
    by_text: Queries | None
    fingerprints: tuple[str | None, str | None] = Field(
        (None, None), description="Content hashes of BASE's and TUNED's files, where they have files."
    )
    contents: tuple[str | None, ...] = Field(
        (), description="Of the images of the index, and of the queries'."
    )
    notes: tuple[str, ...] = ()
    environment: dict[str, Any] = Field(
        default_factory=dict, description="Of an index that was measured alone; else the comparison's."
    )

    @property
    def direct(self) -> bool:
        """Whether TUNED's embeddings can be compared with BASE's at all."""
        return self.widths[0] == self.widths[1]

    def to_frame(self) -> pd.DataFrame:
        """Tidy: one row per kind of queries x search x measure x k, with the interval.

        Columns: queries, search, measure, k (``<NA>`` where there is none), value, low, high. Won back is in
        percent, all else a share or a correlation.
        """
        rows = [row for found in (self.by_image, self.by_text) if found is not None for row in _rows(found)]
        return pd.DataFrame(rows).astype({"k": "Int64"})

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``index_memory.json`` and ``index_memory.csv``."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        write_text(place / "index_memory.json", text)
        return [place / "index_memory.json", self.save_table(place)]

    def save_table(self, folder: Path) -> Path:
        """Write ``index_memory.csv`` alone."""
        write_text(folder / "index_memory.csv", self.to_frame().to_csv(index=False))
        return folder / "index_memory.csv"


def _rows(found: Queries) -> Iterator[dict[str, Any]]:
    for name, search in found.searches.items():
        for measure in ("overlap", "recall", "precision"):
            for k, estimate in getattr(search, measure).items():
                yield _row(found, name, measure, k, estimate)
        yield _row(found, name, "rank_agreement", None, search.rank_agreement)
    for name, won in found.won_back.items():
        for yardstick, estimate in won.items():
            measure, _, k = yardstick.partition("@")
            if estimate is not None:
                yield _row(found, name, f"won_back_{measure}", int(k) if k else None, estimate)


def _row(found: Queries, search: str, measure: str, k: int | None, estimate: Estimate) -> dict[str, Any]:
    return {"queries": found.kind, "search": search, "measure": measure, "k": k, **estimate.model_dump()}
