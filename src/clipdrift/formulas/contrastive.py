"""Losses between the images and the texts of a batch, where several of each may belong together."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def contrastive_loss(
    similarity: Float[Tensor, "N M"], positive: Bool[Tensor, "N M"], smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """CLIP's loss: the mean of cross-entropy from images to texts and from texts to images.

    Where a row or column has several positives, each of them is an equally likely answer (Khosla et al. 2020,
    Supervised Contrastive Learning, ``out``). With one each this is the loss of Radford et al. 2021.

    Args:
        similarity: (N, M) cosines times the scale.
        positive: (N, M) which texts belong to which images; one at least in each row and column.
        smoothing: share of the answer spread evenly over all texts, or images, in [0, 1).

    Returns:
        Scalar, in nats, at least 0.

    Raises:
        ValueError: shapes that do not fit, or a row or column without a positive.
    """
    _check(similarity, positive)
    to_text, to_image = (
        -(_answer(right, smoothing) * scores.log_softmax(1)).sum(1).mean()
        for scores, right in ((similarity, positive), (similarity.T, positive.T))
    )
    return (to_text + to_image) / 2


def _answer(positive: Tensor, smoothing: float) -> Tensor:
    """(N, M) distribution over texts that is right for each image."""
    right = positive.float()
    right = right / right.sum(1, keepdim=True)
    return (1 - smoothing) * right + smoothing / right.shape[1]


def sigmoid_loss(logits: Float[Tensor, "N M"], positive: Bool[Tensor, "N M"]) -> Float[Tensor, ""]:
    """SigLIP's loss: each image with each text is a yes or no of its own (Zhai et al. 2023).

    Args:
        logits: (N, M) cosines times the scale, plus the bias.
        positive: (N, M) which texts belong to which images.

    Returns:
        Scalar, in nats an image, at least 0: the sum over all pairs, divided by N.

    Raises:
        ValueError: as :func:`contrastive_loss`.
    """
    _check(logits, positive)
    signs = 2 * positive.to(logits.dtype) - 1
    return -logsigmoid(signs * logits).sum() / len(logits)


@torch.no_grad()
def calibrating_bias(scores: Float[Tensor, "N M"], positive: Bool[Tensor, "N M"]) -> float:
    """Bias at which :func:`sigmoid_loss` expects as many pairs as there are, where it is smallest.

    Args:
        scores: (N, M) cosines times the scale.
        positive: (N, M) which texts belong to which images.

    Raises:
        ValueError: as :func:`contrastive_loss`, or all or none are pairs, where there is no such bias.
    """
    _check(scores, positive)
    pairs = int(positive.sum())
    if not 0 < pairs < positive.numel():
        raise ValueError(f"{pairs} of {positive.numel()} are pairs: no bias expects as many")
    values = scores.double()
    low, high = -float(values.max()) - 50.0, -float(values.min()) + 50.0
    for _ in range(200):  # the expected number grows with the bias
        middle = (low + high) / 2
        low, high = (middle, high) if float((values + middle).sigmoid().sum()) < pairs else (low, middle)
    return (low + high) / 2


def _check(scores: Tensor, positive: Tensor) -> None:
    if scores.shape != positive.shape or not scores.numel():
        raise ValueError(f"scores {tuple(scores.shape)} and positives {tuple(positive.shape)} do not fit")
    if not (positive.any(0).all() and positive.any(1).all()):
        raise ValueError("an image without a text, or a text without an image")
