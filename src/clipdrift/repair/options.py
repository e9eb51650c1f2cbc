"""Options shared by interpolate, rewind and soften."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TypedDict

from clipdrift.comparison.compare import TransferLike, transfer_sets
from clipdrift.comparison.images import ImagesLike
from clipdrift.config import DataSet
from clipdrift.repair.arguments import RepairError
from clipdrift.runs.layout import cache_folder
from clipdrift.runs.reporter import Reporter, Silent


class Options(TypedDict, total=False):
    """Options of a repair; all optional, except images for a pair.

    ``images``: of a pair, as :func:`clipdrift.compare` takes them. ``transfer``: sets tested zero-shot; of a
    run its own, unless others are given. ``transfer_per_class``: images of each class of those. ``limit``,
    ``seed``: of a pair, images read at most and what chooses them. ``preprocess``, ``any_base``: of a pair,
    as in compare. ``flow``: rollout and patch entropy too. ``batch_size``, ``cache``, ``device``,
    ``skip_bad``, ``reporter``: as in compare.
    """

    images: ImagesLike | None
    transfer: TransferLike | Sequence[TransferLike] | None
    transfer_per_class: int | None
    limit: int | None
    seed: int | None
    preprocess: object
    any_base: bool
    flow: bool
    batch_size: int | None
    cache: str | Path | None
    device: str
    skip_bad: bool
    reporter: Reporter | None


OF_PAIRS = ("images", "limit", "seed", "preprocess", "any_base")
"""Those that a run answers itself."""


_OWN = ("alphas", "save_at", "keep_cka", "keep_retention", "blocks", "scale", "full", "out", "force")
"""Arguments of the functions themselves."""


def refuse_unknown(options: Options) -> None:
    """Refuse what no repair takes.

    Raises:
        RepairError: its name, and those near it.
    """
    for name in options:
        if name not in Options.__annotations__:
            near = get_close_matches(name, [*Options.__annotations__, *_OWN], n=3, cutoff=0.5)
            hint = (
                f" (near: {', '.join(near)})" if near else f"; there are {', '.join(Options.__annotations__)}"
            )
            raise RepairError(f"unknown argument {name}{hint}")


def asked_sets(options: Options, own: Sequence[DataSet] = ()) -> list[DataSet]:
    """Transfer sets as asked for, or ``own`` where none are named; each of the size that is wanted.

    Raises:
        ConfigError, PairError: one that is misspelt or named twice.
    """
    given = options.get("transfer")
    sets = list(own) if given is None else transfer_sets(given)
    count = options.get("transfer_per_class")
    return sets if count is None else [spec.model_copy(update={"per_class": count}) for spec in sets]


def cache_of(options: Options) -> Path:
    given = options.get("cache")
    return cache_folder(None if given is None else Path(given))


def reporter_of(options: Options) -> Reporter:
    return options.get("reporter") or Silent()
