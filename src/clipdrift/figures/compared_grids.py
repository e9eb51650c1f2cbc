"""Heat maps of a comparison: CKA of all blocks, weights by kind and block, heads, spectra of the change."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from clipdrift.comparison import Compared, Comparison
from clipdrift.figures.panels import (
    CHANGE,
    COLOURS,
    NUMBERED,
    block_ticks,
    colour_bar,
    heading,
    heat_map,
    new_figure,
    plain,
    print_cells,
    style,
)
from clipdrift.listing import MEASURES, why_absent
from clipdrift.texts import short, signed, typeset

KINDS = ("q", "k", "v", "out", "fc1", "fc1_g", "fc1_x", "fc2", "conv1", "conv2", "conv3", "conv_dw")
"""Kinds of matrices in the order in which a block uses them."""


def cka_matrix(comparison: Comparison) -> Figure:
    """Debiased CKA of every block of BASE (rows) with every block of TUNED (columns).

    Colours span 0 to 1, and below 0 where a debiased value is; up to 12 blocks have their values printed.

    Raises:
        ValueError: the comparison holds no such matrix.
    """
    if not comparison.cka_matrix:
        raise ValueError("no CKA matrix was measured")
    values = np.array(comparison.cka_matrix)
    rows, columns = values.shape
    with style():
        side = max(4.0, 2.4 + 0.36 * min(rows, NUMBERED))
        figure = new_figure(side + 1.0, side + 0.9)
        axis = figure.subplots()
        shown = heat_map(axis, values, min(0.0, float(values.min())), 1.0)
        block_ticks(axis, columns, label="block of TUNED")
        block_ticks(axis, rows, which="y", label="block of BASE")
        if max(rows, columns) <= NUMBERED:
            print_cells(axis, shown, lambda value: typeset(f"{value:.2f}"))
        colour_bar(figure, shown, axis, "debiased linear CKA")
        heading(figure, comparison, "CKA between blocks")
    return figure


def weight_drift(comparison: Comparison) -> Figure:
    """Relative change of the weights: kind of matrix by block as a heat map, each kind as a whole in bars.

    Raises:
        ValueError: no drift of weights was measured.
    """
    found = _weight_rows(comparison)
    if not found:
        raise ValueError("no drift of weights was measured")
    by_block = {label: one.value_blocks for label, one in found.items()}
    blocks = max(1, *(len(values) for values in by_block.values()))
    table = np.full((len(found), blocks), np.nan)
    for row, values in enumerate(by_block.values()):
        table[row, : len(values)] = values
    whole = [np.nan if one.value is None else one.value for one in found.values()]
    with style():
        figure = new_figure(4.6 + 0.36 * min(blocks, 20), 0.36 * len(found) + 1.9)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(0.36 * min(blocks, 20) + 1.2, 1.6))
        shown = heat_map(left, table, 0, _top(table))
        block_ticks(left, blocks)
        left.set_yticks(range(1, len(found) + 1), [plain(label) for label in found])
        left.set_title("by block", loc="left")
        if blocks <= NUMBERED:
            print_cells(left, shown, short, 6.5)
        colour_bar(figure, shown, left, "relative change of the weights", aspect=20)
        places = np.arange(1, len(found) + 1)
        right.barh(places, whole, 0.7, color=COLOURS[3])
        for place, value in zip(places, whole, strict=True):
            if np.isfinite(value):
                right.text(value, place, f" {short(value)}", va="center", fontsize=8)
        right.set_xlim(0, 1.35 * _top(np.array(whole)))
        right.tick_params(axis="y", length=0, labelleft=False)
        right.set_xlabel("relative change")
        right.set_title("as a whole", loc="left")
        heading(
            figure,
            comparison,
            "Change of the weights, relative to their size before",
            "Hatched: no such value.",
            images=False,
        )
    return figure


def _weight_rows(comparison: Comparison) -> dict[str, Compared]:
    """The measures of weight drift by the label of their row: all, kinds in order, then any other."""
    names = {"weight_drift": "all"} | {f"weight_drift_{kind}": kind for kind in KINDS}
    others = {n: n.removeprefix("weight_drift_") for n in comparison.measures if n.startswith("weight_drift")}
    names = names | {n: label for n, label in others.items() if n not in names}
    return {label: comparison.measures[n] for n, label in names.items() if n in comparison.measures}


def head_drift(comparison: Comparison, measure: str = "entropy") -> Figure:
    """Change of one measure of every head (rows) in every block (columns), after minus before.

    Raises:
        ValueError: the comparison has no heads for this measure.
    """
    frame = comparison.heads_frame()
    if frame.empty or measure not in set(frame["measure"]):
        reason = why_absent(comparison.shape.absent, measure)
        raise ValueError(f"no heads were measured by {measure}{f': {reason}' if reason else ''}")
    part = frame[frame["measure"] == measure]
    table = np.full((int(part["head"].max()), int(part["block"].max())), np.nan)
    table[part["head"] - 1, part["block"] - 1] = part["change"]
    heads, blocks = table.shape
    limit = _top(np.abs(table))
    entry = MEASURES.get(measure)
    unit = entry.unit if entry else ""
    with style():
        figure = new_figure(max(5.0, 2.4 + 0.42 * min(blocks, 24)), 2.0 + 0.3 * min(heads, 24))
        axis = figure.subplots()
        shown = heat_map(axis, table, -limit, limit, CHANGE)
        block_ticks(axis, blocks, comparison.shape.reader)
        block_ticks(axis, heads, which="y", label="head")
        numbered = blocks <= NUMBERED and heads <= 2 * NUMBERED
        if numbered:
            print_cells(axis, shown, signed, 6.5)
        else:  # the two ends of the colours look alike in grey
            print_cells(axis, shown, lambda v: "" if abs(v) < limit / 10 else signed(v)[0], 6.5)
        label = f"change of {measure.replace('_', ' ')}" + (f", {unit}" if unit else "")
        colour_bar(figure, shown, axis, plain(label))
        lines = () if numbered else ("Signs stand where the change is above a tenth of the largest.",)
        heading(figure, comparison, f"Change of every head: {plain(measure.replace('_', ' '))}", *lines)
    return figure


def spectrum(comparison: Comparison) -> Figure:
    """Draw, for the change of every matrix, its effective rank and the intruder dimensions it brought.

    Raises:
        ValueError: no spectra were measured.
    """
    if not comparison.spectra:
        raise ValueError("no spectra were measured")
    present = {row.kind for row in comparison.spectra}
    kinds = [k for k in KINDS if k in present] + sorted(present - set(KINDS))
    columns = _columns(comparison)
    blocks = len(columns)
    shape = (len(kinds), blocks)
    ranks, intruders = np.full(shape, np.nan), np.full(shape, np.nan)
    for row in comparison.spectra:
        place = kinds.index(row.kind), columns.index((row.block, row.layer))
        ranks[place], intruders[place] = row.effective_rank, row.intruders
    stages = any(layer is not None for _, layer in columns)
    with style():
        figure = new_figure(max(5.0, 2.6 + 0.42 * min(blocks, 20)), 2 * (0.34 * len(kinds) + 0.75) + 0.9)
        upper, lower = figure.subplots(2, 1)
        unit = MEASURES["intruder_dimensions"].unit
        for axis, table, title, label, text in (
            (upper, ranks, "effective rank of the change", "rank", short),
            (lower, intruders, f"intruder dimensions, {unit}", "directions", lambda v: f"{v:.0f}"),
        ):
            shown = _kinds_by_block(axis, table, kinds)
            if stages:
                _stage_ticks(axis, columns)
            if blocks <= NUMBERED:
                print_cells(axis, shown, text)
            axis.set_title(title, loc="left")
            whole = MaxNLocator(4, integer=True)  # nothing between 1 and 2 intruders
            colour_bar(figure, shown, axis, label, aspect=12, ticks=whole)
        heading(figure, comparison, "Spectra of the change", "Hatched: did not change.", images=False)
    return figure


def _columns(comparison: Comparison) -> list[tuple[int, int | None]]:
    """Block and layer of each column: every block, or every layer of the stages that changed."""
    found = {(row.block, row.layer) for row in comparison.spectra}
    layered = {block for block, layer in found if layer is not None}
    plain_blocks = {(block, None) for block in range(1, comparison.shape.blocks + 1) if block not in layered}
    return sorted(found | plain_blocks, key=lambda place: (place[0], place[1] or 0))


def _stage_ticks(axis: Axes, columns: list[tuple[int, int | None]]) -> None:
    """A tick where each stage begins."""
    first = {block: place for place, (block, _) in reversed(list(enumerate(columns, start=1)))}
    axis.set(xticks=list(first.values()), xticklabels=[str(block) for block in first], xlabel="block")


def _kinds_by_block(axis: Axes, table: NDArray[np.float64], kinds: list[str]) -> AxesImage:
    shown = heat_map(axis, table, 0, _top(table))
    block_ticks(axis, table.shape[1])
    axis.set_yticks(range(1, len(kinds) + 1), [plain(kind) for kind in kinds])
    return shown


def _top(table: NDArray[np.float64]) -> float:
    """The largest finite value, or 1 where nothing is above 0: the end of a scale."""
    finite = table[np.isfinite(table)]
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0
