"""Attention formulas against an oracle, their properties, their errors and their gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from formula_oracles import (
    P,
    attention,
    loop_erf,
    loop_gini,
    loop_head_diversity,
    loop_head_diversity_by_head,
    one_hot,
)
from torch import Tensor

from clipdrift.formulas import (
    effective_receptive_field,
    entropy,
    gini,
    head_diversity,
    head_diversity_by_head,
    normalised_entropy,
    sink_patches,
    sink_share,
)

Formula = Callable[[Tensor], Tensor]

PER_ROW: list[Formula] = [entropy, normalised_entropy, effective_receptive_field, gini, sink_share]
OF_ATTENTION = [*PER_ROW, head_diversity, head_diversity_by_head]


# --- oracles


def test_entropy_is_scipys() -> None:
    """SciPy's entropy is the independent definition, in nats."""
    rows = attention(20, 4, P)
    assert torch.allclose(
        entropy(rows), torch.from_numpy(scipy.stats.entropy(rows.numpy(), axis=-1)), atol=1e-12
    )
    assert torch.allclose(normalised_entropy(rows), entropy(rows) / math.log(P), atol=1e-12)


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.9, 0.95, 0.99, 1.0])
def test_erf_is_the_plain_loops(mass: float) -> None:
    """Adding up the largest weights one by one is the definition."""
    rows = attention(50, P)
    expected = [loop_erf(row, mass) for row in rows.numpy()]
    assert effective_receptive_field(rows, mass).tolist() == pytest.approx(expected, abs=0)


def test_gini_is_the_mean_absolute_difference() -> None:
    """The rank formula must equal the definition by pairs."""
    rows = attention(20, P)
    assert gini(rows).tolist() == pytest.approx([loop_gini(row) for row in rows.numpy()], abs=1e-12)


def test_head_diversity_is_the_plain_loops() -> None:
    """Each pair of heads counts once, a head with itself not at all."""
    rows = attention(10, 5, P)
    expected = [loop_head_diversity(image) for image in rows.numpy()]
    assert head_diversity(rows).tolist() == pytest.approx(expected, abs=1e-12)


def test_head_diversity_by_head_is_the_plain_loops() -> None:
    """Each head against the others; the mean over heads is the block's number."""
    rows = attention(10, 5, P)
    found = head_diversity_by_head(rows)
    for image, values in zip(rows.numpy(), found.tolist(), strict=True):
        assert values == pytest.approx(loop_head_diversity_by_head(image), abs=1e-12)
    assert torch.allclose(found.mean(-1), head_diversity(rows), atol=1e-12)


def test_sink_share_is_numpys() -> None:
    """The largest of the renormalised weights."""
    rows = 0.3 * attention(20, 4, P)
    expected = rows.numpy().max(-1) / rows.numpy().sum(-1)
    assert np.allclose(sink_share(rows).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("patches", [1, 2, 49, 196])
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_sink_patches_are_numpys(patches: int, factor: float) -> None:
    """NumPy's median is the mean of the two middle norms where their number is even."""
    norms = attention(20, 3, patches, sharp=2.0)
    expected = (norms.numpy() > factor * np.median(norms.numpy(), axis=-1, keepdims=True)).sum(-1)
    assert sink_patches(norms, factor).tolist() == expected.tolist()


# --- extremes


@pytest.mark.parametrize("patches", [2, 49, 196])
def test_even_attention(patches: int) -> None:
    """One end of each range is reached where attention is even."""
    rows = torch.full((3, patches), 1 / patches, dtype=torch.float64)
    assert entropy(rows).tolist() == pytest.approx([math.log(patches)] * 3)
    assert normalised_entropy(rows).tolist() == pytest.approx([1] * 3)
    assert gini(rows).tolist() == pytest.approx([0] * 3, abs=1e-12)
    assert sink_share(rows).tolist() == pytest.approx([1 / patches] * 3)
    assert sink_patches(rows).tolist() == [0] * 3
    assert effective_receptive_field(rows, 1.0).tolist() == [1] * 3
    assert effective_receptive_field(rows, 0.5).tolist() == [math.ceil(patches / 2) / patches] * 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mass", [1e-9, 0.95, 1.0])
def test_all_attention_on_one_patch(dtype: torch.dtype, mass: float) -> None:
    """The other end of each range, where a log of zero lurks."""
    row = one_hot().to(dtype)
    assert entropy(row) == 0
    assert math.copysign(1, entropy(row).item()) == 1  # "-0.0" in a table looks like a mistake
    assert sink_share(row) == 1
    assert gini(row).item() == pytest.approx(1 - 1 / P, abs=1e-6)
    assert effective_receptive_field(row, mass).item() == pytest.approx(1 / P, abs=1e-7)


def test_head_diversity_extremes() -> None:
    """Equal heads have none, heads without a common patch have all."""
    assert head_diversity(attention(P).expand(12, P)).item() == pytest.approx(0, abs=1e-12)
    assert head_diversity(torch.eye(6, P, dtype=torch.float64)).item() == 1
    odd = torch.stack([*attention(P).expand(3, P), torch.zeros(P).double()])
    odd[:3, 0] = 0
    odd[3, 0] = 1
    assert head_diversity_by_head(odd).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1])


