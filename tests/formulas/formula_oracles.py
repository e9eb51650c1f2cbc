"""Inputs for the tests of formulas, and plain definitions to hold them against."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

P = 49


def attention(*shape: int, seed: int = 0, sharp: float = 3.0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (sharp * torch.randn(*shape, generator=generator, dtype=torch.float64)).softmax(-1).to(dtype)


def one_hot(patches: int = P) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(3), patches).double()


def gaussians(n: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = gaussians(n, 12, seed)
    return x, torch.cat([x[:, :5] + 0.5 * gaussians(n, 5, seed + 1), gaussians(n, 3, seed + 2)], dim=1)


def loop_erf(row: np.ndarray, mass: float) -> float:
    held, k = 0.0, 0
    for value in sorted(row / row.sum(), reverse=True):
        held, k = held + value, k + 1
        if held >= mass - 1e-12:
            break
    return k / len(row)


def loop_gini(row: np.ndarray) -> float:
    # mean absolute difference over twice the mean: the other textbook definition
    differences = [abs(a - b) for a in row for b in row]
    return sum(differences) / len(row) ** 2 / (2 * row.mean())


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def loop_head_diversity(heads: np.ndarray) -> float:
    cosines = [cosine(heads[i], heads[j]) for i in range(len(heads)) for j in range(i)]
    return 1 - sum(cosines) / len(cosines)


def loop_head_diversity_by_head(heads: np.ndarray) -> list[float]:
    count = len(heads)
    return [
        1 - sum(cosine(heads[i], heads[j]) for j in range(count) if j != i) / (count - 1)
        for i in range(count)
    ]


def loop_rollout(maps: np.ndarray) -> np.ndarray:
    """Of one image, (L, H, T, T): the class token followed back from the last block to the first."""
    tokens = maps.shape[-1]
    row = np.eye(tokens)[0]
    for block in maps[::-1]:
        row = row @ (0.5 * sum(block) / len(block) + 0.5 * np.eye(tokens))
    return row[1:] / row[1:].sum()


def centred_gram_cka(x: Tensor, y: Tensor) -> float:
    h = np.eye(len(x)) - 1 / len(x)
    k, m = (h @ z.numpy() @ z.numpy().T @ h for z in (x, y))
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def loop_unbiased_hsic(k: Tensor, m: Tensor) -> float:
    """Song et al. 2012, eq. 4: over all quadruples of different images, one sum at a time."""
    n = len(k)
    pairs = sum(float(k[i, j] * m[i, j]) for i in range(n) for j in range(n) if i != j)
    quads = triples = 0.0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                if len({i, j, q}) == 3:
                    triples += float(k[i, j] * m[i, q])
                    quads += sum(float(k[i, j] * m[q, r]) for r in range(n) if r not in (i, j, q))
    falling = [math.perm(n, r) for r in (2, 3, 4)]
    return pairs / falling[0] - 2 * triples / falling[1] + quads / falling[2]
