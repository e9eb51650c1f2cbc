"""Attention measures: from the CLS rows of one block to one number per image, averaged over heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from clipdrift import formulas


@dataclass(frozen=True)
class AttentionMeasure:
    """``per_image`` takes the rows of one block over patches (B, H, P) and returns (B,)."""

    per_image: Callable[[Tensor], Tensor]
    unit: str
    summary: str


ATTENTION: dict[str, AttentionMeasure] = {
    "entropy": AttentionMeasure(
        lambda rows: formulas.entropy(rows).mean(-1), "nats", "entropy of CLS-to-patch attention, mean over heads"
    ),
    "erf95": AttentionMeasure(
        lambda rows: formulas.effective_receptive_field(rows, 0.95).mean(-1),
        "share of patches",
        "effective receptive field: patches that hold 95 % of the attention",
    ),
    "gini": AttentionMeasure(lambda rows: formulas.gini(rows).mean(-1), "", "inequality of attention over patches"),
    "head_diversity": AttentionMeasure(
        formulas.head_diversity, "", "one minus the mean cosine between heads, per image"
    ),
}
