"""Divide images into training, validation, probe and test: stratified, disjoint, reproducible.

Every choice is made class by class from a random stream named by (seed, class, purpose), so that nothing
chosen for one class or purpose depends on how many images another takes. The seed is the data seed of the
configuration; a run's own seed never enters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipdrift.data.errors import DataError

Indices = NDArray[np.int64]
Protocol = Literal["strict", "published"]

PROBE_SIZE = 200
"""Images of a probe set over all classes, unless told otherwise."""

VALIDATION_SHARE = 10
"""One image in so many of each class validates, unless told otherwise."""

_BALANCED, _SUBSETS, _EXTRA = 1, 2, 3  # purposes of random streams; the strict division's is 0


@dataclass(frozen=True, eq=False)
class Division:
    """Sorted positions (int64) into the source's training or test images.

    Attributes:
        train: Into the training images.
        validation: Into the images that ``validation_from`` names.
        probe: Into the images that ``probe_from`` names.
        test: Into the test images, all of them.
        validation_from, probe_from: ``train`` under the strict protocol, ``test`` under the published one.
    """

    train: Indices
    validation: Indices
    probe: Indices
    test: Indices
    validation_from: Literal["train", "test"]
    probe_from: Literal["train", "test"]


def divide(
    train_labels: ArrayLike,
    test_labels: ArrayLike,
    *,
    protocol: Protocol,
    seed: int,
    train_per_class: int | None = None,
    validation_per_class: int | None = None,
    probe_per_class: int | None = None,
    classes: Sequence[str] | None = None,
) -> Division:
    """Divides a target's images.

    *strict*: of every class, a permutation drawn from ``default_rng([seed, class])`` gives the probe images
    first, then validation, then training; hence another ``train_per_class`` moves neither of the others, and
    fewer training images are a part of more. *published*: all training images train, validation is the whole
    test split, and the probe set is drawn from it.

    Args:
        train_labels, test_labels: int ``(n,)``.
        protocol: See above.
        seed: The data seed.
        train_per_class: Training images of each class; ``None``: all that are left.
        validation_per_class: ``None``: a tenth of each class, at least one. No meaning when published.
        probe_per_class: ``None``: strict, 200 over all classes rounded up; published, exactly 200 with
            classes differing by one image at most.
        classes: Names for error messages.

    Raises:
        DataError: A class has too few images; says how many there are and how many are needed.
    """
    train, test = _as_labels(train_labels), _as_labels(test_labels)
    everything = np.arange(len(test), dtype=np.int64)
    names = _Names(classes)
    if protocol == "published":
        if probe_per_class is None:
            probe = balanced_subsets(test, 1, PROBE_SIZE, seed, classes=classes)[0]
        else:
            probe = balanced(test, probe_per_class, seed, classes=classes)
        kept = np.arange(len(train), dtype=np.int64)
        if train_per_class is not None:
            kept = balanced(train, train_per_class, seed, classes=classes)
        return Division(kept, everything, probe, everything, "test", "test")
    members = _members(train, "the training split", names)
    probe_each = -(-PROBE_SIZE // len(members)) if probe_per_class is None else probe_per_class
    chosen: dict[str, list[Indices]] = {"train": [], "validation": [], "probe": []}
    for label, own in enumerate(members):
        if validation_per_class is None:
            validation_each = max(1, len(own) // VALIDATION_SHARE)
        else:
            validation_each = validation_per_class
        carved = probe_each + validation_each
        needed = carved + (train_per_class or 1)
        if len(own) < needed:
            raise DataError(
                f"class {names(label)} has {len(own)} training images; {needed} are needed: {probe_each} to "
                f"probe, {validation_each} to validate, {needed - carved} to train; lower `probe_per_class`, "
                "`validation_per_class` or `train_per_class`"
            )
        order = np.random.default_rng([seed, label]).permutation(own)
        chosen["probe"].append(order[:probe_each])
        chosen["validation"].append(order[probe_each:carved])
        chosen["train"].append(order[carved:needed] if train_per_class else order[carved:])
    return Division(
        train=_joined(chosen["train"]),
        validation=_joined(chosen["validation"]),
        probe=_joined(chosen["probe"]),
        test=everything,
        validation_from="train",
        probe_from="train",
    )


def balanced(
    labels: ArrayLike, per_class: int, seed: int, *, classes: Sequence[str] | None = None
) -> Indices:
    """Sorted positions of ``per_class`` images of each class; fewer are a part of more.

    Raises:
        DataError: A class has fewer.
    """
    names = _Names(classes)
    picked = []
    for label, own in enumerate(_members(_as_labels(labels), "the images", names)):
        if len(own) < per_class:
            raise DataError(
                f"class {names(label)} has {len(own)} images, {per_class} are asked for; ask for fewer"
            )
        picked.append(np.random.default_rng([seed, label, _BALANCED]).permutation(own)[:per_class])
    return _joined(picked)


def without(labels: ArrayLike, per_class: int, seed: int, *, classes: Sequence[str] | None = None) -> Indices:
    """Sorted positions of all images but those of :func:`balanced`.

    Raises:
        DataError: A class has no others.
    """
    array = _as_labels(labels)
    taken = balanced(array, per_class, seed, classes=classes)
    left = np.setdiff1d(np.arange(len(array), dtype=np.int64), taken)
    if short := sorted(set(array.tolist()) - set(array[left].tolist())):
        raise DataError(
            f"class {_Names(classes)(short[0])} has {per_class} images, and as many are left out; skip fewer"
        )
    return left


def balanced_subsets(
    labels: ArrayLike, k: int, size: int, seed: int, *, classes: Sequence[str] | None = None
) -> tuple[Indices, ...]:
    """``k`` disjoint probe sets of ``size`` images, in each of which classes differ by one image at most.

    Which classes give the one more is drawn anew for every subset. The first subset is the same for every
    ``k``.

    Raises:
        DataError: A class has too few images for all of them.
    """
    names = _Names(classes)
    members = _members(_as_labels(labels), "the images", names)
    base, rest = divmod(size, len(members))
    draw = np.random.default_rng([seed, 0, _EXTRA])
    counts = np.full((k, len(members)), base)
    for subset in range(k):
        counts[subset, draw.permutation(len(members))[:rest]] += 1
    for label, own in enumerate(members):
        needed = int(counts[:, label].sum())
        if len(own) < needed:
            raise DataError(
                f"class {names(label)} has {len(own)} images, {k} probe set(s) of {size} need {needed}; "
                "set `probe_per_class` lower"
            )
    orders = [
        np.random.default_rng([seed, label, _SUBSETS]).permutation(own) for label, own in enumerate(members)
    ]
    ends = np.cumsum(counts, axis=0)
    starts = ends - counts
    return tuple(
        _joined([order[starts[s, label] : ends[s, label]] for label, order in enumerate(orders)])
        for s in range(k)
    )


@dataclass(frozen=True)
class _Names:
    """A class in an error message: number and, if known, name."""

    classes: Sequence[str] | None

    def __call__(self, label: int) -> str:
        return f"{label}" if self.classes is None else f"{label} ({self.classes[label]})"


def _as_labels(labels: ArrayLike) -> Indices:
    array = np.asarray(labels)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"labels must be a list of integers, got {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def _members(labels: Indices, split: str, names: _Names) -> list[Indices]:
    """Positions of every class's images, in order. Every class must have some."""
    if len(labels) == 0:
        raise DataError(f"no images in {split}")
    count = len(names.classes) if names.classes is not None else int(labels.max()) + 1
    members = [np.flatnonzero(labels == label) for label in range(count)]
    for label, own in enumerate(members):
        if len(own) == 0:
            raise DataError(f"class {names(label)} has no images in {split}; add some or leave the class out")
    return members


def _joined(parts: list[NDArray[np.int64]]) -> Indices:
    return np.sort(np.concatenate(parts)).astype(np.int64)