# --- properties


@pytest.mark.parametrize("formula", OF_ATTENTION)
def test_the_order_of_patches_and_the_scale_do_not_matter(formula: Formula) -> None:
    """Patches have no order for these measures, and rows need not be normalised."""
    rows = attention(7, 4, P)
    order = torch.randperm(P, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(formula(rows[..., order]), formula(rows), atol=1e-12)
    for scale in (1e-30, 0.3, 1e30):
        assert torch.allclose(formula(scale * rows), formula(rows), atol=1e-12)


def test_the_order_of_heads_does_not_matter() -> None:
    """Heads have no order either."""
    rows = attention(7, 4, P)
    assert torch.allclose(head_diversity(rows.flip(-2)), head_diversity(rows), atol=1e-12)
    by_head = head_diversity_by_head(rows)
    assert torch.allclose(head_diversity_by_head(rows.flip(-2)), by_head.flip(-1), atol=1e-12)


@pytest.mark.parametrize("formula", OF_ATTENTION)
def test_rows_do_not_touch_each_other(formula: Formula) -> None:
    """Any leading shape is a batch: the result of one element is that of the element alone."""
    rows = attention(3, 2, 4, P)
    whole = formula(rows)
    assert whole.shape == rows.shape[: whole.ndim]
    assert torch.allclose(whole[1, 1], formula(rows[1, 1]), atol=1e-13)


def test_sharper_attention_moves_every_measure_the_right_way() -> None:
    """Positive control: each measure knows even from sharp attention."""
    even, sharp = attention(100, 6, P, sharp=0.5), attention(100, 6, P, sharp=4.0)
    assert entropy(sharp).mean() < entropy(even).mean()
    assert effective_receptive_field(sharp).mean() < effective_receptive_field(even).mean()
    assert gini(sharp).mean() > gini(even).mean()
    assert head_diversity(sharp).mean() > head_diversity(even).mean()
    assert sink_share(sharp).mean() > sink_share(even).mean()


def test_sink_patches_see_registers() -> None:
    """Positive control: patches made five times as long are counted, one by one, at any scale."""
    norms = 10 + attention(7, 196, sharp=1.0)
    assert sink_patches(norms).tolist() == [0] * 7
    for count in (1, 2, 9):
        long = norms.clone()
        long[:, 3 : 3 + count] *= 5
        assert sink_patches(long).tolist() == [count] * 7
        assert sink_patches(1e-6 * long.float()).tolist() == [count] * 7
        assert sink_patches(long.half()).tolist() == [count] * 7
        order = torch.randperm(196, generator=torch.Generator().manual_seed(0))
        assert sink_patches(long[:, order]).tolist() == [count] * 7
        assert sink_patches(long, factor=6.0).tolist() == [0] * 7


@pytest.mark.parametrize("size", [1, 10, 100, 1000, 1 << 17])
def test_entropy_in_pieces_is_entropy(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many weights are taken at a time is a question of speed: no value, order or gradient changes."""
    rows = attention(2, 3, 5, P)
    expected = torch.from_numpy(scipy.stats.entropy(rows.numpy(), axis=-1))
    monkeypatch.setattr("clipdrift.formulas.attention._CHUNK", size)
    assert torch.allclose(entropy(rows), expected, atol=1e-12)
    assert torch.allclose(entropy(rows.transpose(0, 2)), expected.transpose(0, 2), atol=1e-12)
    assert torch.allclose(entropy(rows[:, 1:]), expected[:, 1:], atol=1e-12)
    assert entropy(rows[0, 0, 0]).item() == pytest.approx(expected[0, 0, 0].item())
    assert entropy(rows[:, :0]).shape == (2, 0, 5)
    few = attention(3, 2, 6, sharp=1.0).requires_grad_()
    assert torch.autograd.gradcheck(entropy, (few,))
    rows[1, 2, 4, 7] = math.nan
    with pytest.raises(ValueError, match="nan or inf"):
        entropy(rows)


@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-30, 1e30, 1e37])
def test_entropy_of_float32_has_no_scale(scale: float) -> None:
    """Also where weights, or their products with their logs, leave float32's normal numbers."""
    rows = torch.tensor([[1.0, 1.0, 2.0, 0.0], [3.0, 1.0, 0.0, 0.0]])
    expected = scipy.stats.entropy(rows.double().numpy(), axis=-1).tolist()
    assert entropy(rows * scale).tolist() == pytest.approx(expected, rel=1e-2 if scale < 1e-40 else 1e-6)


@pytest.mark.parametrize("patches", [49, 196])
def test_full_mass_survives_rounding(patches: int) -> None:
    """Weights that sum to a little less than one in float32 must not fail or pass P at mass 1."""
    rows = attention(2000, patches, sharp=1.0, dtype=torch.float32)
    assert (effective_receptive_field(rows, 1.0) == 1).all()
    rows[:, 20:] = 0
    assert (effective_receptive_field(rows, 1.0) == torch.tensor(20 / patches)).all()


@pytest.mark.parametrize("formula", OF_ATTENTION)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised_first(formula: Formula, dtype: torch.dtype) -> None:
    """Sums, logs and ranks in half precision would give nan or the wrong third digit."""
    half = attention(50, 6, 196, sharp=6.0).to(dtype)
    found = formula(half)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert torch.allclose(found, formula(half.float()), atol=1e-4)
    assert torch.allclose(found.double(), formula(half.double()), atol=1e-4)


@pytest.mark.parametrize("formula", OF_ATTENTION)
def test_float32_is_near_float64(formula: Formula) -> None:
    """What penalties compute in float32 is what measures compute in float64."""
    rows = attention(50, 6, P)
    found = formula(rows.float())
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), formula(rows), atol=1e-5)


