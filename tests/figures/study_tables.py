"""Generated studies as tables, made once for all tests of their figures."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from clipdrift.study.tables import Tables
from generated import generated_study

_KEPT: list[TemporaryDirectory[str]] = []  # removed when the process ends


def _made(**options: object) -> Tables:
    place = TemporaryDirectory()
    _KEPT.append(place)
    generated_study(Path(place.name), epochs=3, blocks=6, **options)  # type: ignore[arg-type]
    return Tables.of(place.name)


@cache
def grid() -> Tables:
    """Two targets, methods, rates and seeds, with maps and paths; one diverged, one failed, one to come."""
    return _made(rates=(1e-6, 5e-5), seeds=(7, 11), maps=8, paths=True, diverged=1, failed=1, missing=1)


@cache
def pets() -> Tables:
    """One target of :func:`grid`."""
    return grid().only("pets")


@cache
def options() -> Tables:
    """One target at 1e-5, with penalties, frozen blocks, ranks, matrices and weight decay; two seeds."""
    return _made(targets=("pets",), rates=(1e-5,), seeds=(7, 11), extras=True)


@cache
def alone() -> Tables:
    """One target, two rates, one seed, and every option."""
    return _made(
        targets=("pets",),
        methods=("full_ft",),
        rates=(1e-5, 5e-5),
        seeds=(7,),
        extras=True,
        paths=True,
        maps=2,
    )


@cache
def least() -> Tables:
    """One run, without transfer sets."""
    return _made(targets=("pets",), methods=("full_ft",), rates=(1e-5,), seeds=(7,), transfer=())


def source_of(name: str) -> Tables:
    """The full study of a figure."""
    special = ("penalties", "frozen_blocks", "lora_targets", "lora_ranks", "weight_decay")
    return options() if name in special else grid()
