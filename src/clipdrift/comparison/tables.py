"""Tables of a comparison, made from two readings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from clipdrift import formulas
from clipdrift.comparison import Compared, HeadDrift, Sensitivity, SpectrumRow, Subsets, TransferRow
from clipdrift.data.errors import DataError
from clipdrift.data.splits import balanced_subsets
from clipdrift.listing import MEASURES, Entry
from clipdrift.measures import Internals, Reading, Spectrum, TextInternals

SUBSETS, SUBSET_SIZE = 5, 200
"""How many disjoint subsets the sensitivity is taken over, and of how many images at most."""


def compared(found: Mapping[str, Reading]) -> dict[str, Compared]:
    """Readings as rows of a comparison, with family and unit."""
    return {name: _compared(MEASURES[name], reading) for name, reading in found.items()}


def _compared(entry: Entry, reading: Reading) -> Compared:
    if reading.before is None or reading.drift is None:
        return Compared(
            family=entry.family, unit=entry.unit, value=reading.value, value_blocks=reading.blocks
        )
    return Compared(
        family=entry.family,
        unit=entry.unit,
        before=reading.before.value,
        after=reading.value,
        before_blocks=reading.before.blocks,
        after_blocks=reading.blocks,
        drift=reading.drift.mean,
        drift_blocks=reading.drift.blocks,
        absolute=reading.drift.absolute,
    )


def heads(before: Internals | TextInternals, after: Internals | TextInternals) -> tuple[HeadDrift, ...]:
    """Every head's mean over images, or texts, on both sides, measure by measure."""
    return tuple(
        HeadDrift(measure=name, block=block + 1, head=head + 1, before=float(old), after=float(new))
        for name in before.heads
        for (block, head), old, new in zip(
            np.ndindex(before.heads[name].shape),
            before.heads[name].ravel(),
            after.heads[name].ravel(),
            strict=True,
        )
    )


def spectrum_row(change: Spectrum) -> SpectrumRow:
    return SpectrumRow(
        block=change.block,
        kind=change.kind,
        effective_rank=change.effective_rank,
        intruders=change.intruders,
        largest=change.largest,
        layer=change.layer,
    )


def ability(rows: Mapping[str, TransferRow]) -> dict[str, Compared]:
    """Zero-shot accuracy as a mean over the transfer sets, where there are several."""
    if len(rows) < 2:
        return {}
    before = float(np.mean([row.before for row in rows.values()]))
    after = float(np.mean([row.after for row in rows.values()]))
    return {
        "zero_shot_accuracy": Compared(
            family="ability",
            unit="%",
            before=before,
            after=after,
            drift=100 * (after - before) / before if before else after - before,
            absolute=not before,
        )
    }


def subsets(
    before: Internals, after: Internals, labels: NDArray[np.int64] | None, seed: int
) -> Subsets | None:
    """Coefficient of variation of each measure over disjoint subsets; None where images are too few.

    Measures that are a comparison already have one value, given as ``after``.
    """
    count = before.images
    size = min(SUBSET_SIZE, count // SUBSETS)
    if size < 4:  # debiased CKA needs as many
        return None
    parts = _parts(labels, count, size, seed)
    found = {}
    for name in before.attention:
        found[name] = Sensitivity(
            before=_variation([before.attention[name][part].mean() for part in parts]),
            after=_variation([after.attention[name][part].mean() for part in parts]),
        )
    found["cka"] = Sensitivity(before=None, after=_variation([_cka(before, after, part) for part in parts]))
    moved = [float(formulas.embedding_drift(before.embedding[part], after.embedding[part])) for part in parts]
    found["embedding_drift"] = Sensitivity(before=None, after=_variation(moved))
    return Subsets(count=SUBSETS, images=size, measures=found)


def _parts(labels: NDArray[np.int64] | None, count: int, size: int, seed: int) -> list[NDArray[np.int64]]:
    if labels is not None and len(np.unique(labels)) > 1:
        try:
            return [np.asarray(part) for part in balanced_subsets(labels, SUBSETS, size, seed)]
        except DataError:  # classes are too small for that: drawn without regard to them
            pass
    order = np.random.default_rng(seed).permutation(count)
    return [np.sort(order[i * size : (i + 1) * size]) for i in range(SUBSETS)]


def _cka(before: Internals, after: Internals, part: NDArray[np.int64]) -> float:
    chosen = torch.from_numpy(part)
    pairs = zip(before.states, after.states, strict=True)
    return float(np.mean([float(formulas.cka(x[chosen], y[chosen])) for x, y in pairs]))


def _variation(values: Sequence[float]) -> float | None:
    """Coefficient of variation; None where it is undefined since the measure is zero throughout."""
    try:
        return float(formulas.coefficient_of_variation(torch.tensor(values, dtype=torch.float64)))
    except ValueError:
        return None
