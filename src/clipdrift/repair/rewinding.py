"""Rewind blocks of an adapted model to the backbone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Unpack

from clipdrift.comparison.models import ModelLike
from clipdrift.repair import Repaired, RepairError, parse_blocks
from clipdrift.repair.endpoints import HEAD, PARTS, named
from clipdrift.repair.job import RepairJob
from clipdrift.repair.opening import open_context
from clipdrift.repair.options import Options
from clipdrift.repair.saving import place_for, save_model

TUNED = "tuned"


def rewind(
    model: ModelLike,
    tuned: ModelLike | None = None,
    *,
    blocks: str | int | Iterable[int] | None = None,
    also: Iterable[str] = (),
    sweep: bool = False,
    out: str | Path | None = None,
    force: bool = False,
    **options: Unpack[Options],
) -> Repaired:
    """Put blocks back to the backbone, and measure before and after.

    What stands outside of the blocks, and the head, stays as it was adapted unless it is named. A head that
    began as the class texts can be named and becomes those of the backbone; a linear one has nothing to go
    back to. Nothing has to be recalibrated: CLIP has no batch norm, and ResNets whose running statistics have
    changed are refused. Models in memory are left as they were.

    Args:
        model: a run's folder, or BASE, as :func:`clipdrift.compare` takes it.
        tuned: TUNED, where ``model`` is BASE.
        blocks: from 1: ``9..12``, ``9..`` (to the last), ``9``, ``1,5..7``, or numbers.
        also: of stem (embeddings and first layer norm), final (last layer norm), projection, text, head.
        sweep: instead of ``blocks``, every k from the last block to the first, with k and all after it put
            back; one step each, nothing is saved.
        out: gets ``repaired.json``, ``.csv``, ``path.png`` and, without ``sweep``, ``model/``.
        force: replace a model that is there.
        options: see :class:`clipdrift.repair.options.Options`.

    Raises:
        RepairError: blocks that are not there or that do not differ, contradicting wishes.
        PairError, ModelError, DataError, ConfigError, MeasureError: in one line what is wrong.
    """
    parts = tuple(also)
    if odd := [part for part in parts if part not in PARTS]:
        raise RepairError(f"--also {odd[0]}: legal are {', '.join(PARTS)}")
    if sweep == (blocks is not None):
        raise RepairError("give either --blocks, as in 9..12, or --sweep, which tries every first block")
    place = None if out is None or sweep else place_for(Path(out), force)
    context = open_context(model, tuned, options)
    endpoints = context.measurer.endpoints
    count = context.shape.blocks
    wanted = (
        [tuple(range(first, count + 1)) for first in range(count, 0, -1)]
        if blocks is None
        else [parse_blocks(blocks, count)]
    )
    if HEAD in parts and HEAD not in endpoints.places():
        raise RepairError(
            f"--also {HEAD}: {context.sides[1].name} has no head that began as the class texts, so there is "
            "nothing of the backbone's to put it back to; leave it out"
        )
    places: list[int | str] = [*wanted[-1], *parts]
    if not endpoints.places() & set(places):
        raise RepairError(
            f"{named(places)} of {context.sides[1].name}: the backbone's already; what differs is "
            f"{named(endpoints.places())}"
        )
    work = RepairJob("rewind", context, out)
    steps = [work.observer.look(TUNED)]
    for back in wanted:
        here: list[int | str] = [*back, *parts]
        endpoints.put(1, dict.fromkeys(here, 0.0))
        steps.append(work.observer.look(f"{named(here)} back", rewound=back))
    chosen = None if sweep else 1
    if chosen and place is not None:
        steps[chosen] = work.observer.tested_at(steps[chosen])
        save_model(context, place, {"repair": "rewind", "blocks": wanted[0], "also": parts}, force)
    endpoints.put(1)
    return work.result(steps, chosen=chosen, saved=place)
