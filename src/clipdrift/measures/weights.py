"""How far the image tower's effective weights have moved."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from clipdrift.formulas import weight_drift

_BLOCK = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.")


def weights(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Relative change ``||W - W0|| / ||W0||`` of the whole image tower, of each block, of the projection.

    Args:
        before: the backbone's weights as :func:`clipdrift.adapt.effective_weights` names them.
        after: the adapted model's.
    """
    tower = [name for name in before if name.startswith("vision_model.")]
    blocks: dict[int, list[str]] = {}
    for name in tower:
        if found := _BLOCK.match(name):
            blocks.setdefault(int(found[1]), []).append(name)
    projection = [name for name in before if name.startswith("visual_projection.")]

    def moved(names: list[str]) -> float:
        return float(weight_drift({n: before[n] for n in names}, {n: after[n] for n in names}))

    return {
        "weight_drift": [moved(tower)],
        "weight_drift_blocks": [moved(blocks[k]) for k in sorted(blocks)],
        "weight_drift_projection": [moved(projection)],
    }
