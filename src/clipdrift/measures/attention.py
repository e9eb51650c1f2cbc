"""Attention measures: from the rows of one block to one number per image, or per image and head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from clipdrift import formulas


@dataclass(frozen=True)
class BlockRows:
    """Attention rows of one block, float64.

    Attributes:
        patches: (B, H, P) attention over patches, not renormalised.
        own: (B, H) attention on the class token itself; None in a tower without one.
    """

    patches: Tensor
    own: Tensor | None


def erf(mass: float) -> Callable[[BlockRows], Tensor]:
    """Effective receptive field at a threshold, per image and head."""
    return lambda rows: formulas.effective_receptive_field(rows.patches, mass)


def erf_name(mass: float) -> str:
    """``erf95`` for 0.95."""
    return f"erf{100 * mass:g}"


def _own(rows: BlockRows) -> Tensor:
    assert rows.own is not None
    return rows.own


ATTENTION: dict[str, Callable[[BlockRows], Tensor]] = {
    "entropy": lambda rows: formulas.entropy(rows.patches),
    "normalised_entropy": lambda rows: formulas.normalised_entropy(rows.patches),
    "erf95": erf(0.95),
    "gini": lambda rows: formulas.gini(rows.patches),
    "head_diversity": lambda rows: formulas.head_diversity_by_head(rows.patches),
    "cls_self": _own,
    "sink_share": lambda rows: formulas.sink_share(rows.patches),
}
"""Each returns (B, H); an image's value in a block is the mean over heads."""

OF_TOKEN = ("cls_self",)
"""Those that only a tower with a class token has."""
