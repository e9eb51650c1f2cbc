"""Find the intruder dimensions of changed matrices, and scale what they contribute."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clipdrift import formulas
from clipdrift.measures import GATED, KINDS
from clipdrift.measures.errors import defined


@dataclass(frozen=True, eq=False)
class IntrudedMatrix:
    """A matrix in which intruders were found.

    Attributes:
        block: from 1.
        kind: of ``KINDS`` and ``GATED``.
        after: the adapted matrix, in its own precision.
        part: what the intruders contribute to it, ``sum_i sigma_i u_i v_i^T``, in float64.
        count: how many there are.
    """

    block: int
    kind: str
    after: Tensor
    part: Tensor
    count: int

    def scaled(self, factor: float) -> Tensor:
        """``W + (factor - 1) sum_i sigma_i u_i v_i^T``, in the precision of ``W``."""
        return self.exactly(factor).to(self.after.dtype)

    def exactly(self, factor: float) -> Tensor:
        """The same in float64."""
        return self.after.double() + (factor - 1) * self.part


def find(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    *,
    threshold: float,
    top: int | None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, IntrudedMatrix]:
    """The matrices of the blocks that have intruders, by name.

    Intruders are, as :func:`clipdrift.formulas.intruder_dimensions` counts them, those of the ``top`` left
    singular vectors of ``W`` whose largest absolute cosine with any of ``W_0``'s is below ``threshold``
    (Shuttleworth et al. 2024). Their contribution needs no right singular vectors: it is ``U U^T W``.

    Args:
        before, after: effective weights by name; matrices that did not change have none.
        progress: told after each matrix.

    Raises:
        MeasureError: a matrix of zeros on either side.
    """
    names = [(name, *place) for name in before if (place := _place(name)) and before[name].ndim == 2]
    found = {}
    for done, (name, block, kind) in enumerate(names, start=1):
        old, new = before[name].detach(), after[name].detach()
        if not torch.equal(old, new):
            with defined(f"intruder dimensions of {name}"):
                similar = formulas.intruder_similarity(old.float().cpu(), new.float().cpu(), top=top)
            chosen = (similar < threshold).nonzero()[:, 0]
            if len(chosen):
                exact = new.double().cpu()
                # by descending singular value, as those of which the similarity is
                left = torch.linalg.svd(exact, full_matrices=False).U[:, chosen]
                part = (left @ (left.T @ exact)).to(new.device)
                found[name] = IntrudedMatrix(block, kind, new.clone(), part, len(chosen))
        if progress:
            progress(done, len(names))
    return found


def count_by_kind(intruded: Mapping[str, IntrudedMatrix], before: Mapping[str, Tensor]) -> dict[str, int]:
    """Intruders of each kind of matrix over all blocks, in the order of ``KINDS``; 0 where there are none.

    Args:
        before: the backbone's weights by name; kinds of ``GATED`` are counted where it has such matrices.
    """
    gated = [kind for kind, suffix in GATED.items() if any(name.endswith(suffix) for name in before)]
    return {
        kind: sum(found.count for found in intruded.values() if found.kind == kind)
        for kind in (*KINDS, *gated)
    }


def _place(name: str) -> tuple[int, str] | None:
    """Block, from 1, and kind of a matrix; None: not one of a block's."""
    inside = re.search(r"\.encoder\.layers\.(\d+)\.", name)
    kind = next((kind for kind, suffix in (KINDS | GATED).items() if name.endswith(suffix)), None)
    return None if inside is None or kind is None else (int(inside[1]) + 1, kind)
