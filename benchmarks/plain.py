"""The plain way to the same numbers: eager attention, every map kept, one head after the other.

Written for the benchmarks alone, from the definitions and with numpy, sharing no code with the package.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CLIPModel

Row = NDArray[np.float64]


@torch.no_grad()
def plain_measures(model: CLIPModel, images: torch.Tensor, flow: bool) -> dict[str, Row]:
    """Mean over images of each measure per block (one value for rollout). ``model`` runs eager attention."""
    out = model.vision_model(pixel_values=images, output_attentions=True)
    maps = [attention.numpy() for attention in out.attentions]  # L of (B, H, T, T), all at once
    names = ("entropy", "erf95", "gini", "head_diversity", "cls_self", "sink_share")
    found: dict[str, list[float]] = {name: [] for name in names}
    for attention in maps:
        values: dict[str, list[float]] = {name: [] for name in names}
        for image in attention:
            rows = [row / row.sum() for row in image[:, 0, 1:].astype(np.float64)]
            values["entropy"].append(np.mean([_entropy(row) for row in rows]))  # type: ignore[arg-type]
            values["erf95"].append(np.mean([_erf(row, 0.95) for row in rows]))  # type: ignore[arg-type]
            values["gini"].append(np.mean([_gini(row) for row in rows]))  # type: ignore[arg-type]
            values["head_diversity"].append(_diversity(rows))
            values["cls_self"].append(float(image[:, 0, 0].mean(dtype=np.float64)))
            values["sink_share"].append(np.mean([row.max() for row in rows]))
        for name in names:
            found[name].append(float(np.mean(values[name])))
    result = {name: np.asarray(blocks) for name, blocks in found.items()}
    return result | _flow(maps) if flow else result


def _entropy(row: Row) -> float:
    positive = row[row > 0]
    return float(-(positive * np.log(positive)).sum())


def _erf(row: Row, mass: float) -> float:
    reached = np.cumsum(np.sort(row)[::-1])
    return float(np.searchsorted(reached, mass - 1e-12) + 1) / len(row)


def _gini(row: Row) -> float:
    ascending, count = np.sort(row), len(row)
    rank = np.arange(1, count + 1)
    return float(2 * (rank * ascending).sum() / count - (count + 1) / count)


def _diversity(rows: list[Row]) -> float:
    cosines = [float(a @ b / np.sqrt((a @ a) * (b @ b))) for i, a in enumerate(rows) for b in rows[:i]]
    return 1 - float(np.mean(cosines))


def _flow(maps: list[NDArray[np.float32]]) -> dict[str, Row]:
    patch = []
    for attention in maps:
        values = []
        for image in attention:
            for head in image:
                rows = head[1:, 1:].astype(np.float64)
                rows = rows / rows.sum(-1, keepdims=True)
                logs = np.log2(rows, out=np.zeros_like(rows), where=rows > 0)
                values.append(float(-(rows * logs).sum(-1).mean()))
        patch.append(float(np.mean(values)))
    entropies, receptive, inequality = [], [], []
    for image in range(len(maps[0])):
        rolled = np.eye(maps[0].shape[-1])
        for attention in maps:
            rolled = (0.5 * attention[image].astype(np.float64).mean(0) + 0.5 * np.eye(len(rolled))) @ rolled
        row = rolled[0, 1:] / rolled[0, 1:].sum()
        entropies.append(_entropy(row) / np.log(2))
        receptive.append(_erf(row, 0.95))
        inequality.append(_gini(row))
    return {
        "patch_entropy": np.asarray(patch),
        "rollout_entropy": np.asarray([np.mean(entropies)]),
        "rollout_erf95": np.asarray([np.mean(receptive)]),
        "rollout_gini": np.asarray([np.mean(inequality)]),
    }
