"""Every formula against an oracle, its properties, its errors and its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import unwrap

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from clipdrift.formulas import (
    cka,
    effective_receptive_field,
    embedding_drift,
    entropy,
    gini,
    head_diversity,
    normalised_entropy,
    weight_drift,
)

P = 49
PER_ROW: list[Callable[[Tensor], Tensor]] = [entropy, normalised_entropy, effective_receptive_field, gini]
OF_ATTENTION = [*PER_ROW, head_diversity]


def attention(*shape: int, seed: int = 0, sharp: float = 3.0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (sharp * torch.randn(*shape, generator=generator, dtype=torch.float64)).softmax(-1).to(dtype)


def one_hot(patches: int = P) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(3), patches).double()


def loop_erf(row: np.ndarray, mass: float) -> float:
    held, k = 0.0, 0
    for value in sorted(row / row.sum(), reverse=True):
        held, k = held + value, k + 1
        if held >= mass - 1e-12:
            break
    return k / len(row)


def loop_gini(row: np.ndarray) -> float:
    # mean absolute difference over twice the mean: the other textbook definition
    differences = [abs(a - b) for a in row for b in row]
    return sum(differences) / len(row) ** 2 / (2 * row.mean())


def loop_head_diversity(heads: np.ndarray) -> float:
    cosines = [
        heads[i] @ heads[j] / math.sqrt((heads[i] @ heads[i]) * (heads[j] @ heads[j]))
        for i in range(len(heads))
        for j in range(i)
    ]
    return 1 - sum(cosines) / len(cosines)


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


# --- extremes


@pytest.mark.parametrize("patches", [2, 49, 196])
def test_even_attention(patches: int) -> None:
    """One end of each range is reached where attention is even."""
    rows = torch.full((3, patches), 1 / patches, dtype=torch.float64)
    assert entropy(rows).tolist() == pytest.approx([math.log(patches)] * 3)
    assert normalised_entropy(rows).tolist() == pytest.approx([1] * 3)
    assert gini(rows).tolist() == pytest.approx([0] * 3, abs=1e-12)
    assert effective_receptive_field(rows, 1.0).tolist() == [1] * 3
    assert effective_receptive_field(rows, 0.5).tolist() == [math.ceil(patches / 2) / patches] * 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mass", [1e-9, 0.95, 1.0])
def test_all_attention_on_one_patch(dtype: torch.dtype, mass: float) -> None:
    """The other end of each range, where a log of zero lurks."""
    row = one_hot().to(dtype)
    assert entropy(row) == 0
    assert gini(row).item() == pytest.approx(1 - 1 / P, abs=1e-6)
    assert effective_receptive_field(row, mass).item() == pytest.approx(1 / P, abs=1e-7)


def test_head_diversity_extremes() -> None:
    """Equal heads have none, heads without a common patch have all."""
    assert head_diversity(attention(P).expand(12, P)).item() == pytest.approx(0, abs=1e-12)
    assert head_diversity(torch.eye(6, P, dtype=torch.float64)).item() == 1


# --- properties


@pytest.mark.parametrize("formula", OF_ATTENTION)
def test_the_order_of_patches_and_the_scale_do_not_matter(formula: Callable[[Tensor], Tensor]) -> None:
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


@pytest.mark.parametrize("formula", OF_ATTENTION)
def test_rows_do_not_touch_each_other(formula: Callable[[Tensor], Tensor]) -> None:
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


@pytest.mark.parametrize("patches", [49, 196])
def test_full_mass_survives_rounding(patches: int) -> None:
    """Weights that sum to a little less than one in float32 must not fail or pass P at mass 1."""
    rows = attention(2000, patches, sharp=1.0, dtype=torch.float32)
    assert (effective_receptive_field(rows, 1.0) == 1).all()
    rows[:, 20:] = 0
    assert (effective_receptive_field(rows, 1.0) == torch.tensor(20 / patches)).all()


@pytest.mark.parametrize("formula", OF_ATTENTION)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised_first(formula: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    """Sums, logs and ranks in half precision would give nan or the wrong third digit."""
    half = attention(50, 6, 196, sharp=6.0).to(dtype)
    found = formula(half)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert torch.allclose(found, formula(half.float()), atol=1e-4)
    assert torch.allclose(found.double(), formula(half.double()), atol=1e-4)


@pytest.mark.parametrize("formula", OF_ATTENTION)
def test_float32_is_near_float64(formula: Callable[[Tensor], Tensor]) -> None:
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
def test_one_bad_weight_is_an_error(formula: Callable[[Tensor], Tensor], value: float, message: str) -> None:
    """A bad weight anywhere must never become a number, least of all an average."""
    rows = attention(3, 4, P)
    rows[1, 2, 5] = value
    with pytest.raises(ValueError, match=message):
        formula(rows)


@pytest.mark.parametrize("formula", OF_ATTENTION)
def test_a_row_of_zeros_is_an_error(formula: Callable[[Tensor], Tensor]) -> None:
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
    with pytest.raises(ValueError, match="two heads"):
        head_diversity(attention(3, 1, P))


# --- gradients


@pytest.mark.parametrize("formula", [entropy, normalised_entropy, gini, head_diversity])
def test_gradients_are_numerically_right(formula: Callable[[Tensor], Tensor]) -> None:
    """Penalties train through these."""
    rows = attention(2, 3, 6, sharp=1.0).requires_grad_()
    assert torch.autograd.gradcheck(formula, (rows,))


@pytest.mark.parametrize("formula", [entropy, gini, head_diversity])
def test_gradients_survive_a_softmax_that_underflows(formula: Callable[[Tensor], Tensor]) -> None:
    """A weight of exactly 0 gets no gradient through softmax, and none of the others becomes nan."""
    scores = torch.tensor([[0.0, 1.0, -200.0], [0.5, 0.0, 1.0]], requires_grad=True)
    formula(scores.softmax(-1)).sum().backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[0, 2] == 0
    assert (scores.grad[0, :2] != 0).all()


# --- CKA


def gaussians(n: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def centred_gram_cka(x: Tensor, y: Tensor) -> float:
    h = np.eye(len(x)) - 1 / len(x)
    k, m = (h @ z.numpy() @ z.numpy().T @ h for z in (x, y))
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def loop_unbiased_hsic(k: Tensor, m: Tensor) -> float:
    """Song et al. 2012, eq. 4: over all quadruples of different images, one sum at a time."""
    n = len(k)
    pairs = sum(float(k[i, j] * m[i, j]) for i in range(n) for j in range(n) if i != j)
    quads = triples = 0.0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                if len({i, j, q}) == 3:
                    triples += float(k[i, j] * m[i, q])
                    quads += sum(float(k[i, j] * m[q, r]) for r in range(n) if r not in (i, j, q))
    falling = [math.perm(n, r) for r in (2, 3, 4)]
    return pairs / falling[0] - 2 * triples / falling[1] + quads / falling[2]


def related(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = gaussians(n, 12, seed)
    return x, torch.cat([x[:, :5] + 0.5 * gaussians(n, 5, seed + 1), gaussians(n, 3, seed + 2)], dim=1)


def test_biased_cka_is_the_centred_gram_definition() -> None:
    """Kornblith et al. 2019, by the centring matrix and by features."""
    x, y = related(40)
    assert cka(x, y, debiased=False).item() == pytest.approx(centred_gram_cka(x, y), abs=1e-12)
    xc, yc = x - x.mean(0), y - y.mean(0)
    by_features = (xc.T @ yc).norm() ** 2 / ((xc.T @ xc).norm() * (yc.T @ yc).norm())
    assert cka(x, y, debiased=False).item() == pytest.approx(by_features.item(), abs=1e-12)


@pytest.mark.parametrize("n", [4, 5, 9])
def test_debiased_cka_is_the_u_statistic(n: int) -> None:
    """The closed form must equal the sum over all quadruples of images, without centring first."""
    x, y = related(n, seed=n)
    k, m = x @ x.T, y @ y.T
    expected = loop_unbiased_hsic(k, m) / math.sqrt(loop_unbiased_hsic(k, k) * loop_unbiased_hsic(m, m))
    assert cka(x, y).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_is_invariant_to_rotation_shift_and_scale(debiased: bool) -> None:
    """What a following linear layer can undo is no change."""
    x, y = related(30)
    rotation = torch.linalg.qr(gaussians(12, 12, seed=5)).Q
    value = cka(x, y, debiased).item()
    assert 0.2 < value < 0.9
    for moved in (x @ rotation, x + 50, 1e-3 * x, 1e3 * x, 1e-20 * x, x @ rotation * 7 - 3):
        assert cka(moved, y, debiased).item() == pytest.approx(value, abs=1e-10)
    assert cka(y, x, debiased).item() == pytest.approx(value, abs=1e-12)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    assert cka(x[order], y[order], debiased).item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_cka_of_a_representation_with_itself_is_one(debiased: bool, dtype: torch.dtype) -> None:
    """Drift of nothing is nothing, at any precision of the states."""
    x = gaussians(20, 8).to(dtype)
    value = cka(x, x, debiased)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("n", "biased"), [(32, 0.96), (200, 0.79), (2000, 0.28)])
def test_cka_of_unrelated_features(n: int, biased: float) -> None:
    """Why the debiased estimate leads: the biased one calls unrelated wide features alike."""
    x, y = gaussians(n, 768, seed=1), gaussians(n, 768, seed=2)
    assert cka(x, y, debiased=False).item() == pytest.approx(biased, abs=0.01)
    assert cka(x, y).item() == pytest.approx(0, abs=0.05 if n > 32 else 0.1)


def test_debiased_cka_is_unbiased_on_average() -> None:
    """At few images one value scatters, but around zero; the biased one never comes near."""
    values = [cka(gaussians(8, 20, seed=2 * s), gaussians(8, 20, seed=2 * s + 1)).item() for s in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(200)
    assert min(values) < 0


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_sees_one_moved_image(debiased: bool) -> None:
    """Positive control: one image of fifty that jumps lowers it, further jumps lower it more."""
    x = gaussians(50, 16)
    values = []
    for jump in (0.0, 5.0, 20.0, 100.0):
        y = x.clone()
        y[7] += jump * gaussians(1, 16, seed=9)[0]
        values.append(cka(x, y, debiased).item())
    assert values[0] == pytest.approx(1)
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.5


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("n", [5, 33, 100, 333])
@pytest.mark.parametrize("size", [0.0, 0.1, 1234.567, 1e6])
def test_cka_of_a_constant_is_an_error(debiased: bool, n: int, size: float) -> None:
    """0/0: the mean of equal numbers differs from them by rounding, and that must not become a CKA."""
    constant = size * gaussians(1, 16).expand(n, 16)
    other = gaussians(n, 16, seed=3)
    for x, y in ((constant, other), (other, constant), (constant.float(), other.float())):
        with pytest.raises(ValueError, match="same for every image"):
            cka(x, y, debiased)


@pytest.mark.parametrize("n", [4, 7, 13, 33, 100, 333])
@pytest.mark.parametrize("size", [0.1, 1234.567])
def test_debiased_cka_of_a_single_outlier_is_an_error(n: int, size: float) -> None:
    """All images alike but one: the unbiased HSIC is exactly 0, computed as rounding noise of either sign."""
    x = (size * gaussians(1, 16)).repeat(n, 1)
    x[3] += gaussians(1, 16, seed=4)[0]
    with pytest.raises(ValueError, match="all but one"):
        cka(x, gaussians(n, 16, seed=3))
    assert 0 < cka(x, gaussians(n, 16, seed=3), debiased=False).item() <= 1


def test_cka_refuses_what_it_cannot_compare() -> None:
    """Too few images, other images, nan."""
    x = gaussians(10, 4)
    with pytest.raises(ValueError, match="at least 4 images, got 3"):
        cka(x[:3], x[:3])
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        cka(x[:1], x[:1], debiased=False)
    assert cka(x[:2], x[:2], debiased=False).item() == pytest.approx(1)
    with pytest.raises(ValueError, match="got 10 and 9"):
        unwrap(cka)(x, x[:9])  # as users call it, without the shape checks of the tests
    for bad in (math.nan, math.inf):
        y = x.clone()
        y[3, 2] = bad
        with pytest.raises(ValueError, match="nan or inf"):
            cka(x, y)


@pytest.mark.parametrize("debiased", [True, False])
def test_cka_has_a_right_gradient(debiased: bool) -> None:
    """A penalty may keep it high."""
    x, y = related(6)
    assert torch.autograd.gradcheck(lambda a: cka(a, y, debiased), (x.requires_grad_(),))


# --- embeddings and weights


def test_embedding_drift_knows_its_three_landmarks() -> None:
    """The same is 0, orthogonal 1, opposite 2, whatever the lengths."""
    x = torch.eye(6, 8)
    assert embedding_drift(x, 3 * x).item() == 0
    assert embedding_drift(x, x.roll(1, 1)).item() == 1
    assert embedding_drift(x, -0.1 * x).item() == 2
    assert embedding_drift(x, torch.cat([x[:3], -x[3:]])).item() == 1


def test_embedding_drift_is_the_mean_over_images() -> None:
    """Against SciPy's cosine distance, image by image."""
    x, y = gaussians(9, 5), gaussians(9, 5, seed=1)
    expected = np.mean([scipy.spatial.distance.cosine(a, b) for a, b in zip(x, y, strict=True)])
    assert embedding_drift(x, y).item() == pytest.approx(expected, abs=1e-12)
    z = gaussians(500, 33).half()
    assert 0 <= embedding_drift(z, z).item() < 1e-12


