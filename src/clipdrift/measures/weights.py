"""How far a tower's effective weights have moved, and in which directions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clipdrift import formulas
from clipdrift.formulas import weight_drift
from clipdrift.measures.errors import defined

_BLOCK = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.")

KINDS = {
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "out": "self_attn.out_proj.weight",
    "fc1": "mlp.fc1.weight",
    "fc2": "mlp.fc2.weight",
}
"""The matrices of a block by kind."""


IMAGE_TOWER = ("vision_model", "visual_projection")
TEXT_TOWER = ("text_model", "text_projection")
"""How the names of weights begin: those of the tower, those of its projection."""


def weights(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], tower: tuple[str, str] = IMAGE_TOWER
) -> dict[str, list[float]]:
    """Relative change ``||W - W0|| / ||W0||`` of a whole tower, of each block, of the projection.

    Args:
        before: the backbone's weights as :func:`clipdrift.model.weights.effective_weights` or
            :func:`clipdrift.model.weights.text_weights` names them.
        after: the adapted model's.
        tower: which, as in ``IMAGE_TOWER`` and ``TEXT_TOWER``.

    Raises:
        MeasureError: weights of the backbone that are all zero, of which no share can be told.
    """
    whole, projection = ([name for name in before if name.startswith(f"{part}.")] for part in tower)
    blocks: dict[int, list[str]] = {}
    for name in whole:
        if found := re.match(rf"{tower[0]}\.encoder\.layers\.(\d+)\.", name):
            blocks.setdefault(int(found[1]), []).append(name)
    out = {
        "weight_drift": [_moved(before, after, whole)],
        "weight_drift_blocks": [_moved(before, after, blocks[k]) for k in sorted(blocks)],
    }
    if projection:  # SigLIP has none
        out["weight_drift_projection"] = [_moved(before, after, projection)]
    return out


def weights_by_kind(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> dict[str, tuple[float, list[float]]]:
    """Relative change of each kind of matrix: over all blocks together, and in each block."""
    out = {}
    for kind, suffix in KINDS.items():
        names = sorted((n for n in before if n.endswith(suffix) and _BLOCK.match(n)), key=_number)
        if names:
            out[kind] = (_moved(before, after, names), [_moved(before, after, [n]) for n in names])
    return out


def task_vector_cosines(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], other: Mapping[str, Tensor], *, blocks: int
) -> tuple[float | None, tuple[float | None, ...]]:
    """Cosine of the task vectors ``after - before`` and ``other - before`` in the image tower.

    Args:
        before, after, other: weights under the names of :func:`clipdrift.model.weights.effective_weights`; of
            those that neither moved any may be left out.
        blocks: how many the tower has.

    Returns:
        Over the whole tower with its projection, and for each block; None where one of the two did not move.
    """
    by_block: list[list[str]] = [[] for _ in range(blocks)]
    for name in before:
        if found := _BLOCK.match(name):
            by_block[int(found[1])].append(name)

    def cosine(names: Iterable[str]) -> float | None:
        three = [{name: side[name] for name in names} for side in (before, after, other)]
        if any(all(torch.equal(three[0][n], side[n]) for n in three[0]) for side in three[1:]):
            return None
        with defined("cosine of two task vectors"):
            return float(formulas.task_vector_cosine(*three))

    return cosine(before), tuple(cosine(names) for names in by_block)


@dataclass(frozen=True)
class Spectrum:
    """The change of one matrix.

    Attributes:
        block: from 1.
        kind: of ``KINDS``.
        effective_rank: of the change; 0 where nothing changed.
        intruders: intruder dimensions of the changed matrix.
        largest: the largest singular values of the change, relative to the backbone's largest.
    """

    block: int
    kind: str
    effective_rank: float
    intruders: int
    largest: tuple[float, ...]


def spectra(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    *,
    threshold: float = 0.5,
    top: int | None = 10,
    progress: Callable[[int, int], None] | None = None,
) -> list[Spectrum]:
    """Spectrum of the change of every matrix of every block that changed, by block and kind.

    Args:
        threshold, top: of :func:`clipdrift.formulas.intruder_dimensions`.
        progress: told after each matrix.

    Raises:
        MeasureError: a matrix of zeros on either side.
    """
    pairs = _matrices(before)
    out = []
    for done, (block, kind, name) in enumerate(pairs, start=1):
        old, new = before[name].detach().float().cpu(), after[name].detach().float().cpu()
        if bool((old != new).any()):
            with defined(f"spectrum of block {block} {kind}", "compare without spectra"):
                values = formulas.singular_values(new - old)
                scale = formulas.singular_values(old)[0]
                out.append(
                    Spectrum(
                        block=block,
                        kind=kind,
                        effective_rank=float(formulas.effective_rank(values)),
                        intruders=int(formulas.intruder_dimensions(old, new, threshold=threshold, top=top)),
                        largest=tuple((values[:16] / scale).tolist()),
                    )
                )
        if progress:
            progress(done, len(pairs))
    return out


def _matrices(before: Mapping[str, Tensor]) -> list[tuple[int, str, str]]:
    """Block from 1, kind and name of every matrix, in the order of blocks and of ``KINDS``."""
    prefixes = {found[0] for name in before if (found := _BLOCK.match(name))}
    return [
        (_number(prefix) + 1, kind, prefix + suffix)
        for prefix in sorted(prefixes, key=_number)
        for kind, suffix in KINDS.items()
        if prefix + suffix in before
    ]


def _number(name: str) -> int:
    found = _BLOCK.match(name)
    assert found is not None
    return int(found[1])


def _moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor], names: list[str]) -> float:
    with defined(f"weight drift of {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"):
        return float(weight_drift({n: before[n] for n in names}, {n: after[n] for n in names}))
