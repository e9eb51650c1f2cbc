"""What the model can do before training: zero-shot, a linear probe, how sure it is; with intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from clipdrift.decision.bootstrap import percentiles, resampled, unseen
from clipdrift.decision.result import Estimate

FOLDS = 5
PENALTY = 0.316
"""Inverse weight of the probe's L2 penalty, as in Radford et al. 2021, on features of unit variance."""

Right = NDArray[np.bool_]


def right_zero_shot(images: Tensor, texts: Tensor, labels: NDArray[np.int64]) -> Right:
    """(n,) whether the nearest class text of each embedding (n, E) is the right one of (C, E)."""
    return np.asarray(_cosines(images, texts).argmax(1) == labels)


def right_probe(images: Tensor, labels: NDArray[np.int64], seed: int) -> Right:
    """(n,) whether logistic regression is right on each image, fitted without the image's fold.

    Embeddings (n, E) are scaled to unit variance. Every class needs two images.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(min(FOLDS, int(np.bincount(labels).min())), shuffle=True, random_state=seed)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=2000))
    predicted = cross_val_predict(probe, images.cpu().double().numpy(), labels, cv=folds)
    return np.asarray(predicted == labels)


def entropies(images: Tensor, texts: Tensor, scale: float) -> NDArray[np.float64]:
    """(n,) entropy of each image's zero-shot distribution over ln of the number of classes, 0 to 1.

    Args:
        scale: temperature by which cosines become logits.
    """
    logits = scale * _cosines(images, texts)
    logits -= logits.max(1, keepdims=True)
    weights = np.exp(logits)
    share = weights / weights.sum(1, keepdims=True)
    spread = -(share * np.log(np.where(share > 0, share, 1.0))).sum(1)
    return np.asarray(spread / np.log(len(texts)))


def share_of(right: Right, seed: int) -> Estimate:
    """Accuracy in percent, with its bootstrap interval over images; exact where all are alike."""
    n = len(right)
    if right.min() == right.max():
        beyond = 100 * unseen(n)
        low, high = (100 - beyond, 100.0) if right[0] else (0.0, beyond)
        return Estimate(
            value=100 * float(right[0]), unit="%", low=low, high=high, method=f"exact, {n} images"
        )
    return mean_of(100 * right.astype(np.float64), seed, "%")


def mean_of(values: NDArray[np.float64], seed: int, unit: str = "") -> Estimate:
    """The mean of (n,) values of images with its bootstrap interval."""
    draws = resampled(values[:, None], lambda means: means[:, 0], seed)
    low, high = percentiles(draws)
    method = f"bootstrap of {len(values)} images"
    return Estimate(value=float(values.mean()), unit=unit, low=low, high=high, method=method)


def _cosines(images: Tensor, texts: Tensor) -> NDArray[np.float64]:
    one, other = (normalize(found.detach().cpu().double(), dim=-1) for found in (images, texts))
    return np.asarray((one @ other.T).numpy())
