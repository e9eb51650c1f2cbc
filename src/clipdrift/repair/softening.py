"""Scale down intruder dimensions of an adapted model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Unpack

import torch

from clipdrift.comparison.models import ModelLike
from clipdrift.model.weights import effective_weights
from clipdrift.repair import Repaired, RepairError, TruncatedUpdate, parse_factors
from clipdrift.repair.intruders import IntrudedMatrix, count_by_kind, find
from clipdrift.repair.job import RepairJob
from clipdrift.repair.low_rank import LowRankUpdate
from clipdrift.repair.opening import open_context
from clipdrift.repair.options import Options
from clipdrift.repair.rewinding import TUNED
from clipdrift.repair.saving import place_for, save_model

THRESHOLD, TOP = 0.5, 10
"""As Shuttleworth et al. 2024 set them."""


def soften(
    model: ModelLike,
    tuned: ModelLike | None = None,
    *,
    scale: str | float | Iterable[float] = 0.0,
    threshold: float = THRESHOLD,
    top: int | None = TOP,
    full: bool = False,
    out: str | Path | None = None,
    force: bool = False,
    **options: Unpack[Options],
) -> Repaired:
    """Scale down what intruder dimensions contribute: ``W + (scale - 1) sum_i sigma_i u_i v_i^T``.

    Intruders are those of the ``top`` singular vectors of an adapted matrix that resemble none of the
    backbone's (Shuttleworth et al. 2024, arXiv 2410.21228); they are typical of LoRA. The update of a
    softened matrix has a higher rank than the adapter. Plain LoRA from files stays an adapter: each such
    update is brought back to the adapter's rank by its singular value decomposition, what that loses stands
    in the result, and what is measured and saved is the adapter. Of everything else (full models, DoRA,
    adapters in memory) the result is a full model. The head stays. Models in memory are left as they were.

    Args:
        model: a run's folder, or BASE, as :func:`clipdrift.compare` takes it.
        tuned: TUNED, where ``model`` is BASE.
        scale: what is left of the intruders, from 0 (taken out) to below 1; several are measured in turn.
        threshold: the largest cosine with a singular vector of the backbone's that an intruder may have, in
            (0, 1].
        top: how many singular vectors of each matrix are looked at; ``None``: all.
        full: make a full model of an adapter too, which loses nothing of the softened updates.
        out: gets ``repaired.json``, ``.csv``, ``path.png`` and, where intruders are found, ``model/``.
        force: replace a model that is there.
        options: see :class:`clipdrift.repair.options.Options`.

    Raises:
        RepairError: values that cannot be, or several scales where one is to be saved.
        PairError, ModelError, DataError, ConfigError, MeasureError: in one line what is wrong.
    """
    factors = parse_factors(scale)
    if not 0 < threshold <= 1:
        raise RepairError(f"--threshold {threshold:g}: legal are values above 0, up to 1")
    if top is not None and top < 1:
        raise RepairError(f"--top {top}: at least one singular vector has to be looked at")
    if out is not None and len(factors) > 1:
        raise RepairError(f"--out saves one model: give one --scale, not {len(factors)}")
    place = None if out is None else place_for(Path(out), force)
    context = open_context(model, tuned, options, adapters="merged" if full else "low rank")
    work = RepairJob("soften", context, out)
    endpoints, reporter = context.measurer.endpoints, context.measurer.reporter

    def look_for(said: str) -> dict[str, IntrudedMatrix]:
        reporter.stage(f"looking for intruder dimensions, {said}")
        now = effective_weights(endpoints.model)
        return find(work.observer.weights, now, threshold=threshold, top=top, progress=reporter.advance)

    intruded = look_for("before")
    steps = [work.observer.look(TUNED, factor=1.0, intruders=count_by_kind(intruded, work.observer.weights))]
    if not intruded:
        said = (
            f"No intruder dimensions: each of the first {top or 'all'} singular vectors of every changed "
            f"matrix has a cosine of at least {threshold:g} with one of the backbone's. Nothing was changed, "
            "and nothing saved."
        )
        return work.result(steps, chosen=None, reason=said, saved=None)
    updates = {}
    if endpoints.form == "adapter":
        updates = {name: LowRankUpdate(endpoints.model, name) for name in intruded}
    for factor in factors:
        truncated = []
        if updates:
            reporter.stage(f"scaled by {factor:g}, back to the adapter's rank")
            truncated = [_truncate(updates[name], intruded[name], factor) for name in intruded]
        else:
            _write(endpoints.model, {name: found.scaled(factor) for name, found in intruded.items()})
        left = count_by_kind(look_for(f"scaled by {factor:g}"), work.observer.weights)
        look = work.observer.look(f"scale {factor:g}", factor=factor, intruders=left, truncated=truncated)
        steps.append(look)
    chosen = 1 if len(factors) == 1 else None
    if chosen and place is not None:
        steps[chosen] = work.observer.tested_at(steps[chosen])
        made = {"repair": "soften", "scale": factors[0], "threshold": threshold, "top": top}
        factors_of = {name: tensor for one in updates.values() for name, tensor in one.tensors().items()}
        save_model(context, place, made, force, factors_of)
    return work.result(steps, chosen=chosen, saved=place)


def _truncate(update: LowRankUpdate, matrix: IntrudedMatrix, factor: float) -> TruncatedUpdate:
    """Scale a matrix's intruders in the live adapter, as far as its rank holds what comes of it."""
    lost = update.write(matrix.exactly(factor))
    return TruncatedUpdate(block=matrix.block, kind=matrix.kind, rank=update.rank, lost=lost)


@torch.no_grad()
def _write(model: object, matrices: dict[str, torch.Tensor]) -> None:
    """Into the live model, which is plain: its effective weights are its parameters, or views of them."""
    weights = effective_weights(model)
    for name, matrix in matrices.items():
        weights[name].copy_(matrix)
