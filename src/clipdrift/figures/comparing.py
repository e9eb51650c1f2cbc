"""Figures of a comparison. They compute nothing: every number comes from the comparison or its maps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from clipdrift.comparison import Comparison
from clipdrift.figures.compared_attention import attention, attention_sheet
from clipdrift.figures.compared_blocks import block_drift, transfer
from clipdrift.figures.compared_grids import cka_matrix, head_drift, spectrum, weight_drift
from clipdrift.figures.compared_index import index_memory
from clipdrift.figures.compared_texts import text_tower
from clipdrift.figures.compared_towers import towers
from clipdrift.figures.panels import style
from clipdrift.runs.files import write_atomically
from clipdrift.runs.maps import Maps

__all__ = [
    "attention",
    "attention_sheet",
    "block_drift",
    "cka_matrix",
    "head_drift",
    "index_memory",
    "spectrum",
    "text_tower",
    "towers",
    "transfer",
    "weight_drift",
    "write_figures",
]

FORMATS = ("png", "svg", "pdf")
_DPI = 150


def write_figures(
    comparison: Comparison, maps: Maps | None, folder: str | Path, formats: Sequence[str] = ("png",)
) -> list[Path]:
    """Write every figure for which there is something to show.

    Args:
        maps: attention of some images; without it there is no ``attention`` figure.
        folder: made where it is missing.
        formats: some of png, svg, pdf; every figure is written in each.

    Returns:
        The files, in the order of a page: ``block_drift.png``, ``cka_matrix.png`` ...

    Raises:
        ValueError: another format.
    """
    for format in formats:
        if format not in FORMATS:
            raise ValueError(f"no figures as {format!r}: choose from {', '.join(FORMATS)}")
    written = []
    for name, make in _figures(comparison, maps):
        figure = make()
        written += [_save(figure, Path(folder) / f"{name}.{format}", format) for format in formats]
    return written


def _figures(comparison: Comparison, maps: Maps | None) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Name and maker of each figure that applies."""
    names = comparison.measures
    if any(found.family != "text" and (found.drift_blocks or found.value_blocks) for found in names.values()):
        yield "block_drift", lambda: block_drift(comparison)
    if comparison.cka_matrix:
        yield "cka_matrix", lambda: cka_matrix(comparison)
    if any(name.startswith("weight_drift") for name in names):
        yield "weight_drift", lambda: weight_drift(comparison)
    if comparison.heads:
        measured = [row.measure for row in comparison.heads]
        measure = "entropy" if "entropy" in measured else measured[0]
        yield "head_drift", lambda: head_drift(comparison, measure)
    if maps is not None and len(maps.images):
        yield "attention", lambda: attention_sheet(maps, reader=comparison.shape.reader)
    if comparison.spectra:
        yield "spectrum", lambda: spectrum(comparison)
    if comparison.transfer:
        yield "transfer", lambda: transfer(comparison)
    if any(row.crossed for row in comparison.transfer.values()):
        yield "towers", lambda: towers(comparison)
    if comparison.index is not None:
        yield "index_memory", lambda: index_memory(comparison)
    if any(found.family == "text" and found.value_blocks for found in names.values()):
        yield "text_tower", lambda: text_tower(comparison)


def _save(figure: Figure, path: Path, format: str) -> Path:
    stamp = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[format]
    with style(), warnings.catch_warnings():
        # names in scripts that matplotlib's font lacks come out as boxes; the page has them in full
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        write_atomically(
            path, lambda file: figure.savefig(file, format=format, dpi=_DPI, metadata=stamp or None)
        )
    return path