def test_embedding_drift_refuses_what_has_no_direction() -> None:
    """No length, no image, nan or another shape has no cosine."""
    x = gaussians(4, 3)
    for bad in (0.0, math.nan, math.inf):
        y = x.clone()
        y[2] = bad
        with pytest.raises(ValueError, match="nan, inf or zero length"):
            embedding_drift(x, y)
    with pytest.raises(ValueError, match="do not fit"):
        unwrap(embedding_drift)(x, x[:3])
    with pytest.raises(ValueError, match="do not fit"):
        embedding_drift(x[:0], x[:0])


def test_embedding_drift_has_a_right_gradient() -> None:
    """A penalty may keep it low."""
    x, y = gaussians(3, 4), gaussians(3, 4, seed=1)
    assert torch.autograd.gradcheck(lambda a: embedding_drift(a, y), (x.requires_grad_(),))


def test_weight_drift_by_hand() -> None:
    """Over all tensors together, not a mean of ratios: sqrt(9 + 16) / sqrt(4 + 0 + 96)."""
    before = {"a": torch.tensor([2.0, 0.0]), "b": torch.full((2, 3), 4.0)}
    after = {"b": before["b"].clone(), "a": torch.tensor([5.0, 4.0])}
    assert weight_drift(before, after).item() == pytest.approx(5 / 10)
    assert weight_drift(before, before).item() == 0
    assert weight_drift(before, {k: 1.5 * v for k, v in before.items()}).item() == pytest.approx(0.5)
    assert weight_drift(before, {k: -v for k, v in before.items()}).item() == pytest.approx(2)


