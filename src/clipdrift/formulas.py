"""Every formula, once: pure functions from tensors to tensors, shared by measures and penalties.

Attention weights ``(..., P)`` are a distribution over patches; they need not be normalised (each function
divides by the sum), must be finite and non-negative, and must not sum to zero. Functions keep the floating
dtype they are given, half precision is raised to float32, and all are differentiable unless said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "cka",
    "effective_receptive_field",
    "embedding_drift",
    "entropy",
    "gini",
    "head_diversity",
    "normalised_entropy",
    "weight_drift",
]


def _distribution(weights: Tensor) -> Tensor:
    """Weights divided by their sum over the last axis, in float32 or better; checked."""
    if weights.dtype in (torch.float16, torch.bfloat16):
        weights = weights.float()
    total = weights.sum(-1, keepdim=True)
    if not torch.isfinite(total).all():
        raise ValueError("attention weights contain nan or inf, or values whose sum overflows")
    if (weights < 0).any():
        raise ValueError("attention weights contain negative values")
    if (total <= 0).any():
        raise ValueError("attention weights of a row sum to zero")
    return weights / total


def entropy(weights: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch"]:
    """Shannon entropy ``-sum a ln a`` with ``0 ln 0 = 0``.

    Args:
        weights: (..., P) attention over patches.

    Returns:
        (...) in nats, within [0, ln P].

    Raises:
        ValueError: nan, inf, negative weights, or a row that sums to zero.
    """
    a = _distribution(weights)
    # entr has an infinite slope at 0, which makes nan of the gradient behind a softmax that underflowed;
    # entr(1) is 0 as well, and no gradient is what such a softmax gives
    return torch.special.entr(torch.where(a > 0, a, 1)).sum(-1)


def normalised_entropy(weights: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch"]:
    """:func:`entropy` divided by ln P, within [0, 1], to compare models of different patch counts.

    Raises:
        ValueError: as :func:`entropy`, and for a single patch, whose entropy is 0 by definition.
    """
    patches = weights.shape[-1]
    if patches < 2:
        raise ValueError("normalised entropy needs at least two patches")
    return entropy(weights) / math.log(patches)


def effective_receptive_field(
    weights: Float[Tensor, "*batch P"], mass: float = 0.95
) -> Float[Tensor, "*batch"]:
    """Smallest share of patches that together hold ``mass`` of the attention.

    k/P with k the least number of largest weights whose sum reaches ``mass``. Piecewise constant, so without
    a useful gradient. Weights are normalised and summed in float64 and compared with a tolerance of P
    rounding errors of that, so that ``mass=1.0`` counts the patches with weight above zero and never fails.

    Args:
        weights: (..., P) attention over patches.
        mass: in (0, 1].

    Returns:
        (...) in the weights' dtype, within [1/P, 1].

    Raises:
        ValueError: ``mass`` outside (0, 1], or weights as in :func:`entropy`.
    """
    if not 0 < mass <= 1:
        raise ValueError(f"mass = {mass}: must lie in (0, 1]")
    a = _distribution(weights.double())
    patches = a.shape[-1]
    tolerance = patches * torch.finfo(a.dtype).eps
    reached = a.sort(-1, descending=True).values.cumsum(-1)
    k = 1 + (reached < mass - tolerance).sum(-1)
    return k.clamp(max=patches).to(torch.promote_types(weights.dtype, torch.float32)) / patches


def gini(weights: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch"]:
    """Gini coefficient ``2 sum_i i a_(i) / (P sum a) - (P+1)/P``, a_(i) ascending, i from 1.

    Args:
        weights: (..., P) attention over patches.

    Returns:
        (...) within [0, 1 - 1/P]; 0 = even, 1 - 1/P = all on one patch.

    Raises:
        ValueError: as :func:`entropy`.
    """
    a = _distribution(weights).sort(-1).values
    patches = a.shape[-1]
    rank = torch.arange(1, patches + 1, dtype=a.dtype, device=a.device)
    return 2 * (rank * a).sum(-1) / patches - (patches + 1) / patches


def head_diversity(weights: Float[Tensor, "*batch H P"]) -> Float[Tensor, "*batch"]:
    """One minus the mean cosine similarity over all pairs of heads.

    Args:
        weights: (..., H, P) attention over patches of the heads of one block.

    Returns:
        (...) within [0, 1]; 0 = all heads alike, 1 = no two heads look at a common patch.

    Raises:
        ValueError: fewer than two heads, or weights as in :func:`entropy`.
    """
    heads = weights.shape[-2]
    if heads < 2:
        raise ValueError("head diversity needs at least two heads")
    unit = torch.nn.functional.normalize(_distribution(weights), dim=-1)
    cosine = unit @ unit.transpose(-1, -2)
    off_diagonal = cosine.sum((-1, -2)) - cosine.diagonal(dim1=-2, dim2=-1).sum(-1)
    return 1 - off_diagonal / (heads * (heads - 1))


def cka(x: Float[Tensor, "B D1"], y: Float[Tensor, "B D2"], debiased: bool = True) -> Float[Tensor, ""]:
    """Linear centred kernel alignment between two representations of the same images.

    Debiased: ratio of unbiased HSIC estimates (Song et al. 2012, eq. 5; Nguyen et al. 2021), about [0, 1]
    and slightly negative at times. Biased: ``||X'Y||_F^2 / (||X'X||_F ||Y'Y||_F)`` of centred X, Y
    (Kornblith et al. 2019), [0, 1], close to 1 for unrelated features when images are few and D is large.
    Invariant to rotation, shift and isotropic scale of either side.

    Args:
        x: (B, D) representation of B images.
        y: (B, D') another representation of the same images.
        debiased: which estimate.

    Returns:
        Scalar in float64.

    Raises:
        ValueError: different numbers of images; fewer than 4 (debiased) or 2 images; nan or inf; one side
            the same for every image (0/0), or, debiased, for all but one.
    """
    if len(x) != len(y):
        raise ValueError(f"cka needs the same images on both sides, got {len(x)} and {len(y)}")
    least = 4 if debiased else 2
    if len(x) < least:
        raise ValueError(f"cka needs at least {least} images, got {len(x)}")
    x, y = x.double(), y.double()
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ValueError("cka: a representation contains nan or inf")
    similarity = _unbiased_hsic if debiased else _frobenius
    k, m = _gram(x), _gram(y)
    xx, yy = similarity(k, k), similarity(m, m)
    floor = _ROUNDING * len(x)
    if xx <= floor * _frobenius(k, k) or yy <= floor * _frobenius(m, m):
        raise ValueError(
            "cka is undefined: a representation is the same for every image (or for all but one)"
        )
    return similarity(k, m) / (xx.sqrt() * yy.sqrt())


_ROUNDING = 8 * torch.finfo(torch.float64).eps
"""Times the number of images: what is smaller, relative to what it was subtracted from, is rounding."""


def _gram(x: Tensor) -> Tensor:
    """Centred Gram matrix of x (B, D) in float64; zero where all rows of x are the same.

    Both estimates are invariant to a shift; centring first keeps the matrix well conditioned.
    """
    centred = x - x.mean(0)
    if centred.abs().max() <= _ROUNDING * len(x) * x.abs().max():
        centred = torch.zeros_like(centred)
    return centred @ centred.T


def _frobenius(k: Tensor, m: Tensor) -> Tensor:
    return (k * m).sum()


def _unbiased_hsic(k: Tensor, m: Tensor) -> Tensor:
    """Unbiased HSIC of two Gram matrices up to the factor 1/(n(n-3)), which cancels in CKA."""
    n = len(k)
    k = k - torch.diag(k.diagonal())
    m = m - torch.diag(m.diagonal())
    cross = (k.sum(0) * m.sum(0)).sum()
    return (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)


def embedding_drift(before: Float[Tensor, "B E"], after: Float[Tensor, "B E"]) -> Float[Tensor, ""]:
    """``1 - mean cos(z0, z)`` of the embeddings of the same images before and after.

    Returns:
        Scalar in float64 within [0, 2].

    Raises:
        ValueError: different shapes, nan or inf, an embedding of length zero, or no images.
    """
    if before.shape != after.shape or not len(before):
        raise ValueError(f"embeddings do not fit: {tuple(before.shape)} and {tuple(after.shape)}")
    before, after = before.double(), after.double()
    norms = before.norm(dim=-1), after.norm(dim=-1)
    if not all(bool((torch.isfinite(norm) & (norm > 0)).all()) for norm in norms):
        raise ValueError("an embedding has nan, inf or zero length")
    cosine = (before * after).sum(-1) / (norms[0] * norms[1])
    return 1 - cosine.clamp(-1, 1).mean()


def weight_drift(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """``||W - W0|| / ||W0||`` over all named tensors together (Frobenius norm). Carries no gradient.

    Args:
        before: the backbone's weights by name.
        after: the adapted model's effective weights (adapters merged in) under the same names.

    Returns:
        Scalar in float64, at least 0.

    Raises:
        ValueError: names or shapes differ, nan or inf, or the backbone's weights are all zero.
    """
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())
        raise ValueError(f"weights do not fit: {len(odd)} names on one side only, for example {odd[0]}")
    change = norm = torch.zeros((), dtype=torch.float64)
    for name, old in before.items():
        new = after[name]
        if old.shape != new.shape:
            raise ValueError(f"{name}: shape {tuple(old.shape)} before, {tuple(new.shape)} after")
        old = old.detach().double()
        change = change + (new.detach().double() - old).square().sum().cpu()
        norm = norm + old.square().sum().cpu()
    if not torch.isfinite(change) or not torch.isfinite(norm):
        raise ValueError("weights contain nan or inf")
    if norm == 0:
        raise ValueError("the backbone's weights are all zero")
    return (change / norm).sqrt()
