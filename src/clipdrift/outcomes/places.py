"""Where runs belong: a target, and the backbone where there are several. Defined and named here alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Place:
    """A target and a backbone: runs of one place differ in method, options, rate and seed.

    Attributes:
        name: for people, the same wherever the place stands: the target, and where a table has several
            backbones the last part of the backbone's name.
    """

    target: str
    backbone: str = ""
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.target


def place_names(runs: pd.DataFrame) -> pd.Series:
    """The name of each run's place.

    Args:
        runs: with ``target`` and ``backbone``, all runs of a table: names tell its places apart.
    """
    targets = runs["target"].map(str)
    backbones = runs["backbone"].astype(object).where(runs["backbone"].notna(), "").map(str)
    different = list(dict.fromkeys(backbones))
    if len(different) < 2:
        return targets.astype(object)
    short = {name: name.rsplit("/", 1)[-1] for name in different}
    if len(set(short.values())) < len(short):  # two organisations' models of one name
        short = {name: name for name in different}
    pairs = zip(targets, backbones, strict=True)
    named = [", ".join(filter(None, (target, short[backbone]))) for target, backbone in pairs]
    return pd.Series(named, runs.index, dtype=object)


def places_of(runs: pd.DataFrame) -> dict[str, Place]:
    """The places of runs by name, in their order; ``place`` holds the name of each run's."""
    first = runs.drop_duplicates("place")
    rows: Iterable[tuple[str, ...]] = zip(
        first["target"].map(str), first["backbone"].map(str), first["place"].map(str), strict=True
    )
    return {name: Place(target, backbone, name) for target, backbone, name in rows}
