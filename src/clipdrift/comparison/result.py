"""Result of a comparison: plain data with its tables. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field, PrivateAttr

from clipdrift.comparison.facts import (
    BesideRow,
    Compared,
    HeadDrift,
    HeadRow,
    ProbeImages,
    Retrieval,
    Shape,
    Side,
    SpectrumRow,
    Subsets,
    TextTowers,
    TransferRow,
)
from clipdrift.comparison.index_facts import IndexMemory
from clipdrift.config.base import Frozen
from clipdrift.errors import ClipdriftError
from clipdrift.listing import MEASURES
from clipdrift.runs.files import write_text
from clipdrift.runs.frozen import Wording, read_model
from clipdrift.runs.maps import Maps
from clipdrift.views import view

SCHEMA_VERSION = 1

FAMILIES = ("attention", "flow", "representation", "weights", "text", "ability")

AT_ONE = ("cka", "cka_biased", "cka_minibatch", "cka_embedding", "text_cka", "text_cka_embedding")
"""Measures that are 1, not 0, where nothing changed."""


class ComparisonError(ClipdriftError):
    """A comparison's file that is missing, damaged or of another schema."""


class Comparison(Frozen):
    """BASE against TUNED on the same images. Blocks and heads count from 1 in every table."""

    schema_version: Literal[1] = 1
    base: Side
    tuned: Side
    shape: Shape
    images: ProbeImages
    measures: dict[str, Compared]
    cka_matrix: tuple[tuple[float, ...], ...] = Field(
        description="Debiased CKA of every block of BASE (rows) with every block of TUNED."
    )
    heads: tuple[HeadDrift, ...] = ()
    spectra: tuple[SpectrumRow, ...] = ()
    transfer: dict[str, TransferRow] = Field(default_factory=dict)
    head: HeadRow | None = Field(
        None, description="TUNED's head on its target, where it is an image classifier and a set was named."
    )
    retrieval: Retrieval | None = None
    subsets: Subsets | None = None
    beside: tuple[BesideRow, ...] = Field((), description="Other models of BASE that were named, in order.")
    text_tower: TextTowers | None = Field(
        None,
        description="None where one side has no text tower that is read; its measures are of family text.",
    )
    index: IndexMemory | None = Field(
        None, description="How much of an index built with BASE TUNED can search; None: no index was named."
    )
    notes: tuple[str, ...] = Field((), description="What a reader has to know before trusting the numbers.")
    environment: dict[str, Any] = Field(default_factory=dict)
    timings: dict[str, float] = Field(default_factory=dict)
    _maps: Maps | None = PrivateAttr(None)

    @property
    def maps(self) -> Maps | None:
        """Attention of a few images on both sides, where they were pictures; not part of the JSON."""
        return self._maps

    def to_frame(self) -> pd.DataFrame:
        """Tidy: one row per measure x block, and one per measure with its mean over blocks.

        Columns: family, measure, set (transfer set, matrix kind, model beside or empty), block (``<NA>`` for
        the mean or the only value), unit, before, after, drift (percent, unless absolute), absolute, value
        (of measures that are a comparison already).
        """
        rows = [row for name, found in self.measures.items() for row in _rows(name, found)]
        for spectrum in self.spectra:
            for name, value in (
                ("effective_rank", spectrum.effective_rank),
                ("intruder_dimensions", float(spectrum.intruders)),
            ):
                unit = MEASURES[name].unit
                rows.append(_row("weights", name, spectrum.label, spectrum.block, unit, value=value))
        rows += [row for name, found in self.transfer.items() for row in _transfer_rows(name, found)]
        if self.head is not None:
            unit = MEASURES["accuracy"].unit
            rows.append(_row("ability", "accuracy", self.head.target, None, unit, after=self.head.accuracy))
        for other in self.beside:
            for block, cosine in enumerate((other.cosine, *other.cosine_blocks)):
                row = _row("weights", "task_vector_cosine", other.side.name, block or None, "", value=cosine)
                rows.append(row)
        frame = pd.DataFrame(rows)
        return frame.astype({"block": "Int64"})

    def heads_frame(self) -> pd.DataFrame:
        """One row per measure x block x head, largest relative change first within each measure."""
        texts = self.text_tower.heads if self.text_tower else ()
        frame = pd.DataFrame([row.model_dump() for row in (*self.heads, *texts)])
        if frame.empty:
            return frame
        frame["change"] = frame["after"] - frame["before"]
        scale = (
            frame.groupby("measure")["before"].transform(lambda v: v.abs().mean()).replace(0, float("nan"))
        )
        frame["relative_change"] = 100 * frame["change"] / scale
        order = frame["relative_change"].abs().fillna(0)
        return (
            frame.assign(_order=order)
            .sort_values(["measure", "_order"], ascending=[True, False], kind="stable")
            .drop(columns="_order")
            .reset_index(drop=True)
        )

    def blocks_frame(self) -> pd.DataFrame:
        """One row per measure x block, the block that changed most first within each measure.

        Column ``change``: drift (percent, unless absolute) of what both sides have; one minus the value for
        CKA; the value itself for weight drift.
        """
        frame = self.to_frame()
        frame = frame[frame["block"].notna() & (frame["set"] == "")].copy()
        like = frame["measure"].isin(AT_ONE)
        frame["change"] = frame["drift"].where(frame["drift"].notna(), frame["value"])
        frame.loc[like, "change"] = 1 - frame.loc[like, "value"]
        frame["_size"] = frame["change"].astype(float).abs()
        return (
            frame.sort_values(["measure", "_size"], ascending=[True, False], kind="stable")
            .drop(columns="_size")
            .reset_index(drop=True)
        )

    def summary(self) -> str:
        """The verdict in a few lines: how far, where, and what it did to transfer."""
        return "\n".join(view("Comparison.summary")(self))

    def plot(self) -> Any:
        """A matplotlib Figure: drift of every measure by block. The other figures: ``clipdrift.figures``."""
        return view("Comparison.plot")(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``comparison.json``, ``comparison.csv``, ``heads.csv``.

        Where there are, ``index_memory.csv`` and ``maps.npz`` too.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        files = [place / name for name in ("comparison.json", "comparison.csv", "heads.csv")]
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        write_text(files[0], text)
        write_text(files[1], self.to_frame().to_csv(index=False))
        write_text(files[2], self.heads_frame().to_csv(index=False))
        if self.index is not None:
            files.append(self.index.save_table(place))
        return files if self._maps is None else [*files, self._maps.save(place / "maps.npz")]


def _row(family: str, measure: str, of: str, block: int | None, unit: str, **values: Any) -> dict[str, Any]:
    blank = {"before": None, "after": None, "drift": None, "absolute": None, "value": None}
    return {"family": family, "measure": measure, "set": of, "block": block, "unit": unit, **blank, **values}


def _rows(name: str, found: Compared) -> Iterator[dict[str, Any]]:
    if found.value is not None:
        for block, value in enumerate((found.value, *found.value_blocks)):
            yield _row(found.family, name, "", block or None, found.unit, value=value)
        return
    before = (found.before, *found.before_blocks)
    after = (found.after, *found.after_blocks)
    drift = (found.drift, *found.drift_blocks)
    for block, (old, new, change) in enumerate(zip(before, after, drift, strict=True)):
        yield _row(
            found.family,
            name,
            "",
            block or None,
            found.unit,
            before=old,
            after=new,
            drift=change,
            absolute=found.absolute,
        )


def _transfer_rows(name: str, found: TransferRow) -> Iterator[dict[str, Any]]:
    pairs = {"zero_shot_accuracy": (found.before, found.after)}
    for measure, (before, after) in pairs.items():
        yield _row("ability", measure, name, None, MEASURES[measure].unit, before=before, after=after)
    values = {
        "retention": found.retention,
        "zero_shot_agreement": found.agreement,
        "zero_shot_kl": found.kl,
    }
    for measure, value in values.items():
        if value is not None:
            yield _row("ability", measure, name, None, MEASURES[measure].unit, value=value)


_WORDING = Wording(
    schema=SCHEMA_VERSION,
    error=ComparisonError,
    missing="no comparison here; `clipdrift compare ... --out` makes one",
    foreign=f"not a comparison of schema {SCHEMA_VERSION}; compare again",
    again="compare again",
)


def read_comparison(path: str | Path) -> Comparison:
    """Read ``comparison.json``, or that of a folder.

    Raises:
        ComparisonError: missing, damaged, or of a schema that this version does not know.
    """
    file = Path(path)
    return read_model(file / "comparison.json" if file.is_dir() else file, Comparison, _WORDING)
