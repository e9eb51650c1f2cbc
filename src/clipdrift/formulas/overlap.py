"""How much two sets of images occupy the same directions of one embedding space."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def covariance_overlap(x: Float[Tensor, "N E1"], y: Float[Tensor, "M E2"]) -> Float[Tensor, ""]:
    """CKA of two sets of different images in one space: the cosine of their covariance matrices.

    ``tr(C_x C_y) / (||C_x||_F ||C_y||_F)``. CKA of one set of images in two spaces compares Gram matrices
    over images; here the images differ and the space is one, so the matrices over its dimensions are
    compared: linear CKA of ``X'`` and ``Y'``, each set centred at its own mean. 1: both vary along the same
    directions in the same proportions; 0: along directions that have nothing in common.

    ``||C||_F^2`` is what HSIC of a set with itself estimates, so its unbiased estimate (Song et al. 2012,
    eq. 5) stands in the denominator; the numerator is unbiased as the two sets are independent.
    So few images do not make the value smaller, though noisier; it can be a little above 1.

    Args:
        x: (N, E) embeddings of N images.
        y: (M, E) embeddings of M other images by the same model.

    Returns:
        Scalar in float64, about [0, 1].

    Raises:
        ValueError: different widths; fewer than 4 images on a side; nan or inf; a side that does not vary.
    """
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"embeddings of different widths: {x.shape[1]} and {y.shape[1]}")
    if min(len(x), len(y)) < 4:
        raise ValueError(f"overlap needs at least 4 images on each side, got {len(x)} and {len(y)}")
    one, other = _centred(x), _centred(y)
    covariances = one.T @ one / (len(one) - 1), other.T @ other / (len(other) - 1)
    return (covariances[0] * covariances[1]).sum() / (_squared_norm(one) * _squared_norm(other)).sqrt()


def _centred(x: Tensor) -> Tensor:
    x = x.double()
    if not torch.isfinite(x).all():
        raise ValueError("an embedding has nan or inf")
    return x - x.mean(0)


def _squared_norm(centred: Tensor) -> Tensor:
    """Unbiased estimate of the squared Frobenius norm of the covariance matrix: unbiased HSIC of x with x."""
    n = len(centred)
    kernel = centred @ centred.T
    kernel = kernel - torch.diag(kernel.diagonal())
    rows = kernel.sum(0)
    total = rows.sum()
    found = kernel.square().sum() + total.square() / ((n - 1) * (n - 2)) - 2 * rows.square().sum() / (n - 2)
    found = found / (n * (n - 3))
    if found <= 8 * torch.finfo(torch.float64).eps * n * kernel.square().mean():
        raise ValueError("overlap is undefined: the embeddings of a side do not vary")
    return found
