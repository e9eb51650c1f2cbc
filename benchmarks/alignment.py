"""Debiased CKA of every block with every block beside pytorch-cka's, on the same states.

Ours is in float64, theirs in the states' float32; the largest difference between them is printed. Time of the
processor, both in turn. ``pip install pytorch-cka==1.1.3``, then ``python benchmarks/alignment.py``.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from clipdrift import formulas

BLOCKS, WIDTH = 12, 768
IMAGES = {200: 15, 1000: 7, 4000: 3}
"""How many images, and how often each is measured."""


def states(images: int) -> tuple[list[Tensor], list[Tensor]]:
    """Of two models' blocks: a common part of 64 directions, some noise of each block, some of each model."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    common = normal(images, 64)
    before = [common @ normal(64, WIDTH) + 0.5 * normal(images, WIDTH) for _ in range(BLOCKS)]
    return before, [block + 0.3 * normal(images, WIDTH) for block in before]


def seconds(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def main() -> None:
    try:
        from cka import cka_from_features
    except ImportError:
        sys.exit(
            "pytorch-cka is not installed, so there is nothing to lay beside: pip install pytorch-cka==1.1.3"
        )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {BLOCKS} blocks of width {WIDTH}")
    for images, times in IMAGES.items():
        before, after = states(images)
        ways: list[Callable[[], Tensor]] = [
            lambda: formulas.cka_matrix(before, after),  # noqa: B023 - called before the next turn
            lambda: cka_from_features(before, after),  # noqa: B023
        ]
        taken: list[list[float]] = [[], []]
        for turn in range(times + 1):
            pair = [seconds(way) for way in ways]
            if turn:  # the first one warms up
                for side, (time_of, _) in zip(taken, pair, strict=True):
                    side.append(time_of)
        ours, theirs = (statistics.median(side) for side in taken)
        apart = float((pair[0][1] - pair[1][1]).abs().max())
        print(
            f"{images:>5} images: {ours / theirs:.2f}x the time of pytorch-cka ({ours:.3f} against "
            f"{theirs:.3f} s), values differ by at most {apart:.1g}"
        )


if __name__ == "__main__":
    main()
