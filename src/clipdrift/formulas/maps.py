"""Linear maps from one embedding space into another, fitted on pairs: of anything, and of rotations alone."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import orthogonal_procrustes
from torch import Tensor

PENALTIES = tuple(float(power) for power in np.logspace(-6, 1, 15))
"""Candidates of ridge's penalty, each times the mean squared singular value of what is mapped."""


def ridge_map(x: Float[Tensor, "N E1"], y: Float[Tensor, "M E2"]) -> tuple[Float[Tensor, "E1 E2"], float]:
    """The matrix W that minimises ``||X W - Y||^2 + a ||W||^2``, with ``a`` by cross validation.

    Every pair is left out once, which for ridge needs no second fit (scikit-learn's RidgeCV). Without an
    intercept: images and texts lie in different parts of the space, and an offset fitted on one of them would
    shift the other.

    Args:
        x: (N, E1) vectors to be mapped.
        y: (N, E2) vectors that they are to become, of the same things.

    Returns:
        W (E1, E2) in float64, to be used as ``x @ W``, and ``a``.

    Raises:
        ValueError: different numbers of vectors, fewer than E1, nan or inf, vectors that are all zero.
    """
    from sklearn.linear_model import RidgeCV  # takes a while to load, and training loads this file

    before, after = _pairs(x, y)
    scale = float((before**2).sum()) / before.shape[1]
    if scale <= 0:
        raise ValueError("the vectors to be mapped are all zero")
    fitted = RidgeCV(alphas=[scale * one for one in PENALTIES], fit_intercept=False).fit(before, after)
    weights = fitted.coef_.T if fitted.coef_.ndim == 2 else fitted.coef_[:, None]
    return torch.from_numpy(np.ascontiguousarray(weights)), float(fitted.alpha_)


def rotation_map(x: Float[Tensor, "N E1"], y: Float[Tensor, "M E2"]) -> Float[Tensor, "E1 E2"]:
    """The orthogonal matrix R that minimises ``||X R - Y||`` (Procrustes, Schoenemann 1966; SciPy's).

    A rotation, with a reflection where that fits better: lengths and angles among what is mapped stay.

    Args:
        x: (N, E) vectors to be mapped.
        y: (N, E) vectors that they are to become, of the same things.

    Returns:
        R (E, E) in float64, to be used as ``x @ R``.

    Raises:
        ValueError: different shapes, fewer vectors than E, nan or inf.
    """
    before, after = _pairs(x, y)
    if before.shape[1] != after.shape[1]:
        raise ValueError(f"a rotation keeps the width, and these are {before.shape[1]} and {after.shape[1]}")
    return torch.from_numpy(orthogonal_procrustes(before, after)[0])


def _pairs(x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    if len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} vectors: a map is fitted on pairs")
    if len(x) < x.shape[1]:
        raise ValueError(
            f"{len(x)} pairs for vectors of width {x.shape[1]}; as many pairs are needed at least"
        )
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ValueError("embeddings contain nan or inf")
    return x.detach().double().cpu().numpy(), y.detach().double().cpu().numpy()
