"""What a model still can, against an oracle, properties and errors."""

from __future__ import annotations

import math
from inspect import unwrap

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from formula_oracles import gaussians
from sklearn.metrics import accuracy_score, top_k_accuracy_score
from torch import Tensor

from clipdrift.formulas import coefficient_of_variation, recall_at_k, zero_shot_agreement, zero_shot_kl

# --- zero-shot predictions before and after


def test_agreement_is_scikit_learns_accuracy() -> None:
    """With the backbone's predictions as the truth."""
    before = gaussians(50, 6)
    after = before + gaussians(50, 6, seed=1)
    expected = accuracy_score(before.argmax(1).numpy(), after.argmax(1).numpy())
    found = zero_shot_agreement(before, after)
    assert found.item() == pytest.approx(expected)
    assert 0.3 < found < 0.9
    assert found.dtype == torch.float64
    assert zero_shot_agreement(after, before) == found
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    assert zero_shot_agreement(before[:, order], after[:, order]) == found


def test_agreement_extremes() -> None:
    """All, none, and by hand one of four; temperature and a shift of all logits do not matter."""
    before = torch.eye(4).half()
    assert zero_shot_agreement(before, 100 * before - 7) == 1
    assert zero_shot_agreement(before, before.roll(1, 1)) == 0
    after = before.roll(1, 1)
    after[2] = before[2]
    assert zero_shot_agreement(before, after) == 0.25


