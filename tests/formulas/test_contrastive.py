"""Contrastive losses against NumPy and SciPy, term by term, and against torch's own cross-entropy."""

from __future__ import annotations

from inspect import unwrap

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax
from torch.nn.functional import cross_entropy

from clipdrift import formulas

RNG = np.random.default_rng(3)
SCORES = torch.from_numpy(RNG.normal(size=(5, 5)) * 4)
EACH = torch.eye(5, dtype=torch.bool)
REPEATED = EACH.clone()
REPEATED[0, 3] = REPEATED[3, 0] = True


def test_with_one_positive_each_it_is_cross_entropy() -> None:
    target = torch.arange(5)
    for smoothing in (0.0, 0.1):
        known = (
            cross_entropy(SCORES, target, label_smoothing=smoothing)
            + cross_entropy(SCORES.T, target, label_smoothing=smoothing)
        ) / 2
        found = formulas.contrastive_loss(SCORES, EACH, smoothing)
        assert found.item() == pytest.approx(known.item(), rel=1e-6)


def test_repeated_images_and_captions_are_equally_likely_answers() -> None:
    scores, positive = SCORES.numpy(), REPEATED.numpy()
    sums = []
    for s, p in ((scores, positive), (scores.T, positive.T)):
        logs = log_softmax(s, axis=1)
        sums.append(np.mean([-np.mean(row[own]) for row, own in zip(logs, p, strict=True)]))
    assert formulas.contrastive_loss(SCORES, REPEATED).item() == pytest.approx(np.mean(sums), rel=1e-6)
    assert formulas.contrastive_loss(SCORES, REPEATED) != formulas.contrastive_loss(SCORES, EACH)


@pytest.mark.parametrize("positive", [EACH, REPEATED], ids=["each", "repeated"])
def test_sigmoid_loss(positive: torch.Tensor) -> None:
    scores, yes = SCORES.numpy() - 2.5, positive.numpy()
    by_hand = -np.log(np.where(yes, expit(scores), 1 - expit(scores))).sum() / 5
    assert formulas.sigmoid_loss(SCORES - 2.5, positive).item() == pytest.approx(by_hand, rel=1e-9)


def test_the_first_bias_is_where_the_sigmoid_loss_is_smallest() -> None:
    bias = formulas.calibrating_bias(SCORES, REPEATED)
    assert float((SCORES + bias).sigmoid().sum()) == pytest.approx(7, rel=1e-9)
    at, lower, higher = (formulas.sigmoid_loss(SCORES + bias + off, REPEATED) for off in (0, -0.01, 0.01))
    assert at < lower
    assert at < higher


def test_what_has_no_answer_is_refused() -> None:
    alone = EACH.clone()
    alone[2, 2] = False
    with pytest.raises(ValueError, match="without a text"):
        formulas.contrastive_loss(SCORES, alone)
    with pytest.raises(ValueError, match="do not fit"):
        unwrap(formulas.sigmoid_loss)(SCORES[:4], EACH)
    with pytest.raises(ValueError, match="25 of 25 are pairs"):
        formulas.calibrating_bias(SCORES, torch.ones(5, 5, dtype=torch.bool))
