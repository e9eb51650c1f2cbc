"""What comparing two models found: plain data with its tables. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field, PrivateAttr, ValidationError

from clipdrift.config.models import Frozen
from clipdrift.errors import ClipdriftError
from clipdrift.files import write_text
from clipdrift.listing import MEASURES
from clipdrift.maps import Maps

SCHEMA_VERSION = 1

FAMILIES = ("attention", "flow", "representation", "weights", "ability")


class ComparisonError(ClipdriftError):
    """A comparison's file that is missing, damaged or of another schema."""


class Side(Frozen):
    """One of the two models."""

    name: str
    kind: str = Field(description="How it was given: model, adapter, run, in memory.")
    library: str = Field(description="Class that ran, such as transformers CLIPModel.")
    parameters: int = Field(description="Of image tower and projection, adapters merged in.")
    fingerprint: str | None = Field(None, description="Content hash of its files, where it has files.")


class Shape(Frozen):
    """Sizes of the image tower, the same on both sides."""

    blocks: int
    heads: int
    width: int
    embedding_width: int
    image_size: int
    grid: tuple[int, int] = Field(description="Rows and columns of patches.")
    reader: Literal["class token", "pooling head"] = Field(
        description="Whose attention over patches was read."
    )

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]


class ProbeImages(Frozen):
    """The images on which internals were read."""

    source: str
    count: int
    fingerprint: str | None = None
    classes: int | None = None
    bad: tuple[tuple[str, str], ...] = Field((), description="Left out as unreadable: where, why.")


class Compared(Frozen):
    """One measure on both sides.

    ``before`` and ``after`` are means over blocks; both are None for a measure that is a comparison already
    (CKA, embedding drift, weight drift), whose value is ``value``. Lists hold a value per block and are
    empty for a measure that has one value only. ``drift`` is in percent of the value before, or the change
    itself where ``absolute``.
    """

    family: str
    unit: str = ""
    before: float | None = None
    after: float | None = None
    before_blocks: tuple[float, ...] = ()
    after_blocks: tuple[float, ...] = ()
    drift: float | None = None
    drift_blocks: tuple[float, ...] = ()
    absolute: bool = False
    value: float | None = None
    value_blocks: tuple[float, ...] = ()


class HeadDrift(Frozen):
    """How one head's attention changed: mean over images of one measure."""

    measure: str
    block: int
    head: int
    before: float
    after: float


class SpectrumRow(Frozen):
    """The change of one matrix: effective rank, intruder dimensions, its largest singular values relative
    to the largest of the matrix before."""

    block: int
    kind: str
    effective_rank: float
    intruders: int
    largest: tuple[float, ...]


class TransferRow(Frozen):
    """Zero-shot ability on one transfer set, before and after; accuracies and retention in percent."""

    images: int
    classes: int
    prompts: tuple[str, ...]
    before: float
    after: float
    retention: float | None = Field(None, description="None where nothing was there to keep.")
    agreement: float
    kl: float
    ensemble_before: float | None = Field(None, description="With all prompts of the set averaged.")
    ensemble_after: float | None = None

    @property
    def chance(self) -> float:
        return 100 / self.classes


class Retrieval(Frozen):
    """Image-text retrieval on the probe images and their captions; recall at k, in [0, 1]."""

    images: int
    captions: int
    image_to_text_before: dict[int, float]
    image_to_text_after: dict[int, float]
    text_to_image_before: dict[int, float]
    text_to_image_after: dict[int, float]


class Sensitivity(Frozen):
    """Coefficient of variation of a measure over disjoint subsets of the images, on either side."""

    before: float | None
    after: float | None


class Subsets(Frozen):
    """The subsets of the sensitivity: how many, of how many images each."""

    count: int
    images: int
    measures: dict[str, Sensitivity]


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
    retrieval: Retrieval | None = None
    subsets: Subsets | None = None
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

        Columns: family, measure, set (transfer set, matrix kind or empty), block (``<NA>`` for the mean or
        the only value), unit, before, after, drift (percent, unless absolute), absolute, value (of measures
        that are a comparison already).
        """
        rows = [row for name, found in self.measures.items() for row in _rows(name, found)]
        for spectrum in self.spectra:
            for name, value in (
                ("effective_rank", spectrum.effective_rank),
                ("intruder_dimensions", float(spectrum.intruders)),
            ):
                unit = MEASURES[name].unit
                rows.append(_row("weights", name, spectrum.kind, spectrum.block, unit, value=value))
        rows += [row for name, found in self.transfer.items() for row in _transfer_rows(name, found)]
        frame = pd.DataFrame(rows)
        return frame.astype({"block": "Int64"})

    def heads_frame(self) -> pd.DataFrame:
        """One row per measure x block x head, largest relative change first within each measure."""
        frame = pd.DataFrame([row.model_dump() for row in self.heads])
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

    def summary(self) -> str:
        """The verdict in a few lines: how far, where, and what it did to transfer."""
        from clipdrift.verdict import verdict

        return "\n".join(verdict(self))

    def plot(self) -> Any:
        """A matplotlib Figure: drift of every measure by block. The other figures: ``clipdrift.figures``."""
        from clipdrift.figures.comparing import block_drift

        return block_drift(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``comparison.json``, ``comparison.csv``, ``heads.csv`` and, where there are, ``maps.npz``."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        files = [place / name for name in ("comparison.json", "comparison.csv", "heads.csv")]
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        write_text(files[0], text)
        write_text(files[1], self.to_frame().to_csv(index=False))
        write_text(files[2], self.heads_frame().to_csv(index=False))
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


def read_comparison(path: str | Path) -> Comparison:
    """Read ``comparison.json``, or that of a folder.

    Raises:
        ComparisonError: missing, damaged, or of a schema that this version does not know.
    """
    file = Path(path)
    file = file / "comparison.json" if file.is_dir() else file
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ComparisonError(
            f"{file}: no comparison here; `clipdrift compare ... --out` makes one"
        ) from None
    except (OSError, ValueError) as error:
        raise ComparisonError(f"{file}: damaged ({error}); compare again") from None
    if not isinstance(data, dict) or data.get("schema_version") != SCHEMA_VERSION:
        raise ComparisonError(f"{file}: not a comparison of schema {SCHEMA_VERSION}; compare again")
    try:
        return Comparison.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise ComparisonError(
            f"{file}: damaged at {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None
