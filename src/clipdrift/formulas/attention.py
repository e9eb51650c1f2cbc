"""Attention of one query over the patches: shape, heads and sinks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipdrift.accelerator import running_sum

_CHUNK = 1 << 17
"""Weights that :func:`entropy` takes at a time, so that what it makes of them stays in the cache: some
ten times as fast on whole attention maps as one step after the other over all of them."""


def _raised(weights: Tensor) -> Tensor:
    return weights.float() if weights.dtype in (torch.float16, torch.bfloat16) else weights


def _check(total: Tensor, lowest: Tensor) -> None:
    """Refuse weights by the sums of their rows and the smallest weight of each row, or of all."""
    if not torch.isfinite(total).all():
        raise ValueError("attention weights contain nan or inf, or values whose sum overflows")
    if (lowest < 0).any() or (total < 0).any():
        raise ValueError("attention weights contain negative values")
    if (total <= 0).any():
        raise ValueError("attention weights of a row sum to zero")


def _distribution(weights: Tensor) -> Tensor:
    """Weights divided by their sum over the last axis, in float32 or better; checked."""
    if not weights.shape[-1]:
        raise ValueError("attention weights over no patches")
    weights = _raised(weights)
    total = weights.sum(-1, keepdim=True)
    _check(total, weights.detach().amin(-1))
    return weights / total


def _chunks(weights: Tensor) -> Iterator[Tensor]:
    """Views that cover the rows of ``weights`` in order, of about ``_CHUNK`` weights each."""
    if weights.ndim == 1 or weights.numel() <= _CHUNK:
        yield weights
        return
    size = weights[0].numel()
    if size < _CHUNK:
        yield from weights.split(_CHUNK // size)
    else:
        for part in weights:
            yield from _chunks(part)


def _chunk_entropy(chunk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy and sum of each row, flattened, and the smallest weight of all; unchecked."""
    chunk = _raised(chunk)
    total = chunk.sum(-1, keepdim=True)
    a = chunk / total
    # 0 ln 0 = 0 with a finite slope: 0 times the log of the smallest normal number. An infinite one would
    # make nan of the gradient behind a softmax that underflowed. In place on the chunk's own copies.
    surprise = a.clamp_min(torch.finfo(a.dtype).tiny).log_().mul_(a).sum(-1)
    # of a, which is contiguous where a slice of maps is not; the minimum of short rows is slow one by one
    lowest = a.detach().amin() if a.numel() else total.new_zeros(())
    return (0 - surprise).flatten(), total.flatten(), lowest


def _ascending(a: Tensor) -> Tensor:
    """Sorted over the last axis; by numpy where no gradient is wanted, whose short sorts are 10x torch's."""
    if a.device.type == "cpu" and not a.requires_grad:
        return torch.from_numpy(np.sort(a.numpy(), axis=-1))
    return a.sort(-1).values


def entropy(weights: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch"]:
    """Shannon entropy ``-sum a ln a`` with ``0 ln 0 = 0``.

    Args:
        weights: (..., P) attention over patches.

    Returns:
        (...) in nats, within [0, ln P].

    Raises:
        ValueError: nan, inf, negative weights, or a row that sums to zero.
    """
    if not weights.shape[-1]:
        raise ValueError("attention weights over no patches")
    values, totals, lowest = zip(*map(_chunk_entropy, _chunks(weights)), strict=True)
    _check(torch.cat(totals), torch.stack(lowest))
    return torch.cat(values).view(weights.shape[:-1])


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
    reached = running_sum(_ascending(a).flip(-1))
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
    a = _ascending(_distribution(weights))
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
    return head_diversity_by_head(weights).mean(-1)


def head_diversity_by_head(weights: Float[Tensor, "*batch H P"]) -> Float[Tensor, "*batch H"]:
    """One minus the mean cosine similarity of each head with the other heads of its block.

    Its mean over heads is :func:`head_diversity`.

    Args:
        weights: (..., H, P) attention over patches of the heads of one block.

    Returns:
        (..., H) within [0, 1]; 0 = all the others like it, 1 = shares no patch with any of them.

    Raises:
        ValueError: fewer than two heads, or weights as in :func:`entropy`.
    """
    heads = weights.shape[-2]
    if heads < 2:
        raise ValueError("head diversity needs at least two heads")
    unit = torch.nn.functional.normalize(_distribution(weights), dim=-1)
    cosine = unit @ unit.transpose(-1, -2)
    with_others = cosine.sum(-1) - cosine.diagonal(dim1=-2, dim2=-1)
    return 1 - with_others / (heads - 1)


def sink_share(weights: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch"]:
    """Share of the attention on its largest patch.

    High where attention drains into one patch whatever the image shows, an attention sink (Xiao et al. 2024)
    or register (Darcet et al. 2024).

    Args:
        weights: (..., P) attention over patches.

    Returns:
        (...) within [1/P, 1].

    Raises:
        ValueError: as :func:`entropy`.
    """
    return _distribution(weights).amax(-1)


def sink_patches(norms: Float[Tensor, "*batch P"], factor: float = 3.0) -> Int64[Tensor, "*batch"]:
    """Number of patches whose hidden state is longer than ``factor`` times the median of their image.

    Darcet et al. 2024 ("Vision Transformers Need Registers") tell such patches by a fixed norm for each
    model; a multiple of the median does not depend on the scale of the states. A count, without a gradient.

    Args:
        norms: (..., P) norms of the hidden states of an image's patches.
        factor: above 0. The median of an even number of patches is the mean of the two middle ones.

    Returns:
        (...) count within [0, P]; for a factor of at least 1 less than half of the patches.

    Raises:
        ValueError: ``factor`` not above 0, no patches, or norms that are nan, inf or negative.
    """
    if not 0 < factor < math.inf:
        raise ValueError(f"factor = {factor}: must be a number above 0")
    patches = norms.shape[-1]
    if not patches:
        raise ValueError("norms of no patches")
    norms = norms.detach().double()
    if not torch.isfinite(norms).all():
        raise ValueError("norms contain nan or inf")
    if (norms < 0).any():
        raise ValueError("norms contain negative values")
    ordered = norms.sort(-1).values
    median = (ordered[..., (patches - 1) // 2] + ordered[..., patches // 2]) / 2
    return (norms > factor * median.unsqueeze(-1)).sum(-1)


def attention_kl(
    current: Float[Tensor, "*batch P"], reference: Float[Tensor, "*batch P"]
) -> Float[Tensor, "*batch"]:
    """KL divergence ``sum a ln(a / a0)`` of attention over patches from a reference's, both renormalised.

    Args:
        current: (..., P) attention a.
        reference: (..., P) attention a0; where it underflowed to zero the smallest normal number stands.

    Returns:
        (...) in nats, at least 0 up to rounding.

    Raises:
        ValueError: as :func:`entropy`, for either side.
    """
    a, b = _distribution(current), _distribution(reference)
    tiny = torch.finfo(a.dtype).tiny
    return (a * (a.clamp_min(tiny).log() - b.clamp_min(tiny).log())).sum(-1)
