"""Weights of several runs on one backbone: their mean, Model Stock's point, the angles between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from clipdrift import formulas
from clipdrift.measures import task_vector_cosines
from clipdrift.measures.weights import IMAGE_TOWER


@dataclass(frozen=True, eq=False)
class RunWeights:
    """Weights of runs on one backbone, by common names, on the CPU.

    Attributes:
        start: the backbone's, of every tensor that at least one run moved.
        ends: each run's, of the tensors that it moved.
        heads: each run's head; empty where there are none.
    """

    start: Mapping[str, Tensor]
    ends: Sequence[Mapping[str, Tensor]]
    heads: Sequence[Mapping[str, Tensor]]

    def mean(self, chosen: Sequence[int]) -> dict[str, Tensor]:
        """``1/k sum_i W_i`` over some runs, the sum in float64 (Wortsman et al. 2022)."""
        return {name: self._mean(name, chosen).to(start.dtype) for name, start in self.start.items()}

    def head(self, chosen: Sequence[int]) -> dict[str, Tensor] | None:
        """The mean of their heads; None where there are none."""
        if not self.heads:
            return None
        several = [self.heads[i] for i in chosen]
        return {name: _mean([head[name] for head in several]).to(w.dtype) for name, w in several[0].items()}

    def stock(self) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]]]:
        """Model Stock's point of all runs, ``t mean_i W_i + (1 - t) W_0``, t of each tensor on its own.

        A tensor that some run left where it was has no angle to its others; of such, and of those whose runs
        point apart, the backbone's is taken, ``t = 0`` (:func:`clipdrift.formulas.model_stock_ratio`).

        Returns:
            Weights, and by name the cosine (mean over pairs of runs) and the ratio.
        """
        found, ratios = {}, {}
        everyone = range(len(self.ends))
        for name, start in self.start.items():
            cosine = self._cosine(name)
            angle = torch.tensor(cosine, dtype=torch.float64)
            ratio = float(formulas.model_stock_ratio(angle, len(self.ends)))
            mean, old = self._mean(name, everyone), start.double()
            found[name] = (old + ratio * (mean - old)).to(start.dtype)
            ratios[name] = (cosine, ratio)
        return found, ratios

    def cosines(self, blocks: int) -> Iterator[tuple[int, int, float | None, tuple[float | None, ...]]]:
        """Of every pair of runs: positions, the cosine over the image tower, and by block.

        What no run moved adds nothing to any of them.
        """
        tower = {name: w for name, w in self.start.items() if name.startswith(IMAGE_TOWER)}
        for one, other in combinations(range(len(self.ends)), 2):
            sides = ({name: self._end(name, i) for name in tower} for i in (one, other))
            yield one, other, *task_vector_cosines(tower, *sides, blocks=blocks)

    def _end(self, name: str, run: int) -> Tensor:
        return self.ends[run].get(name, self.start[name])

    def _mean(self, name: str, chosen: Sequence[int]) -> Tensor:
        return _mean([self._end(name, i) for i in chosen])

    def _cosine(self, name: str) -> float:
        """Mean cosine over all pairs of runs; 0 where one of them did not move this tensor."""
        if any(name not in end for end in self.ends):
            return 0.0
        start = {name: self.start[name]}
        pairs = [
            float(formulas.task_vector_cosine(start, {name: one[name]}, {name: other[name]}))
            for one, other in combinations(self.ends, 2)
        ]
        return sum(pairs) / len(pairs)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for tensor in tensors:
        total += tensor.double()
    return total / len(tensors)
