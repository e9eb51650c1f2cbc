"""Divide pictures with captions into training, validation, probe and test images.

Divided are images, never captions, so all captions of an image are where it is. Images of equal pixels count
as one: they are drawn together, and where the data's own splits share some, they are left out of the one that
trains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipdrift.data.errors import DataError
from clipdrift.data.parts import ANY, TEST, TRAIN, VALIDATION
from clipdrift.data.splits import PROBE_SIZE, Indices

SHARE = 10
"""One image in so many is set aside for each purpose, unless told otherwise."""

LEAST = {"train": 2, "validation": 2, "probe": 4, "test": 2}
"""A loss over pairs needs two images, debiased CKA four."""

_TEST, _VALIDATION, _PROBE, _TRAIN = 1, 2, 3, 4  # purposes of random streams


@dataclass(frozen=True, eq=False)
class PairDivision:
    """Sorted positions (int64) into the images of a ``PairSource``, disjoint.

    Attributes:
        train: Trained on.
        validation: Choose the epoch.
        probe: Internals are read on them; never trained on.
        test: Read once.
        notes: What was set aside here, and what was left out.
    """

    train: Indices
    validation: Indices
    probe: Indices
    test: Indices
    notes: tuple[str, ...] = ()


def divide_pairs(
    part: NDArray[np.int8],
    groups: NDArray[np.int64],
    *,
    seed: int,
    train: int | None = None,
    validation: int | None = None,
    probe: int | None = None,
    test: int | None = None,
) -> PairDivision:
    """Divides pictures with captions.

    The data's own test and validation images serve as such. Where there are none, a tenth of the images that
    may train is set aside for each; the probe set is always set aside from these. Every purpose has a random
    stream of its own, ``default_rng([seed, purpose])``: test is drawn first, then validation, then probe, and
    training has what is left, so that another ``train`` moves nothing else and fewer are a part of more.

    Args:
        part: int8 ``(n,)``, of each image, as in :mod:`clipdrift.data.parts`.
        groups: int64 ``(n,)``, equal for images of equal pixels, as of :func:`pixel_groups`.
        seed: The data seed.
        train, validation, probe, test: Images to have; ``None``: all that are left to train, all of the
            data's own to validate and to test, else a tenth; 200 to probe, but no more than a tenth. What is
            set aside here can be a few images smaller where identical ones must stay together.

    Raises:
        DataError: Too few images; says how many there are and how many are needed.
    """
    asked = {"train": train, "validation": validation, "probe": probe, "test": test}
    for purpose, count in asked.items():
        if count is not None and count < LEAST[purpose]:
            raise DataError(f"{count} images {_FOR[purpose]}; {LEAST[purpose]} or more are needed")
    notes: list[str] = []
    kept = _apart(np.asarray(part), np.asarray(groups), notes)
    pool = np.flatnonzero(kept & np.isin(part, (TRAIN, ANY)))
    own = {
        "test": np.flatnonzero(kept & (part == TEST)),
        "validation": np.flatnonzero(kept & (part == VALIDATION)),
    }
    tenth = len(pool) // SHARE
    wanted = {
        "test": test or max(LEAST["test"], tenth),
        "validation": validation or max(LEAST["validation"], tenth),
        "probe": probe or max(LEAST["probe"], min(PROBE_SIZE, tenth)),
    }
    carved = [purpose for purpose in wanted if len(own.get(purpose, ())) == 0]
    needs = {purpose: wanted[purpose] for purpose in carved} | {"train": train or LEAST["train"]}
    if len(pool) < sum(needs.values()):
        said = ", ".join(f"{count} {_FOR[purpose]}" for purpose, count in needs.items())
        raise DataError(
            f"{len(pool)} images that may be trained on; {sum(needs.values())} are needed: {said}"
        )
    chosen: dict[str, Indices] = {}
    left = pool
    for purpose, stream in (("test", _TEST), ("validation", _VALIDATION), ("probe", _PROBE)):
        rng = np.random.default_rng([seed, stream])
        if purpose in carved:
            chosen[purpose] = _drawn(left, np.asarray(groups), wanted[purpose], rng)
            left = np.setdiff1d(left, chosen[purpose], assume_unique=True)
        else:
            chosen[purpose] = _limited(own[purpose], asked[purpose], rng)
    chosen["train"] = _limited(left, train, np.random.default_rng([seed, _TRAIN]))
    for purpose, least in LEAST.items():
        count = len(chosen[purpose])
        needed = least if purpose in carved else asked[purpose] or least
        if count < needed:
            together = ", as identical ones stay together" if purpose in carved else ""
            raise DataError(f"{count} images {_FOR[purpose]}{together}; {needed} are needed")
    notes += _said(chosen, carved, len(pool), asked)
    copies = sum(len(own) - len(np.unique(groups[own])) for own in chosen.values())
    if copies:
        notes.append(f"{copies} images are identical to another one of the same set, and stay in it")
    return PairDivision(**chosen, notes=tuple(notes))


_FOR = {"train": "to train", "validation": "to validate", "probe": "to probe", "test": "to test"}


def _apart(part: NDArray[np.int8], groups: NDArray[np.int64], notes: list[str]) -> NDArray[np.bool_]:
    """Which images are kept: of equal ones in several of the data's own splits, those in the one that tests,
    or else in the one that validates."""
    tests = np.isin(groups, groups[part == TEST])
    validates = np.isin(groups, groups[part == VALIDATION])
    trains = np.isin(part, (TRAIN, ANY))
    lost = {
        "training images are identical to test images": trains & tests,
        "training images are identical to validation images": trains & validates & ~tests,
        "validation images are identical to test images": (part == VALIDATION) & tests,
    }
    notes += [f"{int(which.sum())} {what}, left out" for what, which in lost.items() if which.any()]
    kept: NDArray[np.bool_] = ~np.logical_or.reduce(list(lost.values()))
    return kept


def _drawn(images: Indices, groups: NDArray[np.int64], count: int, rng: np.random.Generator) -> Indices:
    """At most ``count`` images, groups whole: in random order, each that still fits."""
    numbers, sizes = np.unique(groups[images], return_counts=True)
    order = rng.permutation(len(numbers))
    taken, total = [], 0
    for place in order:
        if total + sizes[place] <= count:
            taken.append(place)
            total += int(sizes[place])
            if total == count:
                break
    return images[np.isin(groups[images], numbers[taken])]


def _limited(images: Indices, count: int | None, rng: np.random.Generator) -> Indices:
    return images if count is None else np.sort(rng.permutation(images)[:count])


def _said(
    chosen: dict[str, Indices], carved: list[str], pool: int, asked: dict[str, int | None]
) -> list[str]:
    """Notes of what was set aside here."""
    notes = []
    if "test" in carved:
        own = "" if "validation" in carved else "; the data's own validation images validate"
        notes.append(
            f"the data name no test images: {len(chosen['test'])} of {pool} are held out to test{own}"
        )
    for purpose in carved:
        count = asked[purpose]
        if count is not None and len(chosen[purpose]) < count:
            notes.append(
                f"{len(chosen[purpose])} of {count} images {_FOR[purpose]}: identical images stay together"
            )
    return notes


def pixel_groups(digests: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Number the images so that two have equal numbers where their pixels are equal.

    Args:
        digests: ``(n,)``, of each image's pixels, as decoded pixels have them.

    Returns:
        int64 ``(n,)``, of each image the position of the first that is equal to it.
    """
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)].astype(np.int64)