def test_kl_is_scipys() -> None:
    """scipy.stats.entropy of two distributions is their divergence, in this direction."""
    before = 3 * gaussians(30, 7)
    after = before + gaussians(30, 7, seed=1)
    p, q = (scipy.special.softmax(z.numpy(), axis=-1) for z in (before, after))
    assert zero_shot_kl(before, after).item() == pytest.approx(scipy.stats.entropy(p, q, axis=-1).mean())
    assert zero_shot_kl(after, before).item() == pytest.approx(scipy.stats.entropy(q, p, axis=-1).mean())
    assert zero_shot_kl(before, after) != zero_shot_kl(after, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_kl_of_nothing_is_nothing(dtype: torch.dtype) -> None:
    """Never below 0 by rounding, also where a shift of all logits rounds."""
    before = (100 * gaussians(200, 9)).to(dtype)
    assert zero_shot_kl(before, before) == 0
    assert 0 <= zero_shot_kl(before.double(), before.double() + 1e3).item() < 1e-12


def test_kl_is_finite_where_a_probability_underflows() -> None:
    """CLIP's logits lie up to 100 apart each way: softmax of them is 0 in places, their divergence finite."""
    before, after = torch.tensor([[1e3, 0.0]]), torch.tensor([[0.0, 1e3]])
    assert zero_shot_kl(before, after).item() == pytest.approx(1e3)
    after.requires_grad_()
    zero_shot_kl(before, after).backward()
    assert after.grad is not None
    assert after.grad.tolist() == [[-1, 1]]


def test_kl_sees_a_change_that_agreement_does_not() -> None:
    """Positive control: it grows with the change, and before any prediction turns."""
    before = 5 * torch.eye(6).double()
    noise = gaussians(6, 6, seed=1)
    values = [zero_shot_kl(before, before + level * noise).item() for level in (0.0, 0.1, 0.5, 1.0, 5.0)]
    assert values == sorted(values)
    assert values[1] > 0
    assert zero_shot_agreement(before, before + 0.5 * noise) == 1
    assert zero_shot_agreement(before, before + 10 * noise) < 1


def test_kl_has_a_right_gradient() -> None:
    """A penalty may keep it low."""
    before, after = gaussians(4, 5), gaussians(4, 5, seed=1)
    assert torch.autograd.gradcheck(zero_shot_kl, (before.requires_grad_(), after.requires_grad_()))


@pytest.mark.parametrize("formula", [zero_shot_agreement, zero_shot_kl])
def test_logits_must_fit_and_be_finite(formula: object) -> None:
    """nan has an arg max as well."""
    assert callable(formula)
    logits = gaussians(5, 3)
    for bad in (math.nan, math.inf, -math.inf):
        wrong = logits.clone()
        wrong[2, 1] = bad
        for pair in ((logits, wrong), (wrong, logits)):
            with pytest.raises(ValueError, match="nan or inf"):
                formula(*pair)
    with pytest.raises(ValueError, match="do not fit"):
        unwrap(formula)(logits, logits[:, :2])
    with pytest.raises(ValueError, match="do not fit"):
        formula(logits[:0], logits[:0])


# --- retrieval


def captions(images: int, each: int) -> Tensor:
    """Which of ``each`` captions per image, in turn, belong to an image."""
    return torch.eye(images, dtype=torch.bool).repeat_interleave(each, dim=1)


@pytest.mark.parametrize("k", [1, 2, 5, 10])
def test_recall_with_one_match_is_scikit_learns_top_k_accuracy(k: int) -> None:
    """Retrieval among as many classes as candidates."""
    similarity = gaussians(40, 40) + torch.eye(40)
    expected = top_k_accuracy_score(np.arange(40), similarity.numpy(), k=k)
    found = recall_at_k(similarity, torch.eye(40, dtype=torch.bool), k)
    assert found.item() == pytest.approx(expected)
    assert found.dtype == torch.float64
    assert 0 < found < 1


@pytest.mark.parametrize("k", [1, 3, 10])
def test_recall_with_several_captions_is_the_plain_loop(k: int) -> None:
    """Image to text: any of five captions counts; text to image: each caption is a query."""
    match = captions(20, 5)
    similarity = gaussians(20, 100) + 1.5 * match
    for s, m in ((similarity, match), (similarity.T, match.T)):
        hits = [m[i][s[i].argsort(descending=True)[:k]].any().item() for i in range(len(s))]
        assert recall_at_k(s, m, k).item() == pytest.approx(np.mean(hits))
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert recall_at_k(similarity[:, order], match[:, order], k) == recall_at_k(similarity, match, k)
    assert recall_at_k(7 * similarity - 3, match, k) == recall_at_k(similarity, match, k)


def test_recall_extremes() -> None:
    """All at once, none, and all as soon as everything is retrieved."""
    match = captions(4, 2)
    perfect = match.half()
    assert recall_at_k(perfect, match, 1) == 1
    assert recall_at_k(-perfect, match, 6) == 0
    assert recall_at_k(-perfect, match, 7) == 1
    assert recall_at_k(gaussians(4, 8), match, 8) == 1


def test_recall_of_a_collapsed_model_is_zero() -> None:
    """Where all similarities are equal nothing is retrieved, whatever order sorting leaves them in."""
    match = torch.eye(10, dtype=torch.bool)
    assert recall_at_k(torch.ones(10, 10), match, 5) == 0
    tie = torch.zeros(10, 10)
    tie[:, 3] = 1
    tie += match.float()
    assert recall_at_k(tie, match, 1) == 0.1
    assert recall_at_k(tie, match, 2) == 1


def test_recall_rises_with_k_and_with_the_signal() -> None:
    """Positive control."""
    match = captions(30, 3)
    noise = gaussians(30, 90)
    by_k = [recall_at_k(noise + match, match, k).item() for k in (1, 5, 10, 40, 90)]
    by_signal = [recall_at_k(noise + signal * match, match, 1).item() for signal in (0, 1, 2, 4, 8)]
    assert by_k == sorted(by_k)
    assert by_signal == sorted(by_signal)
    assert by_k[0] < by_k[2] < by_k[-1] == 1
    assert by_signal[0] < by_signal[2] < by_signal[-1] == 1


def test_recall_refuses_what_it_cannot_answer() -> None:
    """A query that nothing matches would count as a failure of the model."""
    match = captions(4, 2)
    similarity = gaussians(4, 8)
    for k in (0, -1, 9):
        with pytest.raises(ValueError, match="k = "):
            recall_at_k(similarity, match, k)
    alone = match.clone()
    alone[1:3] = False
    with pytest.raises(ValueError, match="2 of 4 queries have no match"):
        recall_at_k(similarity, alone, 1)
    for bad in (math.nan, math.inf):
        wrong = similarity.clone()
        wrong[1, 1] = bad
        with pytest.raises(ValueError, match="nan or inf"):
            recall_at_k(wrong, match, 1)
    with pytest.raises(ValueError, match="do not fit"):
        unwrap(recall_at_k)(similarity, match.T, 1)
    with pytest.raises(ValueError, match="do not fit"):
        recall_at_k(similarity[:0], match[:0], 1)


# --- stability


def test_coefficient_of_variation_is_scipys() -> None:
    """With ddof 1; a scale of either sign cancels, a shift does not."""
    values = 5 + gaussians(5, 1)[:, 0]
    expected = scipy.stats.variation(values.numpy(), ddof=1)
    found = coefficient_of_variation(values).item()
    assert found == pytest.approx(expected)
    assert coefficient_of_variation(-3e-20 * values).item() == pytest.approx(expected)
    assert coefficient_of_variation(values.flip(0)).item() == pytest.approx(expected)
    assert coefficient_of_variation(values + 100).item() < found / 10
    assert coefficient_of_variation(values.float()).dtype == torch.float64


def test_coefficient_of_variation_by_hand() -> None:
    """0 where nothing varies; sqrt(2) of 0 and 2; it grows with the spread."""
    assert coefficient_of_variation(torch.full((5,), 0.3)).item() == pytest.approx(0, abs=1e-12)
    assert coefficient_of_variation(torch.tensor([0.0, 2.0])).item() == pytest.approx(math.sqrt(2))
    spreads = [coefficient_of_variation(torch.tensor([1 - s, 1.0, 1 + s])).item() for s in (0.1, 0.2, 0.5)]
    assert spreads == pytest.approx([0.1, 0.2, 0.5])


def test_coefficient_of_variation_needs_values_and_a_mean() -> None:
    """x / 0 is no number, nor is the spread of a single value; a mean that is rounding is zero as well."""
    for few in ([], [1.0]):
        with pytest.raises(ValueError, match=f"got {len(few)}"):
            coefficient_of_variation(torch.tensor(few))
    for zero in ([0.0, 0.0], [1.0, -1.0], [0.1, 0.2, -0.3]):
        with pytest.raises(ValueError, match="mean is zero"):
            coefficient_of_variation(torch.tensor(zero, dtype=torch.float64))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="nan or inf"):
            coefficient_of_variation(torch.tensor([1.0, bad]))
