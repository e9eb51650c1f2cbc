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

_INSIDE = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.(?:(\d+)\.)?(.+)")
"""A block, in stages a residual block within it, and the rest of a weight's name."""

KINDS = {
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "out": "self_attn.out_proj.weight",
    "fc1": "mlp.fc1.weight",
    "fc2": "mlp.fc2.weight",
}
"""The matrices of a block by kind."""

GATED = {"fc1_g": "mlp.fc1_g.weight", "fc1_x": "mlp.fc1_x.weight"}
"""What a gated MLP has in the place of ``fc1``: the activation of the first's product gates the second's."""

CONVOLUTIONS = {
    "conv1": "conv1.weight",
    "conv2": "conv2.weight",
    "conv3": "conv3.weight",
    "conv_dw": "conv_dw.weight",
}
"""The kernels of a residual block of ResNet and ConvNeXt by kind: matrices with a row for each channel that
they give."""

_KIND_OF = {suffix: kind for kind, suffix in (KINDS | GATED | CONVOLUTIONS).items()}

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
    """Relative change of each kind of matrix: over all blocks together, and in each block.

    A kind that some block has not is left out; the blocks' own change counts it.
    """
    return {
        kind: (
            _moved(before, after, [name for names in by_block for name in names]),
            [_moved(before, after, names) for names in by_block],
        )
        for kind, by_block in _kinds(before).items()
    }


def absent_kinds(names: Iterable[str]) -> dict[str, str]:
    """The measures of single kinds of matrix that a model has not, each with the reason.

    Args:
        names: of its effective weights.
    """
    known = _kinds(names)
    reason = "not all of its blocks have such matrices"
    return {f"weight_drift_{kind}": reason for kind in _KIND_OF.values() if kind not in known}


def _kinds(names: Iterable[str]) -> dict[str, list[list[str]]]:
    """Names by block of each kind of matrix that every block has."""
    names = list(names)
    found: dict[str, dict[int, list[str]]] = {kind: {} for kind in _KIND_OF.values()}
    blocks = {int(part[1]) + 1 for name in names if (part := _INSIDE.fullmatch(name))}
    for matrix in _matrices(names):
        found[matrix.kind].setdefault(matrix.block, []).append(matrix.name)
    return {
        kind: list(by_block.values())
        for kind, by_block in found.items()
        if by_block and by_block.keys() == blocks
    }


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
        if found := _INSIDE.fullmatch(name):
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
        layer: the residual block within a stage, from 1; None where a block is one layer.
        kind: of ``KINDS``, ``GATED`` and ``CONVOLUTIONS``.
        effective_rank: of the change; 0 where nothing changed.
        intruders: intruder dimensions of the changed matrix.
        largest: the largest singular values of the change, relative to the backbone's largest.
    """

    block: int
    kind: str
    effective_rank: float
    intruders: int
    largest: tuple[float, ...]
    layer: int | None = None


def spectra(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    *,
    threshold: float = 0.5,
    top: int | None = 10,
    progress: Callable[[int, int], None] | None = None,
) -> list[Spectrum]:
    """Spectrum of the change of every matrix of every block that changed, by block and kind.

    Kernels of convolutions count as matrices with a row for each channel that they give.

    Args:
        threshold, top: of :func:`clipdrift.formulas.intruder_dimensions`.
        progress: told after each matrix.

    Raises:
        MeasureError: a matrix of zeros on either side.
    """
    pairs = _matrices(before)
    out = []
    for done, one in enumerate(pairs, start=1):
        old, new = (side[one.name].detach().float().cpu().flatten(1) for side in (before, after))
        if bool((old != new).any()):
            with defined(f"spectrum of block {one.block} {one.kind}", "compare without spectra"):
                values = formulas.singular_values(new - old)
                scale = formulas.singular_values(old)[0]
                out.append(
                    Spectrum(
                        block=one.block,
                        layer=one.layer,
                        kind=one.kind,
                        effective_rank=float(formulas.effective_rank(values)),
                        intruders=int(formulas.intruder_dimensions(old, new, threshold=threshold, top=top)),
                        largest=tuple((values[:16] / scale).tolist()),
                    )
                )
        if progress:
            progress(done, len(pairs))
    return out


@dataclass(frozen=True)
class _Matrix:
    """A matrix's block and layer, from 1, its kind and its name."""

    block: int
    layer: int | None
    kind: str
    name: str


def _matrices(names: Iterable[str]) -> list[_Matrix]:
    """Every matrix, in the order of blocks, of layers within them, and of kinds."""
    parts = ((name, _INSIDE.fullmatch(name)) for name in names)
    found = [
        _Matrix(int(part[1]) + 1, None if part[2] is None else int(part[2]) + 1, _KIND_OF[part[3]], name)
        for name, part in parts
        if part is not None and part[3] in _KIND_OF
    ]
    order = list(_KIND_OF.values())
    return sorted(found, key=lambda one: (one.block, one.layer or 0, order.index(one.kind)))


def _moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor], names: list[str]) -> float:
    with defined(f"weight drift of {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"):
        return float(weight_drift({n: before[n] for n in names}, {n: after[n] for n in names}))
