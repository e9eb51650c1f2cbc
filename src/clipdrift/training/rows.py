"""One look at the model as a flat row, its numbers named as in the log of a watched training."""

from __future__ import annotations

from clipdrift.runs.record import Point


def row_of(point: Point, blocks: bool = True) -> dict[str, float]:
    """Numbers by key: ``measure/entropy``, ``drift/entropy`` (percent), ``drift/cka``, ``retention/dtd``.

    A comparison with the backbone, such as CKA, has its value under both names.

    Args:
        blocks: those of each block too, as ``drift/cka/block_6``.
    """
    row: dict[str, float] = {}
    for name, measured in point.measures.items():
        compares = measured.drift is None
        row[f"measure/{name}"] = measured.mean
        row[f"drift/{name}"] = measured.mean if measured.drift is None else measured.drift
        if blocks:
            changes = measured.blocks if compares else measured.drift_blocks
            for key, values in ((f"measure/{name}", measured.blocks), (f"drift/{name}", changes)):
                row |= {f"{key}/block_{number}": value for number, value in enumerate(values, start=1)}
    for name, transfer in point.transfer.items():
        row[f"zero_shot/{name}"] = transfer.accuracy
        if transfer.retention is not None:
            row[f"retention/{name}"] = transfer.retention
    return row
