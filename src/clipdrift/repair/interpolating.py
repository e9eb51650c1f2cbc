"""Interpolate from the backbone to the adapted model, measuring on the way."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Unpack

from clipdrift.comparison.models import ModelLike
from clipdrift.repair import (
    Repaired,
    RepairError,
    check_alpha_rule,
    choose,
    parse_alpha_rule,
    parse_alphas,
)
from clipdrift.repair.job import RepairJob
from clipdrift.repair.opening import open_context
from clipdrift.repair.options import Options
from clipdrift.repair.saving import place_for, save_model

ALPHAS = "0:1:0.1"


def interpolate(
    model: ModelLike,
    tuned: ModelLike | None = None,
    *,
    alphas: str | float | Iterable[float] = ALPHAS,
    save_at: float | None = None,
    keep_cka: float | None = None,
    keep_retention: str | float | None = None,
    out: str | Path | None = None,
    force: bool = False,
    **options: Unpack[Options],
) -> Repaired:
    """Measure ``theta(alpha) = (1 - alpha) theta_0 + alpha theta_1`` between backbone and adapted model.

    An adapter is scaled: with ``W = W_0 + s B A`` that is ``W_0 + alpha s B A``. A linear head stays; one
    that began as the class texts moves along from those of the backbone. Nothing has to be recalibrated,
    since CLIP has no batch norm. (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models".)

    Models in memory are left as they were.

    Args:
        model: a run's folder, or BASE, as :func:`clipdrift.compare` takes it.
        tuned: TUNED, where ``model`` is BASE.
        alphas: ``first:last:step``, a list, or numbers; 0 the backbone, 1 the adapted model, up to 2 beyond.
        save_at: choose this alpha; measured too where it is not among ``alphas``.
        keep_cka: choose the largest alpha whose CKA, mean over blocks, is at least this.
        keep_retention: the largest that keeps so many percent of zero-shot accuracy, in the mean over the
            transfer sets or, as ``set=percent``, on one of them.
        out: gets ``repaired.json``, ``.csv``, ``path.png`` and, where an alpha is chosen, ``model/``.
        force: replace a model that is there.
        options: see :class:`clipdrift.repair.options.Options`.

    Raises:
        RepairError: contradicting or impossible wishes, a run with nothing to interpolate.
        PairError, ModelError, DataError, ConfigError, MeasureError: in one line what is wrong.
    """
    rule = parse_alpha_rule(save_at, keep_cka, keep_retention)
    if save_at is not None and out is None:
        raise RepairError("--save-at needs --out, the folder that gets the model")
    grid = parse_alphas(alphas, None if rule is None else rule.at)
    place = None if rule is None or out is None else place_for(Path(out), force)
    context = open_context(model, tuned, options)
    check_alpha_rule(rule, list(context.measurer.sets))
    work = RepairJob("interpolate", context, out)
    endpoints, observer = context.measurer.endpoints, work.observer
    steps = []
    for alpha in grid:
        endpoints.put(alpha)
        steps.append(observer.look(f"alpha {alpha:g}", alpha=alpha))
    notes = [context.of_head] if context.of_head else []
    if grid[-1] > 1:
        notes.append("Above 1 the path is extrapolated, beyond the adapted model.")
    chosen: int | None = None
    reason = ""
    if rule is not None:
        choice = choose(steps, rule)
        chosen, reason = choice.index, choice.said
        notes += choice.notes
    if chosen is not None and place is not None:
        endpoints.put(grid[chosen])
        steps[chosen] = observer.tested_at(steps[chosen])
        save_model(context, place, {"repair": "interpolate", "alpha": grid[chosen]}, force)
    endpoints.put(1)
    return work.result(steps, chosen=chosen, reason=reason, saved=place, notes=notes)
