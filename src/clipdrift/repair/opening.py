"""Open what is to be repaired: a run, or two models."""

from __future__ import annotations

from clipdrift.comparison.models import ModelLike
from clipdrift.repair import RepairError
from clipdrift.repair.context import AdapterUse, RepairContext
from clipdrift.repair.open_pair import open_two
from clipdrift.repair.open_run import open_run
from clipdrift.repair.options import Options, refuse_unknown


def open_context(
    model: ModelLike, tuned: ModelLike | None, options: Options, *, adapters: AdapterUse = "scaled"
) -> RepairContext:
    """Open a run (``tuned`` is None), or a backbone and what was made of it.

    Args:
        adapters: what is moved of an adapter, where it can be.

    Raises:
        RepairError: also where nothing lies between the two, or an option is unknown.
    """
    refuse_unknown(options)
    if tuned is None:
        context = open_run(model, adapters, options)
    else:
        context = open_two(model, tuned, adapters, options)
    if not context.measurer.endpoints.moves:
        raise RepairError(
            f"{context.sides[1].name} has the very weights of {context.sides[0].name}: nothing lies between "
            "them"
        )
    return context