# --- errors


@pytest.mark.parametrize("formula", OF_ATTENTION)
@pytest.mark.parametrize(
    ("value", "message"),
    [(math.nan, "nan or inf"), (math.inf, "nan or inf"), (-math.inf, "nan or inf"), (-1e-3, "negative")],
)
def test_one_bad_weight_is_an_error(formula: Formula, value: float, message: str) -> None:
    """A bad weight anywhere must never become a number, least of all an average."""
    rows = attention(3, 4, P)
    rows[1, 2, 5] = value
    with pytest.raises(ValueError, match=message):
        formula(rows)


@pytest.mark.parametrize("formula", OF_ATTENTION)
def test_negative_rows_are_an_error_whatever_they_sum_to(formula: Formula) -> None:
    """Divided by a negative sum they would look like attention."""
    rows = attention(3, 4, P)
    rows[1, 2] = -rows[1, 2]
    with pytest.raises(ValueError, match="negative"):
        formula(rows)
    rows[1, 2] = torch.tensor([1.0, -1.0] + [0.0] * (P - 2))
    with pytest.raises(ValueError, match=r"negative|sum to zero"):
        formula(rows)


@pytest.mark.parametrize("formula", OF_ATTENTION)
def test_a_row_of_zeros_is_an_error(formula: Formula) -> None:
    """0/0 has no value."""
    rows = attention(3, 4, P)
    rows[0, 1] = 0
    with pytest.raises(ValueError, match="sum to zero"):
        formula(rows)


def test_a_sum_that_overflows_is_an_error() -> None:
    """Finite weights over an infinite sum would be a row of zeros, and its entropy 0."""
    with pytest.raises(ValueError, match="overflows"):
        entropy(torch.full((4,), 3e38))


@pytest.mark.parametrize("mass", [0.0, -0.1, 1.0001, math.nan, math.inf])
def test_mass_is_a_share(mass: float) -> None:
    """A mass that can never be reached, or always is, is a mistake."""
    with pytest.raises(ValueError, match="mass = "):
        effective_receptive_field(attention(P), mass)


def test_one_patch_or_one_head_is_too_few() -> None:
    """ln 1 and the mean over no pairs are divisions by zero."""
    with pytest.raises(ValueError, match="two patches"):
        normalised_entropy(torch.ones(3, 1))
    for formula in (head_diversity, head_diversity_by_head):
        with pytest.raises(ValueError, match="two heads"):
            formula(attention(3, 1, P))


@pytest.mark.parametrize("formula", [entropy, effective_receptive_field, gini, sink_share])
def test_no_patches_at_all(formula: Formula) -> None:
    """A row of nothing has no distribution."""
    with pytest.raises(ValueError, match="no patches"):
        formula(torch.ones(3, 0))


@pytest.mark.parametrize(
    ("value", "message"), [(math.nan, "nan or inf"), (math.inf, "nan or inf"), (-1.0, "negative")]
)
def test_sink_patches_refuse_what_is_no_norm(value: float, message: str) -> None:
    """A nan compares as not longer, and would leave the count."""
    norms = attention(3, P)
    norms[1, 5] = value
    with pytest.raises(ValueError, match=message):
        sink_patches(norms)


def test_sink_patches_need_patches_and_a_factor() -> None:
    """A factor of 0 or nan would count all patches or none."""
    for factor in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="factor = "):
            sink_patches(attention(P), factor)
    with pytest.raises(ValueError, match="no patches"):
        sink_patches(torch.ones(3, 0))


# --- gradients


@pytest.mark.parametrize(
    "formula", [entropy, normalised_entropy, gini, head_diversity, head_diversity_by_head, sink_share]
)
def test_gradients_are_numerically_right(formula: Formula) -> None:
    """Penalties train through these."""
    rows = attention(2, 3, 6, sharp=1.0).requires_grad_()
    assert torch.autograd.gradcheck(formula, (rows,))


@pytest.mark.parametrize("formula", [entropy, gini, head_diversity, sink_share])
def test_gradients_survive_a_softmax_that_underflows(formula: Formula) -> None:
    """A weight of exactly 0 gets no gradient through softmax, and none of the others becomes nan."""
    scores = torch.tensor([[0.0, 1.0, -200.0], [0.5, 0.0, 1.0]], requires_grad=True)
    formula(scores.softmax(-1)).sum().backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[0, 2] == 0
    assert (scores.grad[0, :2] != 0).all()
