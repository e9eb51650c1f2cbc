"""Generated worlds: picture sets that need no download, by name.

A world knows its classes, its prompts and how to draw pictures of given classes; :func:`generate` makes
of it a reproducible data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from clipdrift.data.worlds import emblems, objects, terrain

__all__ = ["BLOCK", "VERSION", "WORLDS", "Split", "World", "generate"]

Split = Literal["train", "test"]

VERSION = 1
"""Part of every cache key that depends on pictures; raise it whenever a picture changes."""

BLOCK = 256
"""Pictures per random stream. Changing it changes the pictures."""

_STREAM: Mapping[Split, int] = {"train": 0, "test": 1}


@dataclass(frozen=True)
class World:
    """``classes``: names in label order; ``templates``: prompts with one ``{}``, the default first;
    ``train``, ``test``: pictures per class unless told otherwise; ``render``: ``(rng, labels (n,), size)``
    to ``(n, size, size, 3)`` bytes; ``note``: one line for listings."""

    name: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    train: int
    test: int
    render: Callable[[np.random.Generator, NDArray[np.int64], int], NDArray[np.uint8]]
    note: str


def _single_objects(rng: np.random.Generator, labels: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    return objects.render(rng, objects.sample(rng, labels, single=True), size)


WORLDS: Mapping[str, World] = {
    world.name: world
    for world in (
        World(
            "objects-100", objects.PAIRS, objects.TEMPLATES, 40, 20, _single_objects,
            "one coloured shape on a ground; the pretraining domain, 20 of 100 pairs never seen in it",
        ),
        World(
            "terrain-10", terrain.CLASSES, terrain.TEMPLATES, 250, 100, terrain.render,
            "land seen from above, told by texture and layout; far from the pretraining domain",
        ),
        World(
            "emblems-37", emblems.CLASSES, emblems.TEMPLATES, 60, 20, emblems.render,
            "shields told apart by outline, charge and division in any colours; fine-grained",
        ),
    )
}  # fmt: skip


def generate(
    world: World, split: Split, per_class: int | None = None, size: int = 56, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures ``(n, size, size, 3)`` and labels ``(n,)`` with n = ``per_class`` times the classes.

    Labels go round: picture i shows class i modulo the classes. Every block of :data:`BLOCK` pictures has a
    random stream of its own, named by (world, split, seed, block), and is drawn whole, so that picture i is
    the same however many are asked for. Raises ``ValueError`` for fewer than one picture per class.
    """
    default = {"train": world.train, "test": world.test}[split]
    count = default if per_class is None else per_class
    if count < 1:
        raise ValueError(f"per_class must be at least 1, got {count}")
    labels = np.arange(count * len(world.classes), dtype=np.int64) % len(world.classes)
    images = np.empty((len(labels), size, size, 3), dtype=np.uint8)
    for block, start in enumerate(range(0, len(labels), BLOCK)):
        rng = np.random.default_rng([crc32(world.name.encode()), _STREAM[split], seed, block])
        whole = np.arange(start, start + BLOCK, dtype=np.int64) % len(world.classes)
        images[start : start + BLOCK] = world.render(rng, whole, size)[: len(labels) - start]
    return images, labels
