"""Lay a study beside the published values, number by number, and say what cannot be compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from clipdrift.analysis.runs import prepared
from clipdrift.replication.published_values import (
    BATCH_SIZE,
    DEFECTS,
    EPOCHS,
    TRAIN_IMAGES,
    Published,
    published_values,
)

COLUMNS = (
    "source", "cell", "quantity", "ours", "low", "high", "n", "theirs", "difference", "inside",
    "protocol", "backbone", "comparable", "defects",
)  # fmt: skip
SETTING = ("backbone", "protocol", "epochs", "batch_size", "train_images")
"""What our runs of one published cell may differ in; each combination has a row of its own."""
MISSING = "no run of ours"


def against_published(runs: pd.DataFrame, blocks: pd.DataFrame | None = None) -> pd.DataFrame:
    """Every published number of a cell and ours: one row, or one for each setting that we have it in.

    Ours are read at the published moment: structure of the last epoch, accuracy and zero-shot accuracy of the
    chosen one. Runs that diverged are left out.

    Args:
        runs: as for :func:`clipdrift.analysis.analyse`.
        blocks: as from ``blocks_frame(records, "last")``, for the blocks most affected.

    Returns:
        Columns ``source`` (the published table), ``cell``, ``quantity``; ``ours`` (mean over seeds), ``low``
        and ``high`` (least and greatest seed), ``n`` (seeds); ``theirs``, ``difference`` (ours - theirs),
        ``inside`` (whether theirs lies within our seeds' spread; None for fewer than two seeds); ``protocol``
        and ``backbone`` of ours; ``comparable`` (``yes``, or all that differs, or that we have no such run);
        ``defects`` of the published number, numbered as in docs/statistics.md.

    Raises:
        AnalyseError: as :func:`clipdrift.analysis.analyse`.
    """
    ready = prepared(runs)
    rows: list[dict[str, Any]] = []
    for _, values in itertools.groupby(published_values(), key=lambda value: (value.source, value.cell)):
        of_cell = list(values)
        ours, unsaid = _like(of_cell[0], ready)
        rows += [row for value in of_cell for row in _beside(value, ours, unsaid, blocks)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _beside(
    value: Published, ours: pd.DataFrame, unsaid: list[str], blocks: pd.DataFrame | None
) -> Iterator[dict[str, Any]]:
    row: dict[str, Any] = {
        "source": value.source, "cell": value.cell, "quantity": value.quantity.words, "theirs": value.value,
        "ours": np.nan, "low": np.nan, "high": np.nan, "n": 0, "difference": np.nan, "inside": None,
        "protocol": "", "backbone": "", "defects": "; ".join(f"{n}: {DEFECTS[n]}" for n in value.defects),
    }  # fmt: skip
    column = next((name for name in value.quantity.columns if name in ours), None)
    if value.block is not None:
        ours, column = _with_block(ours, blocks, value.block), "of_block"
    if ours.empty or column is None or ours[column].isna().all():
        why = MISSING if ours.empty else "not measured in ours"
        yield row | {"comparable": why}
        return
    unread = column != value.quantity.columns[0] if value.quantity.columns else False
    setting = SETTING if value.method is not None else SETTING[:2]  # an untouched backbone was not trained
    known = [name for name in setting if name in ours]
    for _, part in ours.dropna(subset=[column]).groupby(known, sort=False, dropna=False):
        seeds, lacking = _by_seed(value, part, column)
        reasons = [*_differences(value, part), *unsaid, *lacking]
        if unread:
            reasons.append("read at the chosen epoch, theirs at the last")
        found: dict[str, Any] = {
            "protocol": str(part["protocol"].iloc[0]) if "protocol" in part else "not stated"
        }
        found |= {"backbone": str(part["backbone"].iloc[0]) or "not stated"}
        if len(seeds):
            low, high, mean = float(seeds.min()), float(seeds.max()), float(seeds.mean())
            inside = low <= value.value <= high if len(seeds) > 1 else None
            found |= {"ours": mean, "low": low, "high": high, "n": len(seeds), "inside": inside}
            found |= {"difference": mean - value.value}
        yield row | found | {"comparable": "; ".join(reasons) or "yes"}


def _like(value: Published, runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Our runs of the published cell, and which options our table does not state."""
    here, unsaid = np.ones(len(runs), dtype=bool), []
    for name, wanted in (("target", value.target), ("method", value.method)):
        if wanted is not None:
            here &= (runs[name] == wanted).to_numpy()
    if value.rates:
        rates = runs["learning_rate"].to_numpy()[:, None]
        here &= np.isclose(rates, np.array(value.rates), rtol=1e-6, atol=0).any(axis=1)
    if value.method is not None and "head" in runs:  # published runs began with a linear head
        here &= (runs["head"].fillna("linear") == "linear").to_numpy()
    for name, wanted in value.options.items():
        if name not in runs:
            unsaid += [f"{name} not stated"] if name != "penalty_weight" else []
        elif wanted is None:
            here &= runs[name].isna().to_numpy()
        elif isinstance(wanted, str):
            here &= (runs[name] == wanted).to_numpy()
        else:
            here &= np.isclose(pd.to_numeric(runs[name], errors="coerce").fillna(np.nan), wanted)
    if value.method is not None and "train_projection" in runs:
        here &= (runs["train_projection"] != False).to_numpy()  # noqa: E712 - absent is no refusal
    same = here & (runs["backbone"] == value.backbone).to_numpy()
    return runs[same if same.any() or value.swapped else here], unsaid


def _with_block(runs: pd.DataFrame, blocks: pd.DataFrame | None, block: int) -> pd.DataFrame:
    if blocks is None:
        return runs.assign(of_block=np.nan)
    chosen = blocks[(blocks["measure"] == "entropy") & (blocks["block"] == block)]
    return runs.assign(of_block=runs["run"].map(chosen.set_index("run")["drift"]).astype(float))


def _by_seed(value: Published, part: pd.DataFrame, column: str) -> tuple[pd.Series, list[str]]:
    """One number per seed: its mean over the rates, of seeds that have them all; and what is lacking."""
    if not value.rates:  # of the backbone: the same in all runs
        return part[column].drop_duplicates(), []
    by_rate = part.groupby(["seed", "learning_rate"], sort=False)[column].mean().unstack()
    whole = by_rate.dropna() if by_rate.shape[1] == len(value.rates) else by_rate.iloc[:0]
    lacking = [] if len(whole) else [f"{by_rate.shape[1]} of {len(value.rates)} rates, no seed with all"]
    return whole.mean(axis=1), lacking


def _differences(value: Published, part: pd.DataFrame) -> Iterator[str]:
    """List what sets our runs apart from the published ones."""
    one = part.iloc[0]
    theirs: dict[str, Any] = {"backbone": value.backbone, "protocol": "published"}
    if value.method is not None and value.target is not None:
        theirs |= {"epochs": EPOCHS[value.target], "batch_size": BATCH_SIZE}
        theirs |= {"train_images": TRAIN_IMAGES[value.target]}
    for name, wanted in theirs.items():
        words = name.replace("_", " ")
        if name not in part or pd.isna(one[name]) or one[name] == "":
            yield f"{words} not stated"
        elif one[name] != wanted:
            given = one[name] if isinstance(one[name], str) else f"{one[name]:g}"
            yield f"{words} {given}, theirs {wanted}"
