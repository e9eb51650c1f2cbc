"""Sampling error of a rule's number over images: bootstrap of what is a mean, jackknife of CKA."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from clipdrift import formulas
from clipdrift.comparison.abilities import ZeroShot
from clipdrift.comparison.samples import Samples
from clipdrift.decision.bootstrap import Array, percentiles, resampled, unseen
from clipdrift.decision.numbers import Number
from clipdrift.listing import MEASURES
from clipdrift.rules import BY_MATRIX, BY_SET, Rule


@dataclass(frozen=True)
class Interval:
    """95 % interval of a number.

    Attributes:
        method: how it was made, in words.
        resolvable: whether it can tell on which side of a threshold the number is; without ``low`` and
            ``high`` a number that has no error counts as it is.
    """

    method: str
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None
    resolvable: bool = True


def interval_of(rule: Rule, number: Number, samples: Samples, seed: int = 0) -> Interval:
    """The interval of what ``rule`` bounds, over the images that it was measured on."""
    name = rule.name
    drift = name not in MEASURES
    plain = name.removesuffix("_drift") if drift else name
    if name in BY_SET:
        return _of_set(name, number, samples, rule.part, seed)
    if name in BY_MATRIX or MEASURES.get(plain, MEASURES["cka"]).family == "weights":
        return _exact(number, "weights: no sampling over images")
    if plain.startswith("text_") and "weight_drift" in plain:
        return _exact(number, "weights: no sampling over images")
    if plain == "cka":
        blocks = range(len(samples.before.states)) if number.block is None else [number.block - 1]
        return _jackknife(
            number, [(samples.before.states.block(i), samples.after.states.block(i)) for i in blocks]
        )
    if plain == "cka_embedding":
        return _jackknife(number, [(samples.before.embedding, samples.after.embedding)])
    if plain == "embedding_drift":
        return _bootstrap(number, _turns(samples), _mean, seed)
    if plain in samples.after.attention:
        columns = np.stack(
            [_by_image(side.attention[plain], number.block) for side in (samples.before, samples.after)], 1
        )
        return _bootstrap(number, columns, _change if drift else _last, seed)
    if plain.startswith("text_"):
        return Interval("of texts, not of images; no interval")
    return Interval("computed of all images at once; no interval")


def _mean(means: Array) -> Array:
    return means[:, 0]


def _last(means: Array) -> Array:
    return means[:, 1]


def _change(means: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(100 * (means[:, 1] - means[:, 0]) / means[:, 0])


def _kept(means: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(100 * means[:, 1] / means[:, 0])


def _by_image(values: Array, block: int | None) -> Array:
    """(N,) of (N, L): of one block, or the mean over blocks."""
    return values.mean(1) if block is None else values[:, block - 1]


def _turns(samples: Samples) -> Array:
    """(N, 1) one minus the cosine of each image's embedding before and after."""
    before, after = samples.before.embedding.double(), samples.after.embedding.double()
    cosine = torch.nn.functional.cosine_similarity(before, after, dim=1, eps=0)
    return (1 - cosine.clamp(-1, 1)).numpy()[:, None]


def _exact(number: Number, why: str) -> Interval:
    return Interval(why, 0.0, number.value, number.value)


def _too_few(images: int) -> Interval:
    return Interval(f"{images} images, too few for an interval", resolvable=False)


def _bootstrap(number: Number, columns: Array, statistic: object, seed: int) -> Interval:
    assert callable(statistic)
    images = len(columns)
    if images < 2:
        return _too_few(images)
    draws = resampled(columns, statistic, seed)
    low, high = percentiles(draws)
    error = float(draws[np.isfinite(draws)].std())
    return Interval(f"bootstrap of {images} images", error, low, high)


def _jackknife(number: Number, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> Interval:
    """Of the mean of CKA over ``pairs`` of states of the same images.

    The interval is made of the inverse hyperbolic tangent, so that it stays below 1 and is wider downwards.
    """
    images = len(pairs[0][0])
    if images < 5:
        return _too_few(images)
    try:
        left = np.mean([formulas.leave_one_out_cka(x, y).numpy() for x, y in pairs], axis=0)
    except ValueError:
        return Interval(f"{images} images, of which one alone decides it", resolvable=False)
    error = _error(left)
    if error < 1e-9:
        return Interval(f"jackknife of {images} images", 0.0, number.value, number.value)
    inside = 1 - 1e-12
    centre = np.arctanh(np.clip(number.value, -inside, inside))
    half = stats.t.ppf(0.975, images - 1) * _error(np.arctanh(np.clip(left, -inside, inside)))
    low, high = np.tanh([centre - half, centre + half]).tolist()
    return Interval(f"jackknife of {images} images", error, low, high)


def _error(left: Array) -> float:
    """Jackknife standard error of a statistic from its values with each image left out."""
    return float(np.sqrt((len(left) - 1) * left.var()))


def _of_set(name: str, number: Number, samples: Samples, set_name: str, seed: int) -> Interval:
    test, before, after = samples.zero_shot[set_name]
    images = len(test.deck)
    if images < 2:
        return _too_few(images)
    if name == "zero_shot_kl":
        return _bootstrap(number, _divergence(before, after)[:, None], _mean, seed)
    labels = torch.from_numpy(test.deck.labels)
    right = np.stack([side.right(labels).double().numpy() for side in (before, after)], 1)
    if name == "zero_shot_accuracy":
        return _share(number, 100 * right[:, 1], 100, seed)
    if _same(before, after):
        return _exact(number, "no embedding differs: no sampling over images")
    if name == "zero_shot_agreement":
        return _share(number, (before.logits.argmax(-1) == after.logits.argmax(-1)).double().numpy(), 1, seed)
    found = _bootstrap(number, right, _kept, seed)
    if (right[:, 0] != right[:, 1]).any():
        return found
    # no image changed sides, of which the bootstrap would make certainty
    known, unknown = int(right[:, 0].sum()), int((1 - right[:, 0]).sum())
    gained = 100 * unseen(unknown) * unknown / known if unknown else 0.0
    return Interval(
        f"exact bounds; none of {images} images changed",
        0.0,
        100 * (1 - unseen(known)),
        100 + gained,
    )


def _share(number: Number, values: Array, whole: float, seed: int) -> Interval:
    """The interval of a mean of values that are 0 or ``whole``; of nothing or everything, the exact bound."""
    images = len(values)
    if values.min() < values.max():
        return _bootstrap(number, values[:, None], _mean, seed)
    beyond = whole * unseen(images)
    ends = (0.0, beyond) if values[0] == 0 else (whole - beyond, float(whole))
    return Interval(f"exact bounds; all {images} images alike", 0.0, *ends)


def _same(before: ZeroShot, after: ZeroShot) -> bool:
    return torch.equal(before.images, after.images) and torch.equal(before.texts, after.texts)


def _divergence(before: ZeroShot, after: ZeroShot) -> Array:
    """(n,) KL divergence of each image's zero-shot distribution from BASE's, in nats."""
    old, new = before.logits.log_softmax(-1), after.logits.log_softmax(-1)
    return (old.exp() * (old - new)).sum(-1).numpy()