def test_weight_drift_does_not_depend_on_the_unit() -> None:
    """A relative change has no scale, and half precision weights are summed in float64."""
    before = {"a": gaussians(30, 30).half()}
    after = {"a": (before["a"].double() + 0.1 * gaussians(30, 30, seed=1)).half()}
    expected = ((after["a"].double() - before["a"].double()).norm() / before["a"].double().norm()).item()
    assert weight_drift(before, after).item() == pytest.approx(expected, rel=1e-12)
    scaled = [{"a": 1e4 * side["a"].double()} for side in (before, after)]
    assert weight_drift(*scaled).item() == pytest.approx(expected, rel=1e-12)


def test_weight_drift_refuses_what_does_not_fit() -> None:
    """A name or shape that is on one side only would silently be left out or broadcast."""
    w = {"a": torch.ones(2, 2), "b": torch.ones(1)}
    with pytest.raises(ValueError, match=r"1 names on one side only, for example b"):
        weight_drift(w, {"a": w["a"]})
    with pytest.raises(ValueError, match=r"b: shape \(1,\) before, \(2,\) after"):
        weight_drift(w, w | {"b": torch.ones(2)})
    with pytest.raises(ValueError, match="nan or inf"):
        weight_drift(w, w | {"b": torch.tensor([math.nan])})
    with pytest.raises(ValueError, match="all zero"):
        weight_drift({"a": torch.zeros(2)}, {"a": torch.ones(2)})
